"""How a way to share a device serves a demand: for one model, or for arrays of them."""
