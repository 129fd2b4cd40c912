"""Calls of importable functions in warm Python processes, as steps ask for them: requests made, answers opened.

The program of such a process is `_warm_main`, which runs by itself; this room knows only what is said to it.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dagrid.attempt import key_variables
from dagrid.commands import Request, Server
from dagrid.errors import StepError
from dagrid.masking import masked
from dagrid.workflow.variables import fitting

if TYPE_CHECKING:
    from dagrid.workflow.context import Context
    from dagrid.workflow.work import Work

PROGRAM = str(Path(__file__).with_name("_warm_main.py"))


class Held(msgspec.Struct, frozen=True):
    """The Python value of another step among arguments, as it was pickled; it is opened where the function runs."""

    data: bytes

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self.data,)


class Returned(msgspec.Struct, frozen=True):
    """What a function returned: pickled, None if it returned that, and as the text of a variable."""

    data: bytes | None = None
    text: str | None = None

    @property
    def value(self) -> Any:
        """The value itself."""
        return None if self.data is None else pickle.loads(self.data)  # our own process made it


def call(
    work: Work,
    fn: str | Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    values: Mapping[str, bytes] | None = None,
) -> Generator[Any, Any, Returned]:
    """Call a function in a warm process for a step, and return what it returns: `yield from call(...)`.

    Args:
        work: the step.
        fn: an importable function, or `package.module:function`.
        args, kwargs: what it is called with; a `Held` among them is opened there.
        values: pickled values for those of its parameters that have these names and are not given.

    Raises:
        StepError: it failed.
    """
    context = work.context
    folders = (work.folder, context.file.folder) if isinstance(fn, str) else ()  # a type of steps finds its own modules
    named_out = yield from work.beside(work.step.stdout)
    named_err = yield from work.beside(work.step.stderr)
    name = fn if isinstance(fn, str) else f"{fn.__module__}:{fn.__qualname__}"
    asked = (
        _shared(context),
        name,
        pickle.dumps((list(args), dict(kwargs or {})), 5),
        dict(values or {}),
        {**work.changes, **key_variables()},
        work.folder,
        list(dict.fromkeys(filter(None, (*folders, *_python_path())))),
        (work.outs, named_out),
        ([work.stderr], named_err),
        work.is_strict,
    )
    grace = context.workflow.max_clean_up_time_sec
    said = f"The process of {name}"
    # modules of the same name in two folders are two, and a process keeps those that it has once imported
    is_elsewhere = isinstance(fn, str) and work.folder != context.folder and os.path.isdir(work.folder)
    request = Request(
        server_of(context, work.folder if is_elsewhere else ""),
        pickle.dumps(asked, 5),
        context.secrets,
        work.stop_signal,
        grace,
        said,
    )
    answer = pickle.loads((yield request))  # our own process wrote it
    if answer[0] == "value":
        return Returned(answer[1], answer[2])
    _, message, code, retryable = answer
    raise StepError(masked(message, context.secrets), work.step.name, code, retryable=retryable)


def _shared(context: Context) -> bytes:
    """Return what all requests of a run have alike, pickled once: the environment, the secrets, the limit of a log."""
    if context.asked is None:
        shared = dict(context.environment), list(context.secrets), context.workflow.max_output_size
        context.asked = pickle.dumps(shared, 5)
    return context.asked


def server_of(context: Context, folder: str = "") -> Server:
    """Return what the warm processes of a run are started with, for the modules of its folder or of another one."""
    folder = folder or context.folder
    found = context.servers.get(folder)
    if found is None:
        argv = (sys.executable, "-E", "-s", PROGRAM)
        found = context.servers[folder] = Server(argv, env=fitting(context.environment, argv), cwd=folder)
    return found


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)
