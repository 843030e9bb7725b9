"""Generated from protos/; see `make generate`."""
