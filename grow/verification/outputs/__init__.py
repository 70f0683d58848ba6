"""Both models answer the same probes, and their outputs are compared."""
