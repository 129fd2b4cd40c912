"""The parent's end of one worker process: it starts it, writes frames to it, reads its records and sees it die.

All of it is used from the one thread of the pool. It knows tokens and items; what a run does with them, it does not
know.
"""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, NamedTuple

from dagrid.errors import TransferError
from dagrid.execution.backends import _worker
from dagrid.execution.backends._transfer import encode_arguments
from dagrid.machine.events import NUMBER_SHIFT
from dagrid.ports import Call

# No more is pickled for a worker while this much waits to be written to it; what is not pickled is taken back at no
# cost.
OUT_LIMIT = 1 << 18
FRAME_CALLS = 128
READ_SIZE = 1 << 16
NOBODY = -1  # in place of the token of a call on which another one rides, and which is not here
PIPE_SIZE = 1 << 20

# The code comes on the data pipe, so that the start depends on no path and compiles nothing.
BOOTSTRAP = """\
import sys
if sys.path and not sys.path[0]:
    del sys.path[0]
import marshal, os
code = b""
while len(code) < {size}:
    part = os.read({data}, {size} - len(code))
    if not part:
        os._exit(1)
    code += part
worker = {{"__name__": "dagrid worker"}}
exec(marshal.loads(code), worker)
worker["main"]({data}, {control}, {result}, {life})
"""


class Item(NamedTuple):
    """A call on its way; its owner is the session that handed it out, which keeps the functions that were sent."""

    owner: Any
    call: Call


class Record(NamedTuple):
    """What a worker wrote."""

    token: int
    kind: int
    started: float
    ended: float
    payload: bytes | bytearray


class Blueprint(NamedTuple):
    """What all workers of a pool start with: what the parent had when the first one started."""

    environment: dict[str, str]
    directory: str
    hello: bytes
    code: bytes

    @classmethod
    def of_this_process(cls, initializer: bytes) -> Blueprint:
        spec = _worker.__spec__
        code = spec.loader.get_code(_worker.__name__)  # type: ignore[union-attr]
        hello = {
            "path": [str(entry) for entry in sys.path],
            "argv": [str(word) for word in getattr(sys, "argv", [])],
            "initializer": initializer,
        }
        return cls(dict(os.environ), os.getcwd(), marshal.dumps(hello), marshal.dumps(code))


def flags() -> list[str]:
    """Return the flags that start an interpreter like this one: -W, -X, -O, -I and their kin."""
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]  # noqa: SLF001


def pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass  # an unprivileged user has a limit, and the pipe stays as it is
    return reading, writing


class Outlet:
    """The writing end of a pipe: it keeps what the pipe does not take at once."""

    __slots__ = ("fd", "parts", "size", "watched")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.parts: deque[memoryview] = deque()
        self.size = 0
        self.watched = False  # whether somebody waits for the pipe to take more

    def put(self, data: bytes) -> None:
        self.parts.append(memoryview(data))
        self.size += len(data)

    def flush(self) -> None:
        """Write what the pipe takes now."""
        parts = self.parts
        try:
            while parts:
                written = os.write(self.fd, parts[0])
                self.size -= written
                if written == len(parts[0]):
                    parts.popleft()
                else:
                    parts[0] = parts[0][written:]
        except BlockingIOError:
            return
        except OSError:  # the worker died; who reads its results will see it
            parts.clear()
            self.size = 0

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.parts.clear()
        self.size = 0


