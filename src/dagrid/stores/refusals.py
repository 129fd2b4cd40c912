"""What every store says when it refuses, in the same words and the same order. It knows no store and keeps nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dagrid.errors import (
    DuplicateRunError,
    JournalConflictError,
    StaleEpochError,
    StoreError,
    UnknownRunError,
    hint,
    nearest,
)

_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
# Among so many of the newest runs a name is looked for that resembles an unknown one.
SEARCHED = 200


def unknown(run: str, known: Iterable[str]) -> UnknownRunError:
    """Build the error for a run that is not there, with the nearest of the known names as a suggestion."""
    suggestion = nearest(run, known)
    return UnknownRunError(f"The store has no run {run!r}.{hint(suggestion)}", run, suggestion)


def duplicate(run: str) -> DuplicateRunError:
    """Build the error for a run that is there already."""
    return DuplicateRunError(f"The store has a run {run!r} already. Give this one another id, or go on with that one.")


def stale(run: str, epoch: int, now: int) -> StaleEpochError:
    """Build the error for a writer, or one who wants to be one, whose epoch is not that of the run."""
    return StaleEpochError(
        f"Run {run!r} is held by another writer, of epoch {now}; this one has epoch {epoch}. Stop it, or acquire the run."
    )


def closed(where: str) -> StoreError:
    """Build the error for the use of a store after its end."""
    return StoreError(f"{where} is closed. Open it again, or use it before you close it.")


def check_writer(run: str, epoch: int, now: int) -> None:
    """Refuse a writer whose epoch is not that of the run.

    Raises:
        StaleEpochError: somebody else has the run.
    """
    if epoch != now:
        raise stale(run, epoch, now)


def check_number(run: str, expected: int, facts: int) -> None:
    """Refuse facts that do not follow on those that are there.

    Raises:
        JournalConflictError: the expected number is not the next.
    """
    if expected != facts:
        raise JournalConflictError(
            f"The journal of run {run!r} has {facts} facts, so the next is number {facts} and not {expected}. "
            f"Read what is there, and append what follows from it."
        )


def check_snapshot(run: str, stands_for: int, facts: int) -> None:
    """Refuse a snapshot of facts that are not there.

    Raises:
        JournalConflictError: it stands for more facts than the journal has, or for less than none.
    """
    if not 0 <= stands_for <= facts:
        raise JournalConflictError(
            f"The journal of run {run!r} has {facts} facts; a snapshot cannot stand for {stands_for}. Append them first."
        )


def check_since(since: int) -> None:
    """Refuse to read from a number that no fact has.

    Raises:
        StoreError: the number is negative.
    """
    if since < 0:
        raise StoreError(f"Facts are numbered from 0; they cannot be read from number {since}.")


def check_facts(facts: Sequence[bytes]) -> None:
    """Refuse facts that would not come back as they went in.

    Raises:
        StoreError: one of them is something else than bytes.
    """
    if set(map(type, facts)) - {bytes}:
        other = next(fact for fact in facts if type(fact) is not bytes)
        raise StoreError(f"A fact is bytes, not {type(other).__name__}. Encode it before you append it.")


def check_key(key: str) -> None:
    """Refuse a key that could lead out of its place, or be another's name somewhere.

    Raises:
        StoreError: it has other characters than a key may have, an empty part, or a part that is `.` or `..`.
    """
    if not _KEY.fullmatch(key) or {".", ".."} & set(key.split("/")):
        raise StoreError(
            f"{key!r} is no key. A key is made of letters a to z, digits, '-', '_' and '.', in parts with '/' between them; "
            f"no part is empty, '.' or '..'."
        )
