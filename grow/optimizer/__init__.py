"""What an optimizer knows about a weight, grown with it."""
