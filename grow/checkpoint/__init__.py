"""A whole checkpoint: its folder opened, its tensors under the names of its family, pickles read for verification."""
