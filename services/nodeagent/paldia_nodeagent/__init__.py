"""Runs Triton on one machine as the controller wants it, and reports."""
