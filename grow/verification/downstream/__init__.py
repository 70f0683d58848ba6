"""Downstream tasks asked of both checkpoints."""
