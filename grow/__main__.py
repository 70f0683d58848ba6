"""`python -m grow` is `grow`."""

from grow.cli import main

main()
