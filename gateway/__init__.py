"""HTTP in, HTTP out: the only web framework."""
