"""Stock classes of transformers, loaded and run without surprises."""
