"""PALDIA serves models on mixed hardware within a latency objective, as cheaply as it can."""

from importlib.metadata import version

__version__ = version("paldia")
