"""Where protobuf meets the core: the wire contract and its conversions."""
