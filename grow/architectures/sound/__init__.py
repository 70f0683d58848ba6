"""Encoders of sound, one file each."""
