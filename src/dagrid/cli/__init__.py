"""The command `dagrid`: what is typed becomes calls to the rooms below, and what comes back becomes text and exit codes.

It needs the extra `cli`. What a command does not use it does not import, for people wait for it. What a run is is decided below.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

MISSING = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see `dagrid.cli.exits`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
    try:
        import click as _click  # noqa: F401  # only to see whether it is there
    except ImportError as error:
        sys.stderr.write(
            f"dagrid: the command line needs {error.name}, which is not installed: pip install 'dagrid[cli]'\n"
        )
        return MISSING
    from dagrid.cli.app import run

    return run(sys.argv[1:] if arguments is None else list(arguments))
