"""Large values that travel apart from the reports that name them, and stay where they are until somebody reads them.

That is with the coordinator, or where artifacts are kept. It knows no calls and no workers.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from io import BytesIO
from mmap import mmap
from tempfile import TemporaryFile
from time import monotonic
from typing import Any

from dagrid.errors import BackendError, BackendUnreachableError, DagridError, TransferError
from dagrid.execution.backends._remote import lost_error
from dagrid.execution.backends._transfer import open_kept, rebuilt
from dagrid.execution.backends._worker import loads
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import parts
from dagrid.execution.beside import value_beside
from dagrid.leases import LEASE
from dagrid.ports import Artifacts, Encoded

INLINE = 1 << 18
"""What is pickled in more bytes than this travels apart from the message that refers to it."""
IN_MEMORY = 1 << 26
"""What is pickled in more bytes than this is read from a file, where somebody may want it later. Each such file stays open."""
FETCHING = 60.0
"""Seconds beside a lease without a piece, from a coordinator that is there, after which a value cannot be had."""

Whole = bytes | mmap
"""A pickled value, in memory or in a file."""

_log = logging.getLogger("dagrid.fleet")
_travelling = threading.local()
"""While arguments are pickled: the values that may stand in them by their digests, `staying`, and those that do, `met`."""


class Apart(Encoded):
    """A large value that is still with the fleet; it is fetched when somebody reads it, and at the end of its session.

    Calls of its run take it from there, by its digest (`Values.travelling`).

    Args:
        digest, size: of the pickled value.
        node: whose it is.
        fetch: returns the pickled value; the last argument of it says whether that may lie in a file.
        artifacts: where it is kept, under which key, if it is not with the coordinator; what takes it fetches it from there.
    """

    __slots__ = ("__weakref__", "_artifacts", "_copy", "_data", "_fetch", "digest", "node", "size")

    def __init__(
        self,
        digest: bytes,
        size: int,
        node: str,
        fetch: Callable[[bytes, int, bool], Whole],
        artifacts: tuple[Artifacts, str] | None = None,
    ) -> None:
        self.digest = digest
        self.size = size
        self.node = node
        self._artifacts = artifacts
        self._fetch = fetch
        self._data: Whole | None = None
        self._copy: Callable[[], bytes] | None = None

    def decode(self) -> Any:
        return rebuilt(self._found(aside=True), self.node)

    def packed(self) -> bytes:
        data = self._found(aside=False)
        return data if isinstance(data, bytes) else data[:]

    def _found(self, aside: bool) -> Whole:
        copy, fetch = self._copy, self._fetch  # before the data, which is there when these are gone
        data = self._data
        if data is not None:
            return data
        try:
            if copy is not None:
                return copy()
            data = self._data = fetch(self.digest, self.size, aside)
        except Exception as error:
            if self._data is not None:  # it was brought home meanwhile
                return self._data
            raise lost_error(self.node, self.size, error) from error
        return data

    def also_at(self, get: Callable[[], bytes]) -> None:
        self._copy = get
        self._data = None

    def bring_home(self) -> None:
        """Have it here from now on."""
        self._data = _laid_aside(self._found(aside=True))

    @property
    def is_here(self) -> bool:
        """Whether it has been fetched."""
        return self._data is not None or self._copy is not None

    def forget(self) -> None:
        """The session ends: from now on it is here, or nowhere."""
        self._artifacts = self._copy = None
        if self._data is not None:
            self._fetch = _nowhere

    def __reduce__(self) -> tuple[Any, ...]:
        if self._artifacts is not None:
            return open_kept, self._artifacts
        if self in getattr(_travelling, "staying", ()):
            _travelling.met.add(self.digest)
            return value_beside, (self.digest,)
        return loads, (self.packed(),)

    def __repr__(self) -> str:
        return f"<Apart value of {self.node!r}, {self.size} bytes>"


def _laid_aside(data: Whole) -> Whole:
    """Return a value in a file of no name, if it is so large that memory is too good for it."""
    room = _room(len(data)) if isinstance(data, bytes) and len(data) > IN_MEMORY else None
    if room is None:
        return data
    room.write(data)
    return room


def _room(size: int) -> mmap | None:
    """Return so much of a file of no name as memory, if the disk has room for it; the file goes with that."""
    try:
        with TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap(file.fileno(), size)
    except (AttributeError, OSError):  # some systems cannot say whether there is room
        return None


def _nowhere(digest: bytes, size: int, _: bool) -> bytes:
    raise LookupError(f"what was {digest.hex()} ({size} bytes) is here alone")


class Fetch:
    """A content that is awaited.

    Args:
        size: of it.
        due: returns until when it is awaited that was last heard of at a time (None: for ever), and why no longer.
        aside: whether it may lie in a file of no name, if it is so large that memory is too good for it.
    """

    def __init__(self, size: int, due: Callable[[float], tuple[float | None, str]], aside: bool) -> None:
        self._data: BytesIO | mmap = (_room(size) if aside and size > IN_MEMORY else None) or BytesIO()
        self._left = size
        self._due = due
        self._changed = threading.Condition()
        self._failed = ""

    def take(self, part: pb.Part) -> None:
        with self._changed:
            if not part.offset:  # on a new stream all of it comes again
                self._data.seek(0)
                self._left = part.size
            if part.offset == self._data.tell():
                self._data.write(part.data)
                self._left -= len(part.data)
            self._changed.notify_all()

    def fail(self, why: str) -> None:
        with self._changed:
            self._failed = self._failed or why
            self._changed.notify_all()

    def stir(self) -> None:
        """It may be awaited for another time from now on."""
        with self._changed:
            self._changed.notify_all()

    def wait(self) -> Whole:
        with self._changed:
            heard, left = monotonic(), self._left
            while self._left > 0 and not self._failed:
                if self._left != left:
                    heard, left = monotonic(), self._left
                due, why = self._due(heard)
                wait = None if due is None else due - monotonic()
                if wait is not None and wait <= 0:
                    raise BackendUnreachableError(why)
                self._changed.wait(wait)
            if self._failed:
                raise BackendError(self._failed)
            return self._data if isinstance(self._data, mmap) else self._data.getvalue()  # which makes no copy


class Values:
    """The large values of a run, as long as its session is open.

    What is with a coordinator that is away is waited for as the run waits: until it is back. While something is cancelled, and
    when the run is closed, it is waited for until the coordinator has been away for a lease.

    Args:
        run: whose they are.
        artifacts: where they are kept, if not with the coordinator.
        want: asks the coordinator for the content of a SHA-256; returns whether there is one to be asked.
        let_go: called in any thread when nobody refers to one any more, with what is to be called in the session's own.
        drop: tells the coordinator that nobody refers to the value of an attempt any more, by fence and attempt.

    Attributes:
        hurried: somebody waits for the end of something, see `hurry`.
    """

    def __init__(
        self,
        run: str,
        artifacts: Artifacts | None,
        want: Callable[[bytes], bool],
        let_go: Callable[[Callable[[], None]], object],
        drop: Callable[[int, int], object],
    ) -> None:
        self._run = run
        self._artifacts = artifacts
        self._want = want
        self._let_go = let_go
        self._drop = drop
        self._guard = threading.Lock()
        self._fetches: dict[bytes, Fetch] = {}
        self._known: weakref.WeakSet[Apart] = weakref.WeakSet()
        self._there: dict[tuple[int, int], bytes] = {}  # what is with the coordinator, by fence and attempt
        self._lease = LEASE
        self._state = False, monotonic()  # whether the coordinator is away, and since when; both change at once
        self._said = self.hurried = False
        self._ended = ""

    def of(self, digest: bytes, size: int, node: str, fence: int, attempt: int) -> Apart:
        """Return the value of a node that stays where it is, made by an attempt."""
        store = self._artifacts
        kept = None if store is None else (store, artifact_key(self._run, digest))
        made = Apart(digest, size, node, self.fetch, kept)
        self._known.add(made)
        if store is None:
            self._there[fence, attempt] = digest
            weakref.finalize(made, self._forsaken, fence, attempt).atexit = False
        return made

    @contextmanager
    def travelling(self) -> Iterator[set[bytes]]:
        """Let values stand by their digests in what is pickled meanwhile in this thread; which do is in what is yielded."""
        met: set[bytes] = set()
        _travelling.staying, _travelling.met = self._known, met
        try:
            yield met
        finally:
            _travelling.staying = ()

    def pieces(self, digest: bytes) -> Iterator[pb.Part] | None:
        """Return a value that somebody refers to and that has been fetched, in pieces."""
        for value in self._of(digest):
            if value.is_here:
                with suppress(TransferError):  # who takes it hears that it is lost
                    return parts(value.packed(), digest)
        return None

    def lost(self, digest: bytes) -> TransferError | None:
        """Return the error for a value that somebody refers to and nobody has; None if nobody refers to such a one."""
        found = next(iter(self._of(digest)), None)
        return None if found is None else lost_error(found.node, found.size, LookupError("nobody has it any more"))

    def _of(self, digest: bytes) -> list[Apart]:
        return [value for value in list(self._known) if value.digest == digest]

    def kept(self) -> list[pb.Kept]:
        """Return what is referred to and is with the coordinator, for one that begins anew; from any thread."""
        found: dict[int, pb.Kept] = {}
        for (fence, attempt), digest in list(self._there.items()):
            kept = found.setdefault(fence, pb.Kept(fence=fence))
            kept.attempts.append(attempt)
            kept.digests.append(digest)
        return list(found.values())

    def fetch(self, digest: bytes, size: int, aside: bool) -> Whole:
        """Return a value, waiting for it; from any thread. Arguments are those of `Fetch`.

        Raises:
            BackendError: it is not to be had any more.
        """
        if self._artifacts is not None:
            found = self._artifacts.get(artifact_key(self._run, digest))
            if found is not None:
                return found
        with self._guard:
            if self._ended:
                raise BackendError(self._ended)
            under_way = self._fetches.get(digest)
            fetch = self._fetches[digest] = under_way or Fetch(size, self._due, aside)
        if under_way is not None:  # of equal values, one is fetched
            return fetch.wait()
        try:
            if not self._want(digest):
                fetch.fail("the coordinator is out of reach")
            return fetch.wait()
        finally:
            with self._guard:
                self._fetches.pop(digest, None)

    def take(self, part: pb.Part) -> None:
        """Take a piece of a value, if somebody waits for that."""
        with self._guard:
            fetch = self._fetches.get(part.digest)
        if fetch is not None:
            fetch.take(part)

    def miss(self, digest: bytes) -> None:
        """Nobody has a value any more."""
        with self._guard:
            fetch = self._fetches.get(digest)
        if fetch is not None:
            fetch.fail("nobody has it any more")

    def find(self, lease: float) -> None:
        """The coordinator is there, and says how long its leases are."""
        self._lease = lease
        self._turn(False)

    def lose(self) -> None:
        """The coordinator is away; it is called again as long as that is so."""
        if not self._state[0]:
            self._turn(True)

    def _turn(self, away: bool) -> None:
        self._state, self._said = (away, monotonic()), False
        self._stir()

    def away_since(self) -> float | None:
        """Return since when the coordinator is away, by `time.monotonic`, if it is."""
        away, since = self._state
        return since if away else None

    def hurry(self) -> None:
        """Somebody waits for the end of something, until `calm`: that is not to be held up for ever."""
        self.hurried = True
        self._stir()

    def calm(self) -> None:
        """Nobody waits for the end of anything."""
        self.hurried = False

    def _stir(self) -> None:
        with self._guard:
            fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.stir()

    def _due(self, heard: float) -> tuple[float | None, str]:
        away, since = self._state
        if not away:
            return max(heard, since) + self._lease + FETCHING, "the coordinator does not send it"
        due = since + self._lease if self.hurried else None
        if not self._said and (due is None or due > monotonic()):
            self._said = True
            long = "until it is back" if due is None else f"for {due - monotonic():.0f} s at most"
            _log.warning("Large values are with the coordinator, which is away. They are waited for %s.", long)
        return due, "the coordinator that had it is away"

    def bring_home(self) -> None:
        """The run has ended: fetch what somebody still has. What is not to be had says so when it is read."""
        self.hurry()
        known = list(self._known)
        try:
            for value in known:
                self._bring(value)
        except BackendUnreachableError:
            """The others are not to be had either."""
        for value in known:
            value.forget()
        if self._artifacts is not None:
            with suppress(DagridError):  # what stays there is of no use, and does no harm
                self._artifacts.clear(artifact_folder(self._run))

    @staticmethod
    def _bring(value: Apart) -> None:
        """Fetch a value. Raises BackendUnreachableError: nothing comes from the coordinator."""
        try:
            value.bring_home()
        except TransferError as error:
            if isinstance(error.__cause__, BackendUnreachableError):
                raise error.__cause__ from error

    def close(self, why: str = "the run was closed") -> None:
        """Nothing comes any more."""
        with self._guard:
            self._ended = self._ended or why
            fetches, self._fetches = list(self._fetches.values()), {}
        self._want = self._let_go = self._drop = _nobody
        for fetch in fetches:
            fetch.fail(why)

    def _forsaken(self, fence: int, attempt: int) -> None:
        """Nobody refers to a value any more. Until then this is held, and by it, until it is closed, the session."""
        self._let_go(partial(self._release, fence, attempt))

    def _release(self, fence: int, attempt: int) -> None:
        del self._there[fence, attempt]
        self._drop(fence, attempt)


def _nobody(*_: object) -> bool:
    """Nobody is asked, or told, any more."""
    return False


def artifact_folder(run: str) -> str:
    """Return under what the large values of a run are kept in an artifact store."""
    return f"fleet/{sha256(run.encode()).hexdigest()[:32]}"


def artifact_key(run: str, digest: bytes) -> str:
    """Return under which key a large value of a run is kept in an artifact store."""
    return f"{artifact_folder(run)}/{digest.hex()}"
