"""Enlarge a pretrained Transformer without changing a single output."""
