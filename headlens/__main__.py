"""``python -m headlens``."""

from headlens.cli import main

main()
