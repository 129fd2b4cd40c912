"""Commands, scripts and programs: what a shell, another interpreter or the system itself runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

from dagrid.commands import Await, Launch
from dagrid.errors import CommandError
from dagrid.workflow.steps.texts import arguments, split
from dagrid.workflow.surroundings import SHELLS
from dagrid.workflow.variables import for_shell
from dagrid.workflow.work import Work

Performing = Generator[Launch | Await, Any, Any]


class Shell:
    """`command`, `script` or `exec` of a step."""

    def perform(self, work: Work) -> Performing:
        """Run the commands in order until one fails; or the script, or the program."""
        step = work.step
        if work.context.workflow.container is not None and step.exec is None:
            from dagrid.workflow.steps.docker import inside  # few workflows have a container

            yield from inside(work)
        elif step.exec is not None:
            argv = yield from work.texts([step.exec.command, *step.exec.args])
            (yield (yield from work.launch(argv))).check()
        elif step.script:
            yield from _script(work)
        else:
            yield from _commands(work)


def _commands(work: Work) -> Performing:
    step = work.step
    given = yield from arguments(work)
    for number, command in enumerate(step.command, 1):
        end = yield (yield from work.shell_launch(command, given))
        if end.code and len(step.command) > 1:
            last = end.last_words
            said = f": {last[-1]}" if last else "."
            raise CommandError(
                f"Command {number} of {len(step.command)} exited with code {end.code}{said}",
                step.name,
                end.code,
                end.signal,
                "\n".join(last),
            )
        end.check()


def _script(work: Work) -> Performing:
    """Run a script from a file of its own, by its first line, by the command of the step, or by its shell."""
    step = work.step
    held: dict[str, str] = {}
    first = step.script.split("\n", 1)[0]
    if first.startswith("#!"):
        words = shlex.split(first[2:])
    elif step.command:
        words = yield from split(step.command[0], work)
    else:
        words = []
    words = words or [word for word in work.shell if word != "-c"]
    if _is_shell(words):
        text, held = for_shell(step.script, work.names)
    else:
        text = work.program_text(step.script)
    given = yield from arguments(work)
    path = f"{work.stdout.removesuffix('.out')}.script"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # what is in it may be secret
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        launch = yield from work.launch([*words, path, *given], env={**work.env, **held} if held else None)
        (yield launch).check()
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _is_shell(words: Sequence[str]) -> bool:
    """Return whether an interpreter reads what is written for sh, also behind `/usr/bin/env`."""
    names = [os.path.basename(word) for word in words if not word.startswith("-")]
    if names[:1] == ["env"]:
        names = names[1:]
    return bool(names) and names[0] in SHELLS
