"""Checks of the stored weights, without a forward pass."""
