"""The command `dagrid`: what is typed becomes calls to the rooms below, and what comes back becomes text and exit codes.

It needs the extra `cli`. What a command does not use it does not import, for people wait for it. What a run is is decided below.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

MISSING, INTERRUPTED = 2, 3


def script() -> NoReturn:
    """Be the program `dagrid`: run the command, and end the process with its exit code.

    What is loaded is neither searched for garbage nor taken apart at the end, which would cost a short command a quarter of its
    time; a command that lasts turns the collector on again, see `dagrid.cli.garbage`.
    """
    gc.disable()
    try:
        code = main()
    except KeyboardInterrupt:  # while the command itself was being loaded
        code = INTERRUPTED
        with suppress(OSError, ValueError):
            sys.stderr.write("dagrid: interrupted\n")
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # noqa: SLF001  # what the interpreter does as well
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # nobody reads it any more, which is no failure of ours
    except (OSError, ValueError):
        code = code or 1
    with suppress(OSError, ValueError):
        sys.stderr.flush()  # talk that nobody gets changes nothing
    os._exit(code)


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
