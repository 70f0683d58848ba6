"""A wish becomes a plan: sizes, maps, layers and tensors. No weight is read."""
