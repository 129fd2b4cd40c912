"""`dagrid exec`: one command is run as a workflow of one step, so that it is kept in the history with what it has written."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import click

from dagrid.cli.calls import Call
from dagrid.cli.fleets import fleet_of
from dagrid.cli.options import command
from dagrid.cli.output import ReaderGoneError
from dagrid.cli.running import finished, stoppable
from dagrid.cli.tails import Tail, follow
from dagrid.cli.workflows import checked_texts
from dagrid.errors import InvalidSettingError

if TYPE_CHECKING:
    from dagrid.history import Place
    from dagrid.workflow import File


@command(
    "exec",
    click.Argument(["words"], nargs=-1, required=True, metavar="-- COMMAND [ARGS]..."),
    examples=(
        "dagrid exec -- rsync -a data/ backup/",
        "dagrid exec -E MODE=fast -N import -- ./import.sh monday",
        "dagrid exec --shell bash -- 'sort names.txt | uniq -c'",
    ),
)
def exec_command(call: Call, words: tuple[str, ...]) -> int:
    """Run one command as a workflow of one step. What it writes is shown, and kept with the run."""
    from dagrid.workflow.running import start

    file = one_step(call, words)
    with stoppable() as held:
        started = start(
            file,
            history=call.history,
            run_id=call.config["run_id"],
            labels=dict(call.config["worker.labels"]),
            trigger=call.config["trigger_type"],
            fleet=fleet_of(call),
        )
        with _shown(call, started.place, file.main.steps[0].name):
            return finished(call, started, held)


def one_step(call: Call, words: tuple[str, ...]) -> File:
    """Return the workflow of a command."""
    from dagrid.workflow import loads

    config = call.config
    checked_texts(words)
    if not words[0].strip():
        raise InvalidSettingError(
            "The command is empty. Name a program behind --, as in: dagrid exec -- rsync -a data/ backup/"
        )
    program = re.sub(r"[^A-Za-z0-9_.-]+", "_", os.path.basename(words[0].split()[0] if words[0].split() else "")).strip(
        "_."
    )
    name = config["name"] or f"exec-{program or 'command'}"[:40]
    folder = os.path.abspath(config["exec.workdir"] or os.curdir)
    if not os.path.isdir(folder):
        raise InvalidSettingError(f"{config.value('exec.workdir').named}: there is no folder {folder}.")
    for path in config["exec.dotenv"]:
        if not os.path.isfile(path):
            raise InvalidSettingError(f"{config.value('exec.dotenv').named}: there is no file {path}.")
    step: dict[str, Any] = {"name": program or "command"}
    if config["exec.shell"]:
        step |= {"command": words[0] if len(words) == 1 else shlex.join(words), "shell": config["exec.shell"]}
    else:
        step["exec"] = {"command": _literal(words[0]), "args": [_literal(word) for word in words[1:]]}
    wanted = dict(config["exec.worker_label"])
    document = {
        "name": name,
        "files": [],
        **({"workerSelector": wanted} if wanted else {}),
        "workingDir": _literal(folder),
        "dotenv": [_literal(os.path.abspath(path)) for path in config["exec.dotenv"]],
        "env": [{key: _literal(value)} for key, value in config["exec.env"]],
        "steps": [step],
    }
    file = loads(json.dumps(document), name=name)
    file.folder = folder
    return file


@contextmanager
def _shown(call: Call, place: Place, step: str) -> Iterator[None]:
    """Show what a step writes while it does so."""
    if call.out.as_json:
        yield
        return
    files: list[tuple[Path, Any]] = [(place.stdout(step), sys.stdout.buffer), (place.stderr(step), sys.stderr.buffer)]
    over = Event()
    wrong: list[OSError] = []

    def show() -> None:
        try:
            follow([Tail(path, to, None) for path, to in files], lambda: not over.is_set())
        except ReaderGoneError:
            pass  # the command goes on
        except OSError as error:
            wrong.append(error)

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if wrong:
        raise wrong[0]


def _literal(text: str) -> str:
    """Return a text that stands for itself in a workflow."""
    return re.sub(r"[$`]", lambda found: "\\" + found[0], text)
