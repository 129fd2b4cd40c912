"""The program of a warm Python process: it calls one importable function after the other, as it is asked to.

It runs by itself, without the rest of dagrid, so that it starts quickly; what it needs of dagrid is loaded by its file. Whatever
is written to standard output and standard error while a function runs, by Python or not, goes to the logs of the step.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pickle
import select
import sys
import threading
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from types import BuiltinFunctionType, CoroutineType, FunctionType, ModuleType

TYPE_CHECKING = False  # what loads as quickly as this does without `typing`
if TYPE_CHECKING:
    from typing import Any

FILES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROTOCOL = 5
MOST_SAID = 10_000
"""How much of what an exception says is in the error of a step."""

written = json.JSONEncoder(ensure_ascii=False).encode


def loaded(name: str) -> Any:
    """Return a module of dagrid that needs no other one, without importing the package around it."""
    module = ModuleType(f"dagrid_warm_{name}")
    SourceFileLoader(module.__name__, os.path.join(FILES, f"{name}.py")).exec_module(module)
    return module


class Log:
    """Files that get a stream, with secrets masked.

    Args:
        logs: the paths of files that get it up to the limit, and are made with the first byte, for most functions write none.
        files: those of files that are there in any case, and get all of it.
        mask, limit: of the stream.

    Attributes:
        cut: more than the limit came.
        trouble: which file could not be written, and why; it gets no more.
    """

    def __init__(self, logs: list[str], files: list[str], mask: list[str], limit: int) -> None:
        self.logs = logs
        self.bounded: dict[int, str] = {}
        self.masker = loaded("masking").Masker(mask) if mask else None
        self.limit = limit
        self.left = limit
        self.cut = False
        self.trouble = ""
        self.whole = self._opened(files)

    def take(self, data: bytes) -> None:
        self._write(self.masker.feed(data) if self.masker is not None else data)

    def end(self) -> None:
        if self.masker is not None:
            self._write(self.masker.end())
        for file in (*self.bounded, *self.whole):
            os.close(file)

    def _write(self, data: bytes) -> None:
        if not data:
            return
        self._append(self.whole, data)
        if self.cut:
            return
        if self.logs:
            logs, self.logs = self.logs, []
            self.bounded = self._opened(logs)
        if len(data) > self.left:
            data = data[: self.left] + f"\n[cut after {self.limit} bytes]\n".encode()
            self.cut = True
        self.left -= len(data)
        self._append(self.bounded, data)

    def _append(self, files: dict[int, str], data: bytes) -> None:
        for file, path in list(files.items()):
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(file, view) :]
            except OSError as error:
                del files[file]
                os.close(file)
                self._cannot(path, error)

    def _opened(self, paths: list[str]) -> dict[int, str]:
        found = {}
        for path in paths:
            try:
                found[os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)] = path
            except (OSError, ValueError) as error:
                self._cannot(path, error)
        return found

    def _cannot(self, path: str, error: Exception) -> None:
        self.trouble = self.trouble or f"{path!r} cannot be written: {getattr(error, 'strerror', '') or error}"


def text_file(descriptor: int) -> io.TextIOWrapper:
    """Return what writes text to a descriptor at once."""
    return io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)


class Streams:
    """Standard output and standard error of this process, led into the logs of the step whose function runs."""

    def __init__(self) -> None:
        self.logs: dict[int, Log] = {}
        self.guard = threading.Lock()
        self.reading = []
        self.writing = []
        self.unread = select.poll()
        for _ in (1, 2):
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            self.writing.append(writing)
            self.reading.append(reading)
            self.unread.register(reading, select.POLLIN)
        self.files = [text_file(1), text_file(2)]
        self.restore()
        threading.Thread(target=self._drain, daemon=True).start()

    def restore(self) -> None:
        """Let both lead here again, whatever a function has made of them."""
        for number, writing in enumerate(self.writing):
            os.dup2(writing, number + 1)
            if self.files[number].closed:
                self.files[number] = text_file(number + 1)
        sys.stdout, sys.stderr = self.files

    def begin(self, out: Log, err: Log) -> None:
        with self.guard:
            self.logs = dict(zip(self.reading, (out, err), strict=True))

    def end(self) -> None:
        """Take what was written by now, and nothing after it."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # a function has closed it, or put something else in its place
        with self.guard:
            while any(self._read(reading) for reading, _ in self.unread.poll(0)):
                pass
            self.logs = {}

    def _drain(self) -> None:
        while True:
            ready, _, _ = select.select(self.reading, [], [])
            with self.guard:
                for reading in ready:
                    self._read(reading)

    def _read(self, reading: int) -> bool:
        try:
            data = os.read(reading, 1 << 16)
        except BlockingIOError:
            return False
        log = self.logs.get(reading)
        if data and log is not None:
            log.take(data)
        return bool(data)


