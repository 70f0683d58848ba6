"""The command line: thin layers over the functions of the same names."""

from grow.cli.entry_point import main

__all__ = ["main"]
