"""Commands as tasks: what a process is started with, what is known of it at its end, and the mark of a task that starts one.

A task that is a `Command` is called as any other, with the values of its predecessors, and says with a `Launch` what is to be
started; or it is a sequence, a generator that yields one thing after another. Who does all that, and where, is not known here.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dagrid.errors import CommandError, InvalidSettingError, OutputLimitError
from dagrid.masking import masked
from dagrid.serving import serve as serve

SIGTERM = 15
GRACE = 5.0
CAPTURE = 1 << 20
ERRORS = 4096
NOT_FOUND, NOT_EXECUTABLE, SIGNALLED = 127, 126, 128
"""What shells give for a command that is not there, that cannot be executed, and (with the signal added) that was killed."""

_SHOWN = 80
_LAST_LINES = 5

_WORD = (str, bytes, os.PathLike)

PathLike = str | os.PathLike[str]
Environment = Mapping[str, str]


class Exit(msgspec.Struct):
    """The end of a process; all texts and bytes are masked.

    Args:
        shown: the command, shortened, as messages show it.
        code: its exit code, 128 and the signal for one that a signal killed, as shells have it.
        signal: the number of the signal that killed it, or 0.
        stdout: what was kept of its standard output, see `Launch.capture`.
        stderr: the end of its standard error, see `Launch.errors`; with `merge` that of its standard output.
        seconds: how long it ran.
        truncated: it wrote more to its standard output than was kept.
        cut: it wrote more than `Launch.max_output`.
        trouble: why its output could not be written, empty where it was.
    """

    shown: str
    code: int
    signal: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    seconds: float = 0.0
    truncated: bool = False
    cut: bool = False
    trouble: str = ""

    @property
    def text(self) -> str:
        """The standard output as text, without the white space around it; what is not UTF-8 is shown as U+FFFD."""
        return self.stdout.decode("utf-8", "replace").strip()

    def check(self) -> None:
        """Raise `CommandError` if the command failed, or its output could not be written."""
        if self.code:
            how = f"was killed by {signal_name(self.signal)}" if self.signal else f"exited with code {self.code}"
            last = self.last_words
            said = f": {last[-1]}" if last else "."
            raise CommandError(f"{self.shown} {how}{said}", code=self.code, signal=self.signal, stderr="\n".join(last))
        if self.trouble:
            raise CommandError(f"{self.shown} ended well, but its output is not complete: {self.trouble}", code=0)

    @property
    def last_words(self) -> list[str]:
        """The last lines of its standard error that say something."""
        text = self.stderr.decode("utf-8", "replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]


class Launch(msgspec.Struct):
    """What a process is started with, and what becomes of its output. Plain data; it can be pickled if `done` can.

    The process has a session and a process group of its own. The attempt ends when it ends; what is then left of its group is
    killed. Who left the group (a daemon, by `setsid`) lives on, and no more of its output is read after a fifth of a second.

    Args:
        argv: the program, found along the PATH of `env`, and its arguments.
        env: its whole environment; None gives it that of this process.
        cwd: its working directory; None means that of this process.
        stdin: what it reads; None gives it an empty input.
        stdout: a file that its standard output is appended to, or several; None writes it nowhere.
        stderr: the same for its standard error.
        merge: its standard error goes where its standard output goes, in the order in which it was written.
        capture: how many bytes of its standard output are kept, from the first one, for `Exit.stdout`.
        errors: how many bytes of its standard error are kept, up to the last one, for `Exit.stderr`.
        max_output: how many bytes go to each file at most; a line then says that it was cut. The process goes on.
        whole: those of the files that get all of it, whatever `max_output` says.
        strict: who writes more than `max_output` to one of its streams, to a file or not, is stopped with its group, and its
            end is an `OutputLimitError`.
        mask: secrets, replaced by `*******` in all that is written or kept, and in messages.
        stop_signal: what its process group gets when the attempt is cancelled or late.
        grace: how many seconds the group then has to end before it is killed.
        done: makes the value of the node of the end of the process, or raises; called in the thread that watches all processes
            of the run, so it must be short. By default `value_of`.
        said: the words that messages show, masked, in place of `argv`.
        late: those of the files that are made when there is something to write, so that a silent process costs none.
    """

    argv: Sequence[str | bytes | os.PathLike[str]]
    env: Environment | None = None
    cwd: PathLike | None = None
    stdin: bytes | None = None
    stdout: PathLike | Sequence[PathLike] | None = None
    stderr: PathLike | Sequence[PathLike] | None = None
    merge: bool = False
    capture: int = 0
    errors: int = ERRORS
    max_output: int | None = None
    whole: Sequence[PathLike] = ()
    strict: bool = False
    mask: Sequence[str] = ()
    stop_signal: int = SIGTERM
    grace: float = GRACE
    done: Callable[[Exit], Any] | None = None
    said: Sequence[str] = ()
    late: Sequence[PathLike] = ()

    def __repr__(self) -> str:
        return f"<Launch {self.shown}>"  # nothing of it that may be secret

    @property
    def shown(self) -> str:
        """The command as messages show it: one line, masked and shortened."""
        import shlex  # only for who reads it

        words = self.said or ([self.argv] if isinstance(self.argv, str) else self.argv)
        text = shlex.join([os.fsdecode(word) if isinstance(word, _WORD) else repr(word) for word in words])
        line = " ".join(masked(text, self.mask).split())
        return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."

    def judged(self, end: Exit) -> Exit:
        """Return the end of the process, if that did not write more than it may.

        Raises:
            OutputLimitError: it did, and is `strict`.
        """
        if self.strict and end.cut and self.max_output is not None:
            raise OutputLimitError(
                f"{end.shown} wrote more than the {self.max_output} bytes of output that it may. Raise max_output, or let it "
                f"write less.",
                code=end.code,
                signal=end.signal,
                stderr="\n".join(end.last_words),
                limit=self.max_output,
            )
        return end


def value_of(end: Exit) -> str:
    """Return the text that a command wrote, as the value of its node.

    Raises:
        CommandError: it failed, its output is not complete, or more than was to be captured.
    """
    end.check()
    if end.truncated:
        raise CommandError(
            f"{end.shown} wrote more than the {len(end.stdout)} bytes that are captured. Raise capture, or let it write to a "
            f"file.",
            code=0,
        )
    return end.text


class Notify(Protocol):
    """Says what came of something that was waited for. The first call counts, from any thread; all later ones do nothing.

    It may be called before `Await.begin` returns, and when nobody waits any more, which does nothing either.
    """

    def __call__(self, value: Any = None, *, error: BaseException | None = None) -> None: ...


class Await(msgspec.Struct, frozen=True):
    """Something that happens elsewhere, and is waited for; meanwhile the attempt has no process and holds up no other.

    Args:
        begin: begins it, with a function that is to be told what came of it (`Notify`), and returns a function that cancels it,
            or None where there is nothing to cancel. Both run in the thread that watches the processes of the run and must be
            short. What is cancelled need not notify.
        parting: what is cancelled takes its time, and notifies when it has gone: until then the attempt has not ended,
            and is cancelled once more whenever somebody insists.
    """

    begin: Callable[[Notify], Callable[[], object] | None]
    parting: bool = False


class Server:
    """What a warm process is started with: one that calls `dagrid.commands.serve`, and answers one request after another.

    Two of them are equal if all that they say is equal; then the processes of one may answer what is asked of the other. The
    process has a session and a process group of its own. Its standard output goes nowhere, and the end of its standard error is
    kept for the error of a request that it does not answer.

    Args:
        argv: the program, found along the PATH of `env`, and its arguments.
        env: its whole environment; None gives it that of this process.
        cwd: its working directory; None means that of this process.

    Raises:
        InvalidSettingError: argv is no list of words, or env does not say texts.
    """

    __slots__ = ("_hash", "_key", "argv", "cwd", "env")

    def __init__(
        self,
        argv: Sequence[str | bytes | os.PathLike[str]],
        env: Environment | None = None,
        cwd: PathLike | None = None,
    ) -> None:
        if not argv or isinstance(argv, (str, bytes)) or not all(isinstance(word, _WORD) for word in argv):
            raise InvalidSettingError(f"The argv of a Server is a list of a program and its arguments, not {argv!r}.")
        if env is not None and not all(isinstance(text, (str, bytes)) for one in env.items() for text in one):
            raise InvalidSettingError("The env of a Server is texts by name.")
        self.argv = tuple(argv)
        self.env = None if env is None else dict(env)
        self.cwd = cwd
        self._key = self.argv, None if self.env is None else frozenset(self.env.items()), cwd
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Server) and self._hash == other._hash and self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        return Server, (self.argv, self.env, self.cwd)

    def __repr__(self) -> str:
        return f"<Server {Launch(self.argv).shown}>"  # nothing of its variables, which may be secret


class Request(msgspec.Struct):
    """Something that a warm process is to answer: one that was started for an equal `Server` and has nothing to do, or a new one.

    Args:
        server: what the process is started with, if there is none; it stays until the run ends.
        data: what it is sent. The answer is bytes too.
        mask: secrets, replaced by `*******` in its last words and in messages.
        stop_signal: what its process group gets when the attempt is cancelled or late. It answers no more requests then.
        grace: how many seconds the group then has to end before it is killed.
        said: what messages call the process, masked, in place of "the server" and its argv.
    """

    server: Server
    data: bytes
    mask: Sequence[str] = ()
    stop_signal: int = SIGTERM
    grace: float = GRACE
    said: str = ""

    def __repr__(self) -> str:
        return f"<Request of {len(self.data)} bytes to {self.server!r}>"


Thing = Launch | Await | Request
Steps = Generator[Thing, Any, Any]


class Command:
    """The mark of a task that starts a process: a function that is called with values and returns a `Launch`.

    It may stand wherever a function stands as a task, and as a decorator. Such nodes run beside the backend of a run, in a place
    of their own; the value of the node is what `Launch.done` makes of the end of the process.

    The function may return a generator instead: a sequence of things to be done, one after the other. It yields

    - a `Launch`, and is sent the `Exit`, whatever its code; where the launch has a `done`, what that returns;
    - an `Await`, and is sent the value that comes of it; an error is thrown in;
    - a `Request`, and is sent the answer of a warm process. If that ends before, its end is thrown in as a `CommandError`.

    What cannot be done (a program that is not there), and what `done` raises, is thrown in where it was yielded. What the
    generator returns is the value of the node, and what it raises the failure of the attempt. If the attempt is cancelled or
    late, what is being done for it is stopped, and the generator is closed when that is gone.

    Args:
        fn: called as any task is, in the thread that watches the processes of the run; it must be short, and so must a generator
            be from one yield to the next.
        exclusive: it is killed when its worker has lost the coordinator for a lease, so that no other worker ever performs the
            node at the same time.
    """

    def __init__(self, fn: Callable[..., Launch | Steps], exclusive: bool = False) -> None:
        self.fn = fn
        self.exclusive = exclusive
        functools.update_wrapper(self, fn)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Launch | Steps:
        return self.fn(*args, **kwargs)

    def __reduce__(self) -> Any:
        found: Any = sys.modules.get(self.__module__)
        for part in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, part, None)
        if found is self:
            return self.__qualname__
        return Command, (self.fn, True) if self.exclusive else (self.fn,)

    def __repr__(self) -> str:
        return f"Command({self.fn!r})"


def command(
    line: str | Sequence[str],
    *,
    env: Environment | None = None,
    cwd: PathLike | None = None,
    stdin: str | bytes | None = None,
    stdout: PathLike | None = None,
    stderr: PathLike | None = None,
    capture: int = CAPTURE,
    shell: str | Sequence[str] = "/bin/sh",
    mask: Sequence[str] = (),
    grace: float = GRACE,
) -> Command:
    """Make a task of a command. The value of its node is the text that the command writes, without the white space around it.

    A command takes no values of other nodes; one that shall is a function that returns a `Launch`, marked with `Command`.

    Args:
        line: a text for the shell; or a list of a program and its arguments, which no shell sees.
        env: variables that the command has beside those of this process.
        cwd: its working directory; by default that of this process when it starts.
        stdin: what it reads.
        stdout: a file that its output is appended to as well.
        stderr: a file that its standard error is appended to; its last lines are in the error of a command that fails.
        capture: how many bytes of output the value may have; one that writes more fails. 0 takes none, and the value is empty.
        shell: what is called with `-c` and the text; or a list such as ["bash", "-euo", "pipefail", "-c"], to which it is added.
        mask: secrets, replaced by `*******` in values, files and messages.
        grace: how many seconds it has to end on its own when it is cancelled or late.

    Raises:
        InvalidSettingError: there is no command, or a setting that cannot be.
    """
    words = line if isinstance(line, Sequence) and not isinstance(line, bytes) else ()
    if not words or not all(isinstance(word, _WORD) for word in words):
        raise InvalidSettingError(f"A command is a text for the shell or a list of words, not {line!r}.")
    if capture < 0 or grace < 0:
        raise InvalidSettingError("capture and grace are numbers from 0 up.")
    words = [*_words_of(shell), line] if isinstance(line, str) else [os.fspath(word) for word in line]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    launch = Launch(words, None, cwd, data, stdout, stderr, capture=capture, mask=tuple(mask), grace=grace)
    return Command(_Fixed(launch, dict(env or {})))


def _words_of(shell: str | Sequence[str]) -> list[str]:
    return [shell, "-c"] if isinstance(shell, str) else list(shell)


class _Fixed(msgspec.Struct):
    """A function that returns the same launch, in the environment of its time."""

    launch: Launch
    env: dict[str, str]

    def __repr__(self) -> str:
        return repr(self.launch)

    def __call__(self) -> Launch:
        return msgspec.structs.replace(self.launch, env=os.environ | self.env) if self.env else self.launch


def signal_name(number: int) -> str:
    """Return what a signal is called."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