@lru_cache(256)
def found(name: str) -> Any:
    """Return the function that `package.module:function` means."""
    module, _, path = name.partition(":")
    function: Any = importlib.import_module(module)
    for part in path.split("."):
        function = getattr(function, part)
    return function


@lru_cache(256)
def parameters(name: str, given: int) -> frozenset[str]:
    """Return the names of the parameters of a function that can be passed by name, where so many are given by place."""
    function = found(name)
    if type(function) is FunctionType and not function.__dict__.keys() & {"__wrapped__", "__signature__"}:
        code = function.__code__
        last = code.co_argcount
        by_name = code.co_varnames[max(given, code.co_posonlyargcount) : last]
        return frozenset(by_name + code.co_varnames[last : last + code.co_kwonlyargcount])
    if type(function) is BuiltinFunctionType and (getattr(function, "__text_signature__", "") or "/)").endswith("/)"):
        return frozenset()
    import inspect  # it takes longer to load than the rest, and most functions say without it what they take

    try:
        known = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return frozenset()
    given_by_place = [one.name for one in known if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][:given]
    return frozenset(
        one.name
        for one in known
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in given_by_place
    )


def text_of(value: Any) -> str | None:
    """Return what a value is as the text of a variable."""
    if value is None or isinstance(value, str):
        return value
    try:
        return written(value)
    except (TypeError, ValueError):
        return str(value)


def packed(value: Any) -> bytes:
    """Return a value pickled, by cloudpickle where pickle cannot."""
    try:
        return pickle.dumps(value, PROTOCOL)
    except Exception:  # noqa: BLE001  # whatever the user's type raises
        import cloudpickle

        return cloudpickle.dumps(value, PROTOCOL)  # type: ignore[no-any-return]


def named(error: BaseException) -> str:
    """Return an exception in one sentence: its type, and what it says unless it fails to."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  # whatever the user's type raises
        said = ""
    if len(said) > MOST_SAID:
        said = f"{said[:MOST_SAID]}... ({len(said)} characters, which the log of the step has)"
    return f"{type(error).__name__}{': ' if said else ''}{said}"


def remedy(error: Exception) -> str:
    """Return what to do about a module that is not there."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return f". Put it beside the file of the workflow, or install it: {sys.executable} -m pip install ..."


def told(error: BaseException, frames: slice) -> str:
    """Return an exception as Python tells it, with these frames of it."""
    import traceback  # nobody needs it as long as all goes well

    shown = traceback.TracebackException.from_exception(error)
    shown.stack[:] = shown.stack[frames]
    return "".join(shown.format())


@lru_cache(1)
def opened(data: bytes) -> Any:
    """Return what the requests of a run have alike: the environment, the secrets, the limit of a log."""
    return pickle.loads(data)


