"""Encoders with a decoder that reads them, one file each."""
