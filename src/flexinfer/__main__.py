"""`python -m flexinfer` is the `flexinfer` command."""

from flexinfer.cli import main

main()
