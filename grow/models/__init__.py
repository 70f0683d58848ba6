"""Stock models of transformers, loaded and run without surprises."""
