"""An accelerator that isn't there: the time its batches take, its memory, its power."""
