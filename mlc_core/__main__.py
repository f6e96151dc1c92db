"""`python -m mlc_core` is the command `mlc`."""

import sys

from mlc_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