class Inlet:
    """The reading end of the result pipe: it cuts what comes into records.

    A large payload is read into memory of its own.
    """

    __slots__ = ("ended", "fd", "filled", "head", "rest", "whole")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.rest = b""
        self.head: tuple[int, int, int, float, float] | None = None
        self.whole = bytearray()
        self.filled = 0
        self.ended = False

    def read(self) -> list[Record] | None:
        """Return the records that one read completes; None if there is nothing now, for ever if `ended` is set."""
        if self.head is not None:
            return self._fill(self.head)
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return None
        if not data:
            self.ended = True
            return None
        return self._cut(self.rest + data if self.rest else data)

    def _cut(self, data: bytes) -> list[Record]:
        records: list[Record] = []
        unpack, head_size, new = _worker.RECORD.unpack_from, _worker.RECORD.size, Record
        place, size = 0, len(data)
        while size - place >= head_size:
            length, token, kind, started, ended = unpack(data, place)
            end = place + head_size + length
            if end > size:
                if length > READ_SIZE:
                    self._begin((length, token, kind, started, ended), memoryview(data)[place + head_size :])
                    place = size
                break
            records.append(new(token, kind, started, ended, data[place + head_size : end]))
            place = end
        self.rest = data[place:]
        return records

    def _begin(self, head: tuple[int, int, int, float, float], first: memoryview) -> None:
        self.head = head
        self.whole = bytearray(head[0])
        self.whole[: len(first)] = first
        self.filled = len(first)

    def _fill(self, head: tuple[int, int, int, float, float]) -> list[Record] | None:
        try:
            got = os.readv(self.fd, [memoryview(self.whole)[self.filled :]])
        except BlockingIOError:
            return None
        if not got:
            self.ended = True
            return None
        self.filled += got
        if self.filled < head[0]:
            return []
        _, token, kind, started, ended = head
        done = Record(token, kind, started, ended, self.whole)
        self.head, self.whole = None, bytearray()
        return [done]

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Process:
    """One worker process: the calls that wait for it, those that are with it (the first one runs), and its pipes."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.unsent: deque[Item] = deque()
        self.under_way: dict[int, Item] = {}
        self.known: set[int] = set()
        self.asked: set[int] = set()  # back, and not yet answered
        self.cancelled: set[int] = set()
        self.announced = 0  # the token of the call last reported as started
        self.ready = False
        self.leaving = False
        self.broken = ""
        self.reason = ""
        self.shift = 0.0
        self.extra: bytes | bytearray | None = None  # what came before the value that it belongs to
        self.token = 0
        self.last: tuple[Item, int] | None = None  # what was sent last, and its token
        self.started_at = perf_counter()
        ends: list[int] = []
        try:
            for end in (pipe(), os.pipe(), pipe(), os.pipe()):
                ends += end
            data, control, result, life = zip(ends[::2], ends[1::2], strict=True)
            theirs = (data[0], control[0], result[1], life[0])
            bootstrap = BOOTSTRAP.format(
                data=data[0], control=control[0], result=result[1], life=life[0], size=len(blueprint.code)
            )
            self.popen = subprocess.Popen(
                [sys.executable, *flags(), "-c", bootstrap],
                stdin=subprocess.DEVNULL,
                pass_fds=theirs,
                cwd=blueprint.directory,
                env=blueprint.environment,
                start_new_session=True,
            )
        except BaseException:
            for fd in ends:
                os.close(fd)
            raise
        for fd in theirs:
            os.close(fd)
        self.life = life[1]  # open for as long as we live
        self.data, self.control, self.result = Outlet(data[1]), Outlet(control[1]), Inlet(result[0])
        self.pidfd = self._open_pidfd()
        self.data.put(blueprint.code)
        self.data.put(_worker.FRAME.pack(len(blueprint.hello), 0))
        self.data.put(blueprint.hello)
        self.data.flush()

    def _open_pidfd(self) -> int:
        """Return a descriptor that is readable when the process has ended, -1 where there is no such thing."""
        if sys.platform != "linux":
            return -1
        try:
            return os.pidfd_open(self.popen.pid)
        except OSError:
            return -1

    @property
    def head(self) -> int:
        """The token of the call that runs, as far as is known here; 0 if there is none."""
        return next(iter(self.under_way), 0)

    def feed(self) -> list[tuple[Item, TransferError]]:
        """Send what may be sent now, and return the calls that cannot travel."""
        refused: list[tuple[Item, TransferError]] = []
        while self.unsent and self.data.size < OUT_LIMIT and not self.leaving:
            for part in self._frame(refused):
                self.data.put(part)
            self.data.flush()
        return refused

    def _frame(self, refused: list[tuple[Item, TransferError]]) -> Iterator[bytes]:
        flat: list[Any] = []
        blobs: list[bytes] = []
        size = 0
        while self.unsent and len(flat) < 4 * FRAME_CALLS and size < OUT_LIMIT:
            item = self.unsent.popleft()
            call = item.call
            try:
                number, source = item.owner.function(call)
                payload = encode_arguments(call)
            except TransferError as error:
                refused.append((item, error))
                continue
            if number not in self.known:
                self.known.add(number)
                size += self._append(flat, blobs, 0, number, source, "")
            self.token += 1
            self.under_way[self.token] = item
            size += self._append(flat, blobs, self.token, number, payload, self._name(item))
        if not flat:
            return
        body = marshal.dumps(flat)
        yield _worker.FRAME.pack(len(body), sum(map(len, blobs))) + body
        yield from blobs

    def _name(self, item: Item) -> str | tuple[str, int, str, tuple[str, ...], str, int, bool]:
        """Return the name of the node of a call, with what else the worker has to know, see `_worker.Worker.stand`."""
        call = item.call
        before, self.last = self.last, (item, self.token)
        after = self.unsent[0] if self.unsent else None
        ridden = after is not None and after.call.rides == call.attempt and after.owner is item.owner
        number_of_try = call.attempt >> NUMBER_SHIFT
        if not (number_of_try or call.key or call.path or call.folder or ridden or call.rides >= 0):
            return call.node
        rides = 0
        if call.rides >= 0:
            rode = before is not None and before[0].call.attempt == call.rides and before[0].owner is item.owner
            rides = before[1] if before is not None and rode else NOBODY
        return call.node, number_of_try, call.key, call.path, call.folder, rides, ridden

    @staticmethod
    def _append(flat: list[Any], blobs: list[bytes], token: int, number: int, payload: bytes | None, name: Any) -> int:
        size = len(payload) if payload is not None else 0
        if payload is not None and size > _worker.BLOB:
            blobs.append(payload)
            flat += (token, number, size, name)
        else:
            flat += (token, number, payload, name)
        return size

    def forget(self, numbers: set[int]) -> None:
        """Let the worker drop functions that nobody will call again."""
        known = self.known & numbers
        if not known or self.leaving:
            return
        self.known -= known
        body = marshal.dumps([part for number in known for part in (0, number, None, "")])
        self.data.put(_worker.FRAME.pack(len(body), 0) + body)
        self.data.flush()

    def ask_back(self, tokens: Iterable[int]) -> None:
        """Ask the worker for those of these calls that it has not started; the answer comes as a record."""
        asked = list(tokens)
        if not asked or self.leaving:
            return
        self.asked.update(asked)
        body = marshal.dumps(asked)
        self.control.put(_worker.REQUEST.pack(len(body)) + body)
        self.control.flush()

    def leave(self) -> None:
        """Let the worker end when it has done what it has."""
        self.leaving = True
        self.data.close()

    def kill(self, reason: str) -> None:
        """End the process and all that it started, now."""
        self.reason = self.reason or reason
        self.leaving = True
        if self.popen.returncode is None:
            try:
                os.killpg(self.popen.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def end(self) -> str:
        """Collect the process, dead or dying, close everything and return how it died."""
        self.kill("")
        self.popen.wait()
        self._close()
        return self.reason or f"worker process {self.popen.pid} {how_it_ended(self.popen.returncode)}"

    def disown(self) -> None:
        """In a fork of the parent: let go of the pipes, so that only the parent holds the worker's life."""
        self._close()
        # The process is not ours to wait for, and its end is not to be warned of.
        self.popen.returncode = 0

    def _close(self) -> None:
        self.data.close()
        self.control.close()
        self.result.close()
        for fd in (self.pidfd, self.life):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.life = -1


def how_it_ended(code: int) -> str:
    """Say in words what an exit status means."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (perhaps the machine was out of memory)" if -code == signal.SIGKILL else "")
