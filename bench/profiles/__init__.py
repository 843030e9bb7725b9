"""How well profiles foretell what wasn't measured, on this machine's processor."""
