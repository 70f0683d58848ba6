"""A plan is applied: rows of old tensors become rows of new ones, a few at a time."""
