"""The token files of a run, and what a model learns from them."""
