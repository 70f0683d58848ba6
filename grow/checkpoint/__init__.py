"""Checkpoints on disk: `header` (a safetensors file), `locate` (where it lies), `reader` (a whole folder)."""
