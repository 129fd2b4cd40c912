"""A step that only waits for a person: the approval itself is the same for all types, and this one has no other work."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from dagrid.workflow.model import Step
from dagrid.workflow.problems import Place
from dagrid.workflow.work import Work


class Approval:
    """A step with `approval` and nothing else."""

    def check(self, step: Step) -> Iterator[tuple[Place, str]]:
        """There is nothing to check beside what holds for all steps."""
        yield from ()

    def perform(self, work: Work) -> Generator[Any, Any, None]:
        """Do nothing: that the step waits follows behind."""
        yield from ()
