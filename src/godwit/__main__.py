"""`python -m godwit` is the command `godwit`."""

from godwit.cli.main import main

main()
