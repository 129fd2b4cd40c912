"""`dagrid logs`: what a run, or a step of one, has written, and what it goes on to write."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.runs import check_step, chosen_step, run_argument, step_argument, steps_of
from dagrid.errors import DagridError, InvalidSettingError, UnknownRunError
from dagrid.history import file_name

# Seconds between two looks at a file that grows.
PAUSE = 0.1
PIECE = 1 << 16


@command(
    "logs",
    run_argument(required=False),
    step_argument(),
    examples=("dagrid logs nightly", "dagrid logs -f nightly fetch", "dagrid logs nightly fetch --stderr -n 20"),
)
def logs_command(call: Call, run: str | None, step: str | None) -> None:
    """Show what happened in a run or, with a STEP, what that has written: to standard output, and to standard error.

    RUN is an id, the beginning of one, or a name for its newest run.
    """
    info, step = chosen_step(call, run, step)
    folder = call.history.folder(info.run)
    if not folder.is_dir():
        host = call.history.about(info.run).host
        raise UnknownRunError(
            f"The logs of run {info.run!r} are not here" + (f", but on {host}." if host else "."), info.run
        )
    streams = _streams(call, info.run, folder, step)
    lines = call.config["logs.lines"]
    followed = call.config["logs.follow"]
    tails = [Tail(path, stream, lines) for path, stream in streams]
    if not followed and step is not None and not any(path.exists() for path, _ in streams):
        call.out.say(f"The step {step!r} of run {info.run} has written nothing.")
    follow(tails, lambda: followed and call.history.info(info.run).status == "running")


class Tail:
    """The end of a file that may grow.

    Args:
        path: of the file, which may come later.
        to: where it is copied.
        lines: how many lines from the end; None is all.
    """

    def __init__(self, path: Path, to: IO[bytes], lines: int | None) -> None:
        self._path = path
        self._to = to
        self._lines = lines
        self._file: IO[bytes] | None = None

    def copy(self) -> bool:
        """Copy what there is now, and return whether there was anything."""
        if self._file is None:
            try:
                self._file = open(self._path, "rb")  # noqa: SIM115  # until `close`
            except FileNotFoundError:
                return False
            if self._lines is not None:
                self._file.seek(_before(self._file, self._lines))
        found = False
        while data := self._file.read(PIECE):
            self._to.write(data)
            found = True
        if found:
            self._to.flush()
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def follow(tails: Sequence[Tail], more: Callable[[], bool]) -> None:
    """Copy files until there is nothing more to come, and nothing that has not been copied."""
    try:
        while True:
            expected = more()
            for tail in tails:
                tail.copy()
            if not expected:
                return
            time.sleep(PAUSE)
    finally:
        for tail in tails:
            tail.close()


def _streams(call: Call, run_id: str, folder: Path, step: str | None) -> list[tuple[Path, IO[bytes]]]:
    out, err = call.config["logs.stdout"], call.config["logs.stderr"]
    if out and err:
        raise InvalidSettingError("--stdout and --stderr each mean that only. Leave both out for both.")
    if step is None:
        return [(folder / "run.log", sys.stdout.buffer)]
    files = [folder / f"{file_name(step)}{suffix}" for suffix in (".out", ".err")]
    if not any(file.exists() for file in files):
        try:
            known = steps_of(call, run_id)
        except DagridError:  # its text or its functions are gone; the files tell
            known = sorted({file.stem for file in folder.glob("*.out")})
        check_step(known, step, run_id)
    if out:
        return [(files[0], sys.stdout.buffer)]
    if err:
        return [(files[1], sys.stdout.buffer)]
    return [(files[0], sys.stdout.buffer), (files[1], sys.stderr.buffer)]


def _before(file: IO[bytes], lines: int) -> int:
    """Return where the last so many lines of a file begin."""
    position = end = file.seek(0, os.SEEK_END)
    wanted = lines
    while position > 0 and wanted >= 0:
        start = max(position - PIECE, 0)
        file.seek(start)
        data = file.read(position - start)
        at = len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            if start + at == end - 1:  # the end of the last line is not that of one before it
                continue
            wanted -= 1
            if wanted <= 0:
                return start + at + 1 if lines else end
        position = start
    return 0 if lines else end
