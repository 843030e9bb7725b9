"""How fast the planner is, and how near to the cheapest placement it comes."""
