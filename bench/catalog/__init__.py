"""How well the catalog's rules predict what is known, and where its CPU figures come from."""
