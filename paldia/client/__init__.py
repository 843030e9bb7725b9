"""The Python SDK: everything the command line can do."""
