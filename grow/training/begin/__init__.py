"""How a run begins or goes on."""
