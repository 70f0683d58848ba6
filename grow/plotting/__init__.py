"""Loss against cost: curves, what one saved of another, and the picture."""
