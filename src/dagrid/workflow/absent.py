"""A fleet where no worker comes: for who only has something to say to a run, and leaves what follows to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from dagrid.ports import Bundle, Capabilities, Host, Use


class Absent:
    """A fleet without workers, a place where none come, and its session: for who only has something to say to a run."""

    name = "nobody"
    capabilities = Capabilities(matches_selectors=True, survives=True)

    def place(self, context: Any, about: Any) -> Self:  # noqa: ARG002
        return self

    def began(self, started: Any) -> None:
        """There is none."""

    def open(self, host: Host) -> Self:  # noqa: ARG002
        return self

    def reopen(self, host: Host, uses: Sequence[Use]) -> Self:  # noqa: ARG002
        return self

    def close(self, wait: bool = True) -> None:
        """There is nothing."""

    def wake(self, worker: int) -> None:
        """There is none."""

    def perform(self, bundle: Bundle) -> None:
        """Nobody could be asked."""

    def recall(self, worker: int, attempts: Sequence[int]) -> None:
        """There is nothing."""

    def cancel(self, worker: int, attempt: int) -> None:
        """There is nothing."""

    def attend(self) -> None:
        """There is nothing to do."""


ABSENT = Absent()
