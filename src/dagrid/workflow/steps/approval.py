"""A step that only waits for a person: the approval itself is the same for all types, and this one has no other work."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dagrid.workflow.work import Work


class Approval:
    """A step with `approval` and nothing else."""

    def perform(self, work: Work) -> Generator[Any, Any, None]:  # noqa: ARG002
        """Do nothing: that the step waits follows behind."""
        yield from ()
