"""Evidence that a grown checkpoint computes what its source computes: a ladder of checks."""
