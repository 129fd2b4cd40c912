"""`dagrid logs`: what a run, or a step of one, has written, and what it goes on to write."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from dagrid.cli.calls import Call
from dagrid.cli.options import command
from dagrid.cli.output import Output
from dagrid.cli.runs import OF_A_RUN, check_step, chosen_step, run_argument, step_argument, steps_of
from dagrid.cli.tails import PAUSE, Records, Tail, follow
from dagrid.errors import DagridError, InvalidSettingError, UnknownRunError
from dagrid.history import INTERRUPTED, QUEUED, History, step_files
from dagrid.history.owners import host

STREAMS = ("stdout", "stderr")


@command(
    "logs",
    run_argument(),
    step_argument(),
    examples=("dagrid logs nightly", "dagrid logs -f nightly fetch", "dagrid logs nightly fetch --stderr -n 20"),
    completes=OF_A_RUN,
)
def logs_command(call: Call, run: str | None, step: str | None) -> None:
    """Show what happened in a run or, with a STEP, what that has written: to standard output, and to standard error.

    RUN is an id, the beginning of one, or a name for its newest run. With --json all goes to standard output, as a list of lines
    with their streams; with --follow each is a line of JSON.
    """
    info, step = chosen_step(call, run, step)
    followed = call.config["logs.follow"]
    while followed and call.history.info(info.run).status == QUEUED:  # where its files will be is not known yet
        time.sleep(PAUSE)
    folder = call.history.folder(info.run)
    if not folder.is_dir():
        if not call.history.has_begun(info.run):
            raise UnknownRunError(
                f"Run {info.run!r} is {call.history.info(info.run).status} and has written nothing.", info.run
            )
        about = call.history.about(info.run)
        where = f", but on {about.host}" if about.host not in ("", host()) else ""
        gone = f": {folder} is gone" if about.host and not where else ""
        raise UnknownRunError(f"The logs of run {info.run!r} are not here{where or gone}.", info.run)
    streams = _streams(call, info.run, folder, step)
    lines = call.config["logs.lines"]
    alone = len(streams) == 1
    if not followed and step is not None and not any(path.exists() for path, _ in streams):
        call.out.say(
            f"What node {step!r} of run {info.run} has printed is not kept: it was shown where the node ran."
            if call.history.about(info.run).kind == "graph"
            else f"The step {step!r} of run {info.run} has written nothing."
        )
    with _told(call.out, followed) as tell:
        readers = [Records(name, tell) if call.out.as_json else _raw(name, alone) for _, name in streams]
        tails = [Tail(path, reader, lines) for (path, _), reader in zip(streams, readers, strict=True)]
        follow(tails, lambda: followed and _goes_on(call.history, info.run))
        for reader in readers:
            if isinstance(reader, Records):
                reader.close()


def _goes_on(history: History, run: str) -> bool:
    """Return whether more may be written: also while its coordinator is away, for the next one goes on with it."""
    info = history.info(run)
    return info.active or history.is_held(run) or (info.status == INTERRUPTED and history.about(run).served)


def _told(out: Output, followed: bool) -> AbstractContextManager[Callable[[dict[str, str]], None]]:
    """Return what gets the lines for programs: those that are followed one by one, all others as a list."""
    return out.json_list() if out.as_json and not followed else nullcontext(out.json_line)


def _raw(name: str, alone: bool) -> IO[bytes]:
    """Return where a file goes as it is: standard error to its like, unless it is all that is asked for."""
    return sys.stderr.buffer if name == "stderr" and not alone else sys.stdout.buffer


def _streams(call: Call, run_id: str, folder: Path, step: str | None) -> list[tuple[Path, str]]:
    """Return the files that are asked for, and what each has."""
    out, err = call.config["logs.stdout"], call.config["logs.stderr"]
    if out and err:
        raise InvalidSettingError("--stdout and --stderr each mean that only. Leave both out for both.")
    if step is None:
        return [(folder / "run.log", "log")]
    files = [Path(file) for file in step_files(str(folder), step)]
    if not any(file.exists() for file in files):
        try:
            known = steps_of(call, run_id)
        except DagridError:  # its text or its functions are gone; the files tell
            known = sorted({file.stem for file in folder.iterdir() if file.suffix in (".out", ".err")})
        check_step(known, step, run_id)
    named = list(zip(files, STREAMS, strict=True))
    return named[:1] if out else named[1:] if err else named
