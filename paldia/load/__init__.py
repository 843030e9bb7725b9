"""Open-loop load against any server of the inference protocol."""
