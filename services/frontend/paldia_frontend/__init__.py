"""Routes, batches and protects inference calls in Triton's own protocol."""
