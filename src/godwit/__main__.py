"""`python -m godwit` is the command `godwit`."""

import sys

from godwit.cli.main import main

sys.exit(main())
