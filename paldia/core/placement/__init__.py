"""Which hardware, and which nodes: every candidate with its reason."""
