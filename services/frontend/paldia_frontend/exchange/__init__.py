"""Requests from the worker that took them to the worker that has their model's queue."""
