"""What runs in a worker process: it reads calls, performs them and writes what became of them.

Its code is handed to a bare interpreter, so it imports nothing of dagrid and as little as it can of anything else: that
is what a worker's start costs. It knows pipes, numbers and bytes; what a node or a session is, it does not know.

The main thread performs the calls, and reads the data pipe itself when it has none left. A second thread sleeps on the
control pipe: it takes back calls that have not started, also while the main thread is busy. When the parent dies, the
process group is killed: by the kernel where it can be asked for that, else by the second thread.
"""

from __future__ import annotations

import marshal
import os
import select
import sys
from _contextvars import copy_context
from _thread import allocate_lock, start_new_thread
from collections import deque
from struct import Struct
from time import perf_counter, sleep

try:
    from _pickle import dumps as dumps
    from _pickle import loads as loads
except ImportError:
    from pickle import dumps as dumps
    from pickle import loads as loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# A record on the result pipe: length of the payload, token, kind, started, ended; the payload follows.
RECORD = Struct("<QQBdd")
# A frame on the data pipe: length of the marshalled list, length of all the blobs that follow it.
FRAME = Struct("<QQ")
# A request on the control pipe: length of the marshalled list of tokens.
REQUEST = Struct("<Q")

# The kinds of a record. MORE goes before the VALUE or NOTHING of the same call: what its task left beside the value. DROPPED is
# a call that is not performed, for what it rides on has not completed here.
NOTHING, VALUE, FAILED, STUCK, GIVEN_BACK, READY, BROKEN, MORE, DROPPED = range(9)
# The module under which tasks find what this process performs: see `dagrid.attempt`, which is not imported here.
PUBLISHED = "dagrid_worker"
# The variable in which a task finds its key: see there too.
KEY = "DAGRID_ATTEMPT_KEY"

# A payload above this size travels behind the list, as a blob, so that it is copied less often.
BLOB = 1 << 16
PROTOCOL = 5
MAIN = b"__main__"
SIGKILL = 9
# Seconds between two looks whether the thread that reads the data pipe has had enough of it.
PAUSE = 0.005


def encode(value: Any) -> bytes:
    """Return `value` pickled, by cloudpickle where the plain way fails or would refer to the sender's `__main__`."""
    try:
        data = dumps(value, PROTOCOL)
        if MAIN not in data:
            return data
    except Exception:  # noqa: BLE001 - whatever it is, cloudpickle may know better, and raises if it does not
        pass
    from cloudpickle import dumps as by_value

    return bytes(by_value(value, PROTOCOL))


def type_name(value: object) -> str:
    """Return the name of a value's type as a person would write it."""
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def told(error: BaseException) -> str:
    """Return the last line of a traceback; a broken `__str__` does no harm."""
    try:
        return f"{type_name(error)}: {error}"
    except Exception:  # noqa: BLE001 - the user's code
        return f"{type_name(error)} (its text cannot be shown)"


def traceback_of(error: BaseException, skip: int = 1) -> str:
    """Return the formatted traceback without its first `skip` frames, which are ours."""
    import traceback

    frames = error.__traceback__
    while skip and frames is not None:
        frames, skip = frames.tb_next, skip - 1
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - the user's code
        return told(error)


def encode_error(error: BaseException) -> tuple[int, bytes]:
    """Return the kind and the payload that report what a call raised: the exception itself if it can travel, without its cause.

    That is in the text. Where tblib is loaded, as by Dask, it would travel too, or keep the exception from it.
    """
    text = traceback_of(error)
    for name in ("__cause__", "__context__", "__traceback__"):
        BaseException.__setattr__(error, name, None)  # a frozen dataclass refuses any assignment
    try:
        data = encode((error, text))
        if type(loads(data)[0]) is type(error):
            return FAILED, data
        why = "it arrives as another type"
    except Exception as problem:  # noqa: BLE001 - the user's code
        why = told(problem)
    return STUCK, marshal.dumps(("error", type_name(error), why, told(error), text))