class Performer:
    """Answers requests, each in the environment and the folder that it asks for, wherever the one before has gone."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.env: dict[str, str] = {}
        self.left: dict[bytes, bytes] = {}

    def handle(self, data: bytes) -> bytes:
        """Call the function of a request, and return what came of it."""
        shared, name, arguments, values, changes, folder, path, stdout, stderr, strict = pickle.loads(data)
        env, mask, limit = opened(shared)
        env = {**env, **changes}
        if None in changes.values():
            env = {one: value for one, value in env.items() if value is not None}
        out, err = (Log(logs, files, mask, limit) for logs, files in (stdout, stderr))
        answer: tuple[Any, ...] = "value", None, None
        if not (out.trouble or err.trouble):
            self.streams.begin(out, err)
            try:
                answer = self._answer(name, arguments, values, (env, folder, path))
            finally:
                self.streams.end()
        out.end()
        err.end()
        if answer[0] == "value" and (out.trouble or err.trouble):
            answer = "error", f"The output of {name} is not complete: {out.trouble or err.trouble}", 1, True
        elif answer[0] == "value" and strict and (out.cut or err.cut):
            answer = "error", f"It wrote more than {limit} bytes. Let it write less, or raise maxOutputSize.", 1, True
        return pickle.dumps(answer, PROTOCOL)

    def _answer(
        self, name: str, arguments: bytes, values: dict[str, bytes], place: tuple[dict[str, str], str, list[str]]
    ) -> tuple[Any, ...]:
        folder = place[1]
        try:
            os.chdir(folder)
        except OSError as error:
            return (
                "error",
                f"It cannot run in {folder!r}: {error.strerror}. Make that folder, or name another one.",
                1,
                False,
            )
        try:
            self._move(place[0], place[2])
            function = found(name)
        except Exception as error:  # noqa: BLE001  # whatever the user's module raises when it is imported
            sys.stderr.write(told(error, slice(-1, None)))
            return "error", f"{name} cannot be called: {named(error)}{remedy(error)}", 1, False
        try:
            args, kwargs = pickle.loads(arguments)
            if values:
                free = parameters(name, len(args)) - kwargs.keys()
                kwargs |= {one: pickle.loads(value) for one, value in values.items() if one in free}
            value = function(*args, **kwargs)
            if isinstance(value, CoroutineType):
                import asyncio  # few functions are async

                value = asyncio.run(value)
            return self._kept(name, value)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if not code:
                return "value", None, None
            return "error", f"{name} ended with sys.exit({end.code!r})", code, True
        except BaseException as error:  # noqa: BLE001  # it is the outcome of the step
            step_error = getattr(sys.modules.get("dagrid.errors"), "StepError", None)
            if step_error is not None and isinstance(error, step_error):
                return "error", error.message, error.code, error.retryable
            sys.stderr.write(told(error, slice(1, None)))
            return "error", f"{name} raised {named(error)}", 1, True

    def _kept(self, name: str, value: Any) -> tuple[Any, ...]:
        """Return what the steps behind have of a value."""
        if value is None:
            return "value", None, None
        try:
            return "value", packed(value), text_of(value)
        except Exception as error:  # noqa: BLE001  # whatever the user's type raises
            words = (
                f"{name} returned a {type(value).__name__}, which cannot be kept for the steps behind ({named(error)}). "
                f"Let it return something that can be pickled, or None."
            )
            return "error", words, 1, False

    def _move(self, env: dict[str, str], path: list[str]) -> None:
        """Go to the environment of a step, and let its modules be found."""
        held: dict[bytes, bytes] = getattr(os.environ, "_data", {})  # as it is kept; each look at the rest decodes it
        now = self.env if held and held == self.left else dict(os.environ)
        # Steps differ in few variables, and each that is set is a call of the system's.
        for name in [] if now.keys() <= env.keys() else now.keys() - env.keys():
            del os.environ[name]
        for name, value in env.items():
            if now.get(name) != value:
                os.environ[name] = value
        self.env, self.left = env, dict(held)
        for one in reversed(path):
            if one not in sys.path:
                sys.path.insert(0, one)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose modules are none of the user's
    serving, performer = loaded("serving"), Performer()
    gc.freeze()  # all of this is needed to the end, and at the end most of the time would go into looking through it
    serving.serve(performer.handle, performer.streams.restore)
