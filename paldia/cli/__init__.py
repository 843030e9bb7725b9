"""The `paldia` command."""
