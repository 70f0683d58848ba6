"""Loss against cost: curves, savings, and the picture."""
