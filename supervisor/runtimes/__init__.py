"""How a plan becomes a child."""
