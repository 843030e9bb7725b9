"""The frontend's kernel: batches, lanes, refusals."""
