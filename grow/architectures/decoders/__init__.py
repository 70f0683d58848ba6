"""Decoders: causal language models, one file each."""
