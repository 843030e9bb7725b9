"""Does the simulator tell the truth: the same requests through a live cluster and through it."""
