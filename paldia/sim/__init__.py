"""The second driver of the core: discrete events in virtual time."""
