"""What a user is told of an error: one line and an exit code; of a fault of dagrid's also where the full report is."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from time import strftime

import click

from dagrid.cli.exits import Exit, exit_of_error
from dagrid.cli.options import last_call
from dagrid.cli.output import ReaderGoneError, talk
from dagrid.config import Config
from dagrid.errors import DagridError, InternalError, WorkflowError

ISSUES = "the maintainers of dagrid"


def told(error: BaseException, arguments: Sequence[str]) -> int:
    """Tell of the error that ends a command, and return the exit code."""
    if isinstance(error, click.ClickException):
        return _refused(error, arguments)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        _complain("interrupted", error, Exit.INTERRUPTED)
        return Exit.INTERRUPTED
    if isinstance(error, ReaderGoneError):
        # What is still to be written need not be.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.SUCCESS
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else Exit.USAGE if error.code else Exit.SUCCESS
    code = exit_of_error(error)
    if code is Exit.FAULT or isinstance(error, InternalError):
        return _fault(error, arguments)
    _complain(_words(error), error, code)
    return code


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, DagridError):
        if isinstance(error, FileNotFoundError) and not error.filename and _is_nowhere():
            return "The current folder is gone. Go to one that is there."
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    notes = getattr(error, "__notes__", [])
    return "\n".join([str(error) or type(error).__name__, *notes])


def _is_nowhere() -> bool:
    """Whether the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _refused(error: click.ClickException, arguments: Sequence[str]) -> int:
    """Tell what is wrong with a command line. No call has been made of it, so it is asked itself whether JSON is wanted."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stdout.write(f"{error.format_message()}\n")
        return Exit.USAGE
    if _asks_for_json(arguments):
        _record(error.format_message(), error, Exit.USAGE)
        return Exit.USAGE
    context = error.ctx if isinstance(error, click.UsageError) else None
    talk(f"dagrid: {error.format_message()}\n")
    if context is not None:
        talk(f"{context.get_usage()}\nTry '{context.command_path} --help'.\n")
    return Exit.USAGE


def _asks_for_json(arguments: Sequence[str]) -> bool:
    said = [word for word in takewhile(lambda word: word != "--", arguments) if word in ("--json", "--no-json")]
    if said:
        return said[-1] == "--json"
    try:
        return bool(Config()["json"])
    except DagridError:  # the settings are wrong too
        return False


def _complain(words: str, error: BaseException, code: int) -> None:
    if _said("json"):
        _record(words, error, code)
        return
    # The lines of a workflow's problems begin with their places already.
    lead = "" if isinstance(error, WorkflowError) else "dagrid: "
    talk(f"{lead}{words}\n")
    if _said("debug"):
        traceback.print_exception(error)


def _record(words: str, error: BaseException, code: int) -> None:
    record = {"error": words, "kind": type(error).__name__, "code": int(code)}
    if isinstance(error, WorkflowError):
        record["problems"] = [one._asdict() for one in error.problems]
    talk(json.dumps(record, ensure_ascii=False) + "\n")


def _said(name: str) -> bool:
    call = last_call()
    try:
        return bool(call is not None and call.config[name])
    except DagridError:  # the settings are what is wrong
        return False


def _fault(error: BaseException, arguments: Sequence[str]) -> int:
    words = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    place = _report(error, arguments)
    kept = f"The full report is in {place}; please send it to {ISSUES}." if place else "No report could be kept."
    _complain(f"dagrid has a fault ({words}). {kept}", error, Exit.FAULT)
    return Exit.FAULT


def _report(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write all that is known of a fault into the home, or where there is room."""
    import platform

    import dagrid

    text = "\n".join(
        (
            f"dagrid {dagrid.__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"{strftime('%Y-%m-%d %H:%M:%S %z')}, process {os.getpid()}",
            f"command: {arguments[:1]}",  # what follows may be somebody's secret
            "",
            "".join(traceback.format_exception(error)),
        )
    )
    for folder in (_home(), Path(tempfile.gettempdir(), "dagrid")):
        if folder is None:
            continue
        try:
            path = folder / "faults" / f"{strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return path
    return None


def _home() -> Path | None:
    call = last_call()
    try:
        return None if call is None else call.config.home
    except DagridError:
        return None
