"""More requests than can be served: what becomes of them, and how soon it is over."""
