"""`python -m godwit` is the command `godwit`."""

import sys

from godwit.cli.start import main

sys.exit(main())
