"""A file of workflows as it is known once it is read, and how a name finds it. Nothing here knows how it is read."""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from pathlib import Path

import msgspec

from dagrid.errors import Problem, WorkflowNotFoundError, hint, nearest
from dagrid.workflow.model import Workflow
from dagrid.workflow.problems import Place

SUFFIXES = (".yaml", ".yml")
MOST_BYTES = 1 << 26
"""No file of workflows is larger; what has no end, such as a device, is none."""


class File(msgspec.Struct, kw_only=True):
    """What a file holds.

    Args:
        name: the file as it is called in messages.
        folder: where it lies; empty for a text.
        text: what stands in it.
        main: the first document.
        locals: the other documents by their names; `main` calls them before it looks for files.
        warnings: what is not wrong, but surely not meant.
        calls: the workflows outside of it that its steps call.
        graphs: the graphs that were made of its documents, pickled, by all that they are made of besides.
        home: where it may be kept for the next time; `kept` says with how many graphs it is, -1: it is not.
    """

    name: str
    folder: str
    text: str
    main: Workflow
    locals: dict[str, Workflow]
    warnings: tuple[Problem, ...] = ()
    calls: tuple[str, ...] = ()
    graphs: dict[Hashable, bytes] = {}
    home: Path | None = None
    kept: int = -1

    def problem(self, where: Place, message: str) -> Problem:
        """Return a problem at a place of this file, for an error that is found later."""
        return Problem(self.name, where.line, where.column, message)

    def document(self, name: str) -> Workflow:
        """Return the document of a name; the first one for an empty name.

        Raises:
            WorkflowNotFoundError: there is none behind the first.
        """
        if name and name not in self.locals:
            message = f"there is no workflow {name!r} in this file any more.{hint(nearest(name, self.locals))}"
            raise WorkflowNotFoundError([Problem(self.name, 0, 0, message)])
        return self.locals[name] if name else self.main


def find(name: str, folder: str | os.PathLike[str]) -> Path | None:
    """Return the file that a call to a workflow means, or None: `name`, relative to a folder, with or without its suffix."""
    try:
        given = Path(folder, name)
        candidates = (
            [given] if given.suffix in SUFFIXES else [given.with_name(given.name + suffix) for suffix in SUFFIXES]
        )
        return next((path for path in candidates if path.is_file()), None)
    except (OSError, ValueError):  # no name of a file
        return None


def meant(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path means, which may lack its suffix; it need not be there."""
    given = Path(path)
    if given.suffix in SUFFIXES or (given.exists() and not given.is_dir()):
        return given
    return find(given.name, given.parent) or given


def contents(path: Path) -> bytes:
    """Return all that stands in a file of workflows. Raises OSError: it cannot be read, or is too large."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MiB", str(path))
    return data
