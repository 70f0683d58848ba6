"""Decoders whose layers keep a state instead of attention, or beside it, one file each."""
