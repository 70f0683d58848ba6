"""Token files and what a model learns from them."""
