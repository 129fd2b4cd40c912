"""Workflows that were read and checked once, and their graphs, kept in a home for the next start as Python keeps its bytecode.

What is kept of a file counts for as long as its text, its place and the rooms that made it are what they were, the workflows that
it calls are there, and so is what its types of steps need. Nothing is lost with it but some milliseconds.
"""

from __future__ import annotations

import codecs
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

import dagrid
from dagrid.errors import StepError, StoreError
from dagrid.execution.pickling import PROTOCOL
from dagrid.stores.artifacts import FolderArtifacts
from dagrid.workflow import steps
from dagrid.workflow.files import File, contents, find, meant
from dagrid.workflow.model import handlers

FOLDER = "compiled"
"""What the folder in a home is called; who removes it loses nothing."""
SLOTS = 4093
"""For so many files there is room, a prime. The path of a file says which is its; of two that share one the last one has it."""

_log = logging.getLogger("dagrid.workflow")


class _Kept(msgspec.Struct):
    """A file without its text, for the one that counts is what stands in the file.

    Args:
        kinds: the types of its steps.
    """

    file: File
    kinds: tuple[str, ...]


def load(path: str | os.PathLike[str], home: Path) -> File:
    """Read and check the workflows of a file, or take what was made of the same text before.

    Args:
        path: the file; without its suffix too.
        home: where what was made before may be kept; see `keep`.

    Raises:
        WorkflowNotFoundError: there is no such file, or it cannot be read.
        WorkflowError: all that is wrong with it.
    """
    found = meant(path)
    known = None
    with _only_slower():
        known = _known(FolderArtifacts(home / FOLDER).get(_slot(found)), found)
    file = known or _read(path)
    file.home = home
    return file


def keep(file: File) -> None:
    """Keep a file, with the graphs that were made of it, for whoever loads it the next time, unless that is done."""
    home, found = file.home, Path(file.name)
    if home is None or file.kept == len(file.graphs) or not home.is_dir():
        return
    file.kept = len(file.graphs)
    data = _packed(file, found)
    if data is not None:
        with _only_slower():
            FolderArtifacts(home / FOLDER).put(_slot(found), data)


def _slot(found: Path) -> str:
    return f"{int.from_bytes(os.fsencode(found.absolute()), 'big') % SLOTS:x}"


@contextmanager
def _only_slower() -> Iterator[None]:
    """Go on where nothing can be kept: the disk is full, or the home may only be read."""
    try:
        yield
    except StoreError as error:
        _log.info("A workflow is read again the next time: %s", error)


def _read(path: str | os.PathLike[str]) -> File:
    from dagrid.workflow.loading import load  # the parser and all rules, which nobody needs for what is known

    return load(path, types=steps.KINDS, inspect=steps.check)


def _packed(file: File, found: Path) -> bytes | None:
    """Return what is to be kept of a file; None: nothing, for what types of others check may change at any time."""
    every = [
        step
        for workflow in (file.main, *file.locals.values())
        for step in (*workflow.steps, *(handler for _, handler in handlers(workflow)))
    ]
    kinds = tuple(dict.fromkeys(step.kind for step in every))
    if not all(kind in steps.OURS for kind in kinds):
        return None
    kept = _Kept(msgspec.structs.replace(file, text="", home=None), kinds)
    return _origin(found, file.text.encode()) + pickle.dumps(kept, PROTOCOL)


def _known(data: bytes | None, found: Path) -> File | None:
    """Return the file that something was kept of, if that still counts."""
    if data is None:
        return None
    try:
        text = contents(found).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return None  # as who reads it is told
    origin = _origin(found, text)
    if not data.startswith(origin):
        return None
    try:
        kept: _Kept = pickle.loads(memoryview(data)[len(origin) :])  # who can write it can write the history as well
    except Exception as error:  # noqa: BLE001  # it is damaged, and may raise anything
        _log.info("What was kept of %s is damaged, and made anew: %r", found, error)
        return None
    if not all(find(name, found.absolute().parent) for name in kept.file.calls) or not all(map(_is_there, kept.kinds)):
        return None
    kept.file.text = text.decode()
    return kept.file


def _origin(found: Path, text: bytes) -> bytes:
    """Return all that something is made of; it stands before what was made of it."""
    about = repr((dagrid.__version__, _ROOMS, str(found), str(found.absolute()), len(text))).encode()
    return about + b"\0" + text


def _rooms() -> list[tuple[str, int, int]]:
    """Return what tells the rooms that read, check and make graphs from what they were, as bytecode is told from its source."""
    here = os.path.dirname(dagrid.__file__)
    found = []
    for room in ("", "graph", "workflow", "workflow/steps"):
        with os.scandir(os.path.join(here, room)) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    state = entry.stat()
                    found.append((f"{room}/{entry.name}", state.st_mtime_ns, state.st_size))
    return sorted(found)


_ROOMS = _rooms()  # as they were when this process took them; it may outlive them


def _is_there(kind: str) -> bool:
    """Return whether a type of steps can be used; what it needs may be gone since."""
    if kind in steps.UNCHECKED:
        return True
    try:
        steps.of(kind)
    except StepError:
        return False
    return True
