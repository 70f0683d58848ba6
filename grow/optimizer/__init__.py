"""The state of an optimizer, grown with the weights that it belongs to."""
