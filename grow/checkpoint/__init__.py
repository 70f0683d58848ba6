"""A whole checkpoint: its folder opened, its tensors under the names of its family, pickled weights for verification."""
