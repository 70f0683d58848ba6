"""Growing where somebody else's loop trains: the stock Trainer, and loops with Accelerate."""
