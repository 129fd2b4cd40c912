"""`python -m dagrid` is the command `dagrid`."""

from __future__ import annotations

import sys

from dagrid.cli import main

if __name__ == "__main__":
    sys.exit(main())
