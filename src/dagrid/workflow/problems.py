"""Where something stands in a text, and the list of what is wrong with it; no rule of the format is known here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from dagrid.errors import Problem, WorkflowError, hint, nearest

_MOST_SUGGESTIONS = 40


class Place(NamedTuple):
    """A place in a text: line and column count from 1; 0 and 0 is the text as a whole."""

    line: int = 0
    column: int = 0


class Placed(Protocol):
    """Whatever has a place: a node of the tree, or a Place."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class Problems:
    """All that is found wrong in one file, in any order; `refuse` raises it sorted.

    Args:
        file: the name that stands before each line.
    """

    __slots__ = ("_suggested", "file", "found", "warnings")

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Problem] = []
        self.warnings: list[Problem] = []
        self._suggested = 0

    def add(self, place: Placed, message: str) -> None:
        """Note what is wrong at a place."""
        self.found.append(Problem(self.file, place.line, place.column, message))

    def warn(self, place: Placed, message: str) -> None:
        """Note what is not wrong, but surely not meant."""
        self.warnings.append(Problem(self.file, place.line, place.column, message))

    def suggest(self, name: str, known: Iterable[str]) -> str:
        """Return the question that ends a message about an unknown name; a file of nothing but mistakes gets only some."""
        self._suggested += 1
        if self._suggested > _MOST_SUGGESTIONS or len(name) > 100:
            return ""
        return hint(nearest(name, known))

    def refuse(self) -> None:
        """Raise what was found, if anything was.

        Raises:
            WorkflowError: there are problems; it has them all, sorted by place, each once.
        """
        if self.found:
            raise WorkflowError(sorted(set(self.found), key=_by_place), self.sorted_warnings())

    def sorted_warnings(self) -> tuple[Problem, ...]:
        return tuple(sorted(set(self.warnings), key=_by_place))


def _by_place(problem: Problem) -> tuple[int, int, str]:
    return problem.line, problem.column, problem.message