def stuck(what: str, kind: str, error: BaseException) -> bytes:
    """Return the payload that reports something that could not travel."""
    return marshal.dumps((what, kind, told(error), "", traceback_of(error)))


def read_exactly(fd: int, size: int) -> bytearray | None:
    """Return `size` bytes of a pipe, or None when it ended before."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    filled = 0
    while filled < size:
        got = os.readv(fd, [view[filled:]])
        if not got:
            return None
        filled += got
    return buffer


class Importing:
    """Folders where modules are found before all others, for calls of one project after another: each finds its own again."""

    def __init__(self) -> None:
        self.path: tuple[str, ...] = ()
        self.aside: dict[tuple[str, ...], dict[str, Any]] = {}

    def move(self, path: tuple[str, ...]) -> None:
        """Look in these folders from now on, and no longer in those from before."""
        before = self.path
        if before:
            mine = {name: module for name, module in sys.modules.items() if self.lies_in(module, before)}
            for name in mine:
                del sys.modules[name]
            self.aside[before] = mine
            sys.path[:] = [entry for entry in sys.path if entry not in before]
        sys.path[:0] = path
        sys.modules.update(self.aside.pop(path, {}))
        self.path = path

    @staticmethod
    def lies_in(module: Any, folders: tuple[str, ...]) -> bool:
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        return isinstance(file, str) and file.startswith(tuple(folder + os.sep for folder in folders))


class Worker:
    """The state of this process: the calls that wait, the functions that it was sent, and its pipes."""

    def __init__(self, data: int, control: int, result: int, life: int) -> None:
        self.data, self.control, self.result, self.life = data, control, result, life
        self.node = ""
        self.number = 0
        self.extra: Any = None
        self.importing = Importing()
        self.folder = ""  # where calls run, if not where this process began
        self.home = ""
        self.elsewhere = False
        self.ridden = False  # whether the next call rides on this one
        self.before: tuple[int, bytes | None] | None = None  # the value of the last one, which the next one rides on
        self.waiting: deque[tuple[int, int, Any, Any]] = deque()
        self.sources: dict[int, Any] = {}
        self.functions: dict[int, Callable[..., Any]] = {}
        self.unwanted: set[int] = set()
        self.newest = 0
        self.guard = allocate_lock()  # of the five above
        self.reading = allocate_lock()  # of the data pipe
        self.writing = allocate_lock()  # of the result pipe

    def send(self, kind: int, token: int, payload: bytes = b"", started: float = 0.0, ended: float = 0.0) -> None:
        record = RECORD.pack(len(payload), token, kind, started, ended)
        small = len(payload) <= BLOB
        with self.writing:
            try:
                self.write(record + payload if small else record)
                if not small:
                    self.write(payload)
            except OSError:
                os._exit(1)  # nobody is left to report to, or this is a fork that went on in the caller's place

    def write(self, data: bytes) -> None:
        size = len(data)
        written = os.write(self.result, data)
        if written < size:
            view = memoryview(data)
            while written < size:
                written += os.write(self.result, view[written:])

    def read_frame(self) -> bool:
        """Move one frame from the data pipe into the queue; False at its end. The caller holds `reading`."""
        head = read_exactly(self.data, FRAME.size)
        if head is None:
            return False
        size, blobs = FRAME.unpack(head)
        body = read_exactly(self.data, size)
        if body is None:
            return False
        flat = iter(marshal.loads(body))
        entries: Iterable[tuple[int, int, Any, Any]] = zip(flat, flat, flat, flat, strict=True)
        if blobs:
            whole = []
            for token, number, payload, name in entries:
                if type(payload) is int:
                    payload = read_exactly(self.data, payload)
                    if payload is None:
                        return False
                whole.append((token, number, payload, name))
            entries = whole
        self.take(entries)
        return True

    def take(self, entries: Iterable[tuple[int, int, Any, Any]]) -> None:
        returned = []
        with self.guard:
            for entry in entries:
                token, number, payload, _ = entry
                if not token:
                    self.functions.pop(number, None)
                    if payload is None:
                        self.sources.pop(number, None)
                    else:
                        self.sources[number] = payload
                    continue
                self.newest = token
                if token in self.unwanted:
                    self.unwanted.discard(token)
                    returned.append(token)
                else:
                    self.waiting.append(entry)
        if returned:
            self.send(GIVEN_BACK, 0, marshal.dumps((returned, [])))

    def listen(self) -> None:
        """Serve the control pipe until it ends, which means that the parent is no more."""
        try:
            while True:
                self.fetch_unwanted()
                head = read_exactly(self.control, REQUEST.size)
                body = read_exactly(self.control, REQUEST.unpack(head)[0]) if head else None
                if body is None:
                    break
                self.give_back(set(marshal.loads(body)))
        finally:
            os.killpg(0, SIGKILL)

    def give_back(self, wanted: set[int]) -> None:
        if self.reading.acquire(blocking=False):
            try:
                self.read_what_is_there()
            finally:
                self.reading.release()
        with self.guard:
            given = [entry[0] for entry in self.waiting if entry[0] in wanted]
            self.waiting = deque(entry for entry in self.waiting if entry[0] not in wanted)
            later = {token for token in wanted if token > self.newest}
            self.unwanted |= later
        self.send(GIVEN_BACK, 0, marshal.dumps((given, list(wanted - later - set(given)))))

    def fetch_unwanted(self) -> None:
        """Read what was asked back and has not come yet, until there is another request: the call that runs may last."""
        if not self.unwanted:
            return
        poll = select.poll()
        for pipe in (self.control, self.data):
            poll.register(pipe, select.POLLIN)
        while self.unwanted:
            if any(pipe == self.control for pipe, _ in poll.poll()):
                return
            if not self.reading.acquire(blocking=False):
                sleep(PAUSE)  # whoever reads gives back what it finds
                continue
            try:
                if not self.read_what_is_there():
                    return
            finally:
                self.reading.release()

    def read_what_is_there(self) -> bool:
        """Read the frames that have come; False at the end of the pipe. The caller holds `reading`."""
        poll = select.poll()
        poll.register(self.data, select.POLLIN)
        while poll.poll(0):
            if not self.read_frame():
                return False
        return True

    def next(self) -> tuple[int, int, Any, Any] | None:
        """Return the next call, waiting for it if need be; None when there will be no more."""
        while True:
            with self.guard:
                if self.waiting:
                    return self.waiting.popleft()
            with self.reading:
                if not self.waiting and not self.read_frame():
                    return None

    def function(self, number: int) -> Callable[..., Any]:
        with self.guard:
            source = self.sources[number]
        found = self.functions[number] = loads(source)
        return found  # type: ignore[no-any-return]

    def serve(self) -> None:
        """Perform calls until the data pipe ends."""
        clock, take = perf_counter, self.next
        while (entry := take()) is not None:
            token, number, payload, name = entry
            if type(name) is str:
                self.node, self.number, self.ridden = name, 0, False
                if self.elsewhere:
                    self.go((), "")
            elif not self.stand(token, *name):
                continue
            try:
                fn = self.functions.get(number) or self.function(number)
            except BaseException as error:  # noqa: BLE001 - the user's code, and a task must not end its worker
                self.send(STUCK, token, stuck("function", "function", error), now := clock(), now)
                continue
            args, kwargs = (), None
            if payload is not None:
                try:
                    args, kwargs = loads(payload)
                except BaseException as error:  # noqa: BLE001 - the user's code
                    self.send(STUCK, token, stuck("argument", "argument", error), now := clock(), now)
                    continue
            started = clock()
            try:
                run = copy_context().run
                value = run(fn, *args, **kwargs) if kwargs else run(fn, *args)
            except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt fail the task, no more
                ended = clock()
                self.extra = None
                kind, data = encode_error(error)
                self.send(kind, token, data, started, ended)
            else:
                ended = clock()
                if self.extra is not None and not self.send_extra(token, started, ended):
                    continue
                if value is None:
                    self.send(NOTHING, token, b"", started, ended)
                    if self.ridden:
                        self.before = token, None
                else:
                    self.send_value(token, value, started, ended)
            # An idle worker holds nothing of the user's.
            value = args = kwargs = payload = entry = None  # type: ignore[assignment]

    def stand(
        self, token: int, node: str, number: int, key: str, path: tuple[str, ...], folder: str, rides: int, ridden: bool
    ) -> bool:
        """Take what is said of a call beside its name; False if it is dropped.

        Args:
            token: of the call.
            node, number: its node, and which try it is.
            key: what the task finds in its environment.
            path: where its modules are found.
            folder: where it runs.
            rides: the token of the call on whose value it waits, the last one here; 0: on none.
            ridden: whether the next call waits for its value.
        """
        if rides and (self.before is None or self.before[0] != rides):
            self.before = None
            self.send(DROPPED, token)
            return False
        if not rides:
            self.before = None
        self.node, self.number, self.ridden = node, number, ridden
        if key:
            os.environ[KEY] = key
        if path != self.importing.path or folder != self.folder:
            self.go(path, folder)
        return True

    def go(self, path: tuple[str, ...], folder: str) -> None:
        """Go to where a call runs and finds its modules."""
        if path != self.importing.path:
            self.importing.move(path)
        if folder != self.folder:
            self.home = self.home or os.getcwd()
            os.chdir(folder or self.home)
            self.folder = folder
        self.elsewhere = bool(path or folder)

    def value_before(self) -> Any:
        """Return the value of the last call, for the one that rides on it; a new object each time."""
        assert self.before is not None
        data = self.before[1]
        return None if data is None else loads(data)

    def send_extra(self, token: int, started: float, ended: float) -> bool:
        """Send what the task left beside its value; False if it cannot travel, and the call has failed by it."""
        extra, self.extra = self.extra, None
        try:
            data = encode(extra)
        except BaseException as error:  # noqa: BLE001 - the user's code
            self.send(STUCK, token, stuck("extra", type_name(extra), error), started, ended)
            return False
        self.send(MORE, token, data, started, ended)
        return True

    def send_value(self, token: int, value: Any, started: float, ended: float) -> None:
        try:
            data = encode(value)
        except BaseException as error:  # noqa: BLE001 - the user's code
            self.send(STUCK, token, stuck("value", type_name(value), error), started, ended)
        else:
            self.send(VALUE, token, data, started, ended)
            if self.ridden:
                self.before = token, data

    def disown(self) -> None:
        """In a fork that a task made: let go of the pipes, so that their ends still tell who is alive."""
        for fd in (self.data, self.control, self.result, self.life):
            os.close(fd)
        self.data = self.control = self.result = self.life = -1


def die_with_parent(life: int) -> None:
    """Let the kernel kill the process group when the last writing end of a pipe is closed, whatever we do then.

    A thread of ours could not act while a long call in C holds the interpreter.
    """
    if sys.platform != "linux":
        return
    import fcntl

    try:
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        pass  # the thread at the control pipe does what it can


def prepare(hello: dict[str, Any]) -> None:
    """Make this interpreter resemble its parent, and call the user's initializer."""
    sys.path[:] = hello["path"]
    sys.argv[:] = hello["argv"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    if hello["initializer"]:
        loads(hello["initializer"])()


def main(data: int, control: int, result: int, life: int) -> None:
    """Serve the pipes until the first one ends."""
    die_with_parent(life)
    worker = Worker(data, control, result, life)
    published = sys.modules[PUBLISHED] = type(sys)(PUBLISHED)
    published.holder = worker  # type: ignore[attr-defined]
    for fd in (data, control, result, life):
        os.set_inheritable(fd, False)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=worker.disown)
    head = read_exactly(data, FRAME.size)
    body = read_exactly(data, FRAME.unpack(head)[0]) if head else None
    if body is None:
        return
    start_new_thread(worker.listen, ())
    try:
        prepare(marshal.loads(body))
    except BaseException as error:  # noqa: BLE001 - the user's initializer
        worker.send(BROKEN, 0, marshal.dumps((told(error), traceback_of(error, skip=2))))
        return
    worker.send(READY, 0, b"", perf_counter())
    worker.serve()
