"""Checks of one kind of behaviour each, beyond plain outputs."""
