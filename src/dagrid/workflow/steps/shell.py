"""Commands, scripts and programs: what a shell, another interpreter or the system itself runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Sequence
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from dagrid.commands import Await, Launch
from dagrid.errors import CommandError, StepError
from dagrid.workflow.steps.texts import arguments, split
from dagrid.workflow.surroundings import SHELLS
from dagrid.workflow.variables import for_shell
from dagrid.workflow.work import Work

if TYPE_CHECKING:
    from dagrid.execution.folders import OwnFolder

_MOST_NAMED = 100
_folder: OwnFolder | None = None
_making = Lock()

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
    words = words or [word for word in work.program_shell if word != "-c"]
    if _is_shell(words):
        text, held = for_shell(step.script, work.names)
    else:
        text = work.program_text(step.script)
    given = yield from arguments(work)
    path = _kept(text, os.path.basename(work.stdout).removesuffix("out"))
    try:
        launch = yield from work.launch([*words, path, *given], env={**work.env, **held} if held else None)
        (yield launch).check()
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _kept(text: str, name: str) -> str:
    """Write a script into a file that nobody else may read, for what is in it may be secret, and return its path.

    It is in a folder of this process, so that the next one removes it where this one is killed before it has.

    Raises:
        StepError: there is no room for it.
    """
    from tempfile import mkstemp  # few steps have a script

    from dagrid.execution.folders import OwnFolder

    global _folder
    try:
        with _making:
            if _folder is None or not _folder.path.is_dir():  # those who tidy up temporary files may have been here
                _folder = OwnFolder.temporary()
            descriptor, path = mkstemp(".script", name[-_MOST_NAMED:], _folder.path)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StepError(
            f"The script cannot be written to a temporary file: {error}. TMPDIR says where these are."
        ) from None
    return path


def _is_shell(words: Sequence[str]) -> bool:
    """Return whether an interpreter reads what is written for sh, also behind `/usr/bin/env`."""
    names = [os.path.basename(word) for word in words if not word.startswith("-")]
    if names[:1] == ["env"]:
        names = names[1:]
    return bool(names) and names[0] in SHELLS
