"""Chooses hardware and sharing for every model, and tells agents and frontends."""
