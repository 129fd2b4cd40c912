"""The types of steps: what a step does, by its type. Ours stand in a table; others come by entry point (`dagrid.steps`).

A type gets the step with all that belongs to it (`dagrid.workflow.work.Work`) and yields what is to be done; conditions, outputs,
retries and repetitions are the same for all types and not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from dagrid.errors import StepError
from dagrid.workflow.model import Step, place
from dagrid.workflow.problems import Place

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from dagrid.commands import Await, Launch, Request
    from dagrid.workflow.work import Work

GROUP = "dagrid.steps"
OURS = {
    "approval": "dagrid.workflow.steps.approval:Approval",
    "archive": "dagrid.workflow.steps.archive:Archive",
    "dag": "dagrid.workflow.steps.call:Call",
    "docker": "dagrid.workflow.steps.docker:Docker",
    "file": "dagrid.workflow.steps.file:File",
    "http": "dagrid.workflow.steps.http:Http",
    "jq": "dagrid.workflow.steps.jq:Jq",
    "mail": "dagrid.workflow.steps.mail:Mail",
    "python": "dagrid.workflow.steps.python:Python",
    "shell": "dagrid.workflow.steps.shell:Shell",
    "sql": "dagrid.workflow.steps.sql:Sql",
    "ssh": "dagrid.workflow.steps.ssh:Ssh",
}
"""Where the types are that come with dagrid, by the canonical name of the type; each is loaded when a step has it."""
WARM = frozenset({"archive", "file", "http", "jq", "mail", "python", "sql"})
"""Those of them that call functions in warm Python processes."""
UNCHECKED = frozenset({"approval", "dag", "python", "shell"})
"""Types of which the format itself says all that can be wrong: they are not loaded to ask."""


class StepType(Protocol):
    """A type of steps. One object serves all steps of its type; it keeps nothing between them.

    It may have a method `check(step)` too, which yields what is wrong with a step, as (place, message), when its file is loaded.
    """

    def perform(self, work: Work) -> Generator[Launch | Await | Request, Any, Any]:
        """Perform a step: yield what is to be done, be sent what came of it, and return the `Returned` of a call, or None.

        Raises:
            StepError: the step failed; the message names the remedy.
            CommandError: a program failed.
        """
        ...


class Kinds(Collection[str]):
    """The names of the types of steps that others bring; they are looked for when somebody asks."""

    def __contains__(self, name: object) -> bool:
        return name in OURS or name in _foreign()

    def __iter__(self) -> Iterator[str]:
        return iter({*OURS, *_foreign()})

    def __len__(self) -> int:
        return len({*OURS, *_foreign()})


KINDS = Kinds()


@cache
def of(kind: str) -> StepType:
    """Return a type of steps.

    Raises:
        StepError: there is no such type, or what it needs is not installed.
    """
    place = OURS.get(kind)
    try:
        if place is not None:
            module, _, name = place.partition(":")
            return getattr(import_module(module), name)()  # type: ignore[no-any-return]
        found = _foreign().get(kind)
        if found is not None:
            return _loaded(found)
    except ImportError as error:
        need = f"{error.name or 'a package'}, which is not there"
        raise StepError(f"Steps of type {kind!r} need {need}; install it with pip.", retryable=False) from error
    raise StepError(f"There is no step type {kind!r}. There are: {', '.join(sorted(KINDS))}.")


def check(step: Step) -> Iterator[tuple[Place, str]]:
    """Yield what is wrong with a step, by its type; `loads(..., inspect=check)` asks it of every step."""
    if step.kind in UNCHECKED:
        return
    try:
        kind = of(step.kind)
    except StepError as error:
        yield place(step.executor, "type"), error.message
        return
    look = getattr(kind, "check", None)
    if look is None:
        return
    try:
        yield from look(step)
    except Exception as error:
        if step.kind in OURS:
            raise
        yield (
            place(step.executor, "type"),
            f"the step type {step.kind!r} cannot check the step: {_faulty(_foreign()[step.kind], error)}",
        )


def _loaded(point: EntryPoint) -> StepType:
    """Return a type that a package brings. Raises StepError: the package is at fault."""
    try:
        found = point.load()()
        found.perform  # noqa: B018  # a step would fail without it
    except ImportError:
        raise
    except Exception as error:  # whatever the package raises
        raise StepError(
            f"The step type {point.name!r} cannot be loaded: {_faulty(point, error)}.", retryable=False
        ) from error
    return found  # type: ignore[no-any-return]


def _faulty(point: EntryPoint, error: Exception) -> str:
    """Return whose fault an error is, and what it says."""
    package = point.dist.name if point.dist is not None else point.value
    return f"{type(error).__name__}: {error}. That is a fault of the package {package}"


@cache
def _foreign() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # reads mail headers, which few workflows need

    return {point.name: point for point in entry_points(group=GROUP)}
