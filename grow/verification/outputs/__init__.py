"""Both models answer the same probes, and the answers are compared."""
