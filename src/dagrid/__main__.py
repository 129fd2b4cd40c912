"""`python -m dagrid` is the command `dagrid`."""

from __future__ import annotations

from dagrid.cli import script

if __name__ == "__main__":
    script()
