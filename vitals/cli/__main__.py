"""`python -m vitals.cli` is the `vitals` command."""

from vitals.cli import main

main()
