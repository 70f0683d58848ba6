"""Decoders with experts in place of some FFNs, one file each."""
