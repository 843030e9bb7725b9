"""Half an hour of load: does any request fail, and does any process grow."""
