"""What runs are called, where their files are, and what is kept of each beside its journal. It opens nothing but locks."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from dagrid.errors import InvalidSettingError, RunStateError
from dagrid.history.owners import Lock

LOCK = "owner.lock"
LOG = "run.log"
# What a file may be called as it is; where the system does not tell 'a' from 'A', names with capitals get a mark as well.
_LETTERS = "a-z" if sys.platform in ("darwin", "win32") else "A-Za-z"
_PLAIN = re.compile(rf"[{_LETTERS}0-9_-][{_LETTERS}0-9_.-]{{0,99}}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
# It is also the name of a folder.
_LONGEST = 250


class About(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """What a run is of: enough to show it, and to begin it anew. There are no secrets in it.

    Args:
        kind: whether a workflow or a graph of Python's is run.
        name: of the workflow or the graph.
        source: its file, or `module:name`.
        spec: the text of the file, for workflows.
        params: as they were given; what is secret in them is masked.
        parent, root: the ids of the run that called it, and of the one that began it all.
        host, pid, folder: where it is performed, by which process, and where its logs are.
        home: what tells the home in which it is performed from all others.
        created: when it was begun there, in seconds since 1970.
        trigger: what began it, such as "manual" or "schedule".
        queue, priority: where it waited, and before which others.
        at_once: how many of its queue may be performed at once, if the queue says nothing; 0 is any number.
        served: whether who performs it does so for others, and takes it up again after an interruption.
        masked: whether something in the parameters is masked, which only the run that called it knows.
        stopping: why who serves the home is to stop it as soon as it has it; empty: it goes on.
        more: what whoever runs such things needs to go on with it.
    """

    kind: Literal["workflow", "graph"] = "workflow"
    name: str = ""
    source: str = ""
    spec: str = ""
    params: tuple[str, ...] = ()
    parent: str = ""
    root: str = ""
    host: str = ""
    pid: int = 0
    folder: str = ""
    home: str = ""
    created: float = 0.0
    trigger: str = ""
    queue: str = ""
    priority: int = 0
    at_once: int = 0
    served: bool = False
    masked: bool = False
    stopping: str = ""
    more: dict[str, Any] = {}

    @property
    def document(self) -> str:
        """Which document of its file a workflow is; empty for the first."""
        return str(self.more.get("document", ""))

    @property
    def given(self) -> tuple[str, ...]:
        """The parameters, for whoever goes on with the run or begins it anew.

        Raises:
            RunStateError: there were secrets in them, which are kept nowhere.
        """
        if self.masked:
            raise RunStateError(
                f"Secrets of run {self.parent!r} are among the parameters of {self.name!r}, and are not kept with it. Go on with "
                f"the run that called it: dagrid retry {self.parent}"
            )
        return self.params


class Place:
    """Where a run is performed: it is this process's until `close`.

    Attributes:
        run_id: what the run is called.
        about: what it is of.
        folder: where its logs are.
        log: the file that tells what happened in the run.
        epoch: that of a run that has not begun, for `dagrid.assemble.start`; 0 for one that has, which is gone on with.
    """

    def __init__(self, run_id: str, about: About, folder: Path, lock: Lock, epoch: int) -> None:
        self.run_id = run_id
        self.about = about
        self.folder = folder
        self.log = folder / LOG
        self._folder = os.fspath(folder)
        self.epoch = epoch
        self._lock = lock

    def files(self, step: str) -> tuple[str, str]:
        """Return the files of what a step writes to its standard output and to its standard error."""
        return step_files(self._folder, step)

    def stdout(self, step: str) -> Path:
        """Return the file of what a step writes to its standard output."""
        return Path(self.files(step)[0])

    def stderr(self, step: str) -> Path:
        """Return the file of what a step writes to its standard error."""
        return Path(self.files(step)[1])

    def close(self) -> None:
        """Let go of the run; may be called twice."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def written(about: About) -> bytes:
    """Return what a run is of as it is kept."""
    try:
        return msgspec.json.encode(about)
    except UnicodeEncodeError:  # the name of a file may be no text
        said = msgspec.structs.asdict(about)
        return msgspec.json.encode({key: _text(value) for key, value in said.items()})


def _text(value: object) -> object:
    """Return a text that can be kept, with escapes in the place of what is none."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, tuple):
        return [_text(one) for one in value]
    return {key: _text(one) for key, one in value.items()} if isinstance(value, dict) else value


def file_name(name: str) -> str:
    """Return a name as one that a file may have: itself if it can be, else what is left of it and a fingerprint of all."""
    if _PLAIN.fullmatch(name):
        return name
    import hashlib  # most names are plain

    left = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60].strip("_")
    return f"{left}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


def step_files(folder: str, step: str) -> tuple[str, str]:
    """Return the files of what a step writes to its standard output and to its standard error; no two steps share one."""
    path = f"{folder}{os.sep}{file_name(step)}"
    return f"{path}.out", f"{path}.err"


def new_id() -> str:
    """Return a new id: a UUID of version 7 (RFC 9562), so that ids are in the order in which they were made."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    number = milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | int.from_bytes(os.urandom(8)) >> 2
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def checked_id(run_id: str, parent: str = "") -> str:
    """Return an id that somebody has chosen; that of a run which another one calls begins with that one's.

    Raises:
        InvalidSettingError: no run can have it.
    """
    if parent:
        mine = run_id.removeprefix(f"{parent}.")
        if len(run_id) > _LONGEST:
            raise InvalidSettingError(
                f"Workflows call each other {run_id.count('.')} deep, and it goes no deeper. Give the call that has no end a "
                f"precondition."
            )
        if mine == run_id or not _ID.fullmatch(mine):
            raise InvalidSettingError(
                f"The run {run_id!r} is called by {parent!r}: call it {parent}.NAME, with letters, digits, '-' and '_'."
            )
    elif not _ID.fullmatch(run_id):
        raise InvalidSettingError(
            f"{run_id!r} cannot be the id of a run: give at most 100 letters a to z, digits, '-' and '_'."
        )
    return run_id
