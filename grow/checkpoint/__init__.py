"""A whole checkpoint: its folder opened, and its tensors under the names of its family."""
