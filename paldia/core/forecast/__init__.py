"""Arrivals seen -> arrivals expected."""
