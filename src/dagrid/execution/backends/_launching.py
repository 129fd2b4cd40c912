"""A process and what belongs to it: it is started as a `Launch` says, with files, pipes and sinks for its output.

Errors before the start become `CommandError`s that name the remedy. When it is started, stopped and read is for the backend.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
from collections.abc import Sequence
from typing import Any

from dagrid.commands import NOT_EXECUTABLE, NOT_FOUND, SIGNALLED, Exit, Launch
from dagrid.errors import CommandError
from dagrid.execution.backends._output import Sink, appended
from dagrid.masking import masked

UNKNOWN = 255
KILL = int(signal.SIGKILL)


class Process:
    """A process that was started, and its streams.

    Attributes:
        pid: its number, and that of its process group.
        pipes: by descriptor, the streams that are still open, and where they end.
        code: the exit code as a shell has it, once it was collected.
        signal: what killed it, or 0.
        ended: it was collected.
    """

    __slots__ = (
        "_files",
        "_from",
        "_launch",
        "_popen",
        "_stderr",
        "_stdout",
        "code",
        "ended",
        "pid",
        "pipes",
        "signal",
    )

    def __init__(self, launch: Launch, null: int, stdin: int = -1) -> None:
        """Start it. `null` is a descriptor of the null device or stands for it, `stdin` is its input, if the launch says nothing.

        Raises:
            CommandError: it cannot be started.
        """
        self._launch = launch
        self._stdout = self._stderr = _NOTHING
        self.pipes: dict[int, Sink] = {}
        self.code = self.signal = 0
        self.ended = False
        self._from: tuple[str, int] | None = None
        self._files: list[int] = []
        self._popen: subprocess.Popen[bytes] | None = None
        try:
            _check(launch)
            self._start(launch, null, stdin)
        except CommandError:
            self.close()
            raise
        except (OSError, ValueError, TypeError) as error:
            self.close()
            raise _cannot_start(launch, error) from None
        finally:
            for each in self._files:
                os.close(each)
            self._files.clear()

    def _start(self, launch: Launch, null: int, stdin: int) -> None:
        if stdin < 0:
            stdin = null if launch.stdin is None else self._input(launch.stdin)
        tail = launch.errors
        out, self._stdout = self._stream(launch, launch.stdout, launch.capture, tail if launch.merge else 0, null)
        err = out
        if not launch.merge:
            err, self._stderr = self._stream(launch, launch.stderr, 0, tail, null)
        self._popen = subprocess.Popen(
            launch.argv, stdin=stdin, stdout=out, stderr=err, cwd=launch.cwd, env=launch.env, start_new_session=True
        )
        self.pid = self._popen.pid

    def _input(self, data: bytes) -> int:
        """Return a descriptor from which these bytes are read; a file, so that nobody has to feed it."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("dagrid-stdin")
        else:
            import tempfile  # it loads much, and few systems need it

            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        self._files.append(file)
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.lseek(file, 0, os.SEEK_SET)
        return file

    def _stream(self, launch: Launch, paths: Any, keep: int, tail: int, null: int) -> tuple[int, Sink]:
        """Return what the process gets for a stream, and where the stream ends.

        That is the file itself where nobody else has to see what is written; its end can be read later.
        """
        paths = [] if paths is None else [paths] if isinstance(paths, (str, os.PathLike)) else paths
        late = [os.fspath(path) for path in paths if path in launch.late]
        files: dict[int, str] = {}
        sink = _NOTHING
        try:
            for path in paths:
                if path not in launch.late:
                    files[self._opened(launch, path)] = os.fspath(path)
            if len(files) == 1 and not (late or keep or launch.mask or launch.max_output is not None):
                return self._given(*files.popitem(), tail), sink
            if not (files or late or keep or tail or (launch.strict and launch.max_output is not None)):
                return null, sink
            reading, writing = os.pipe()
            whole = {os.fspath(path) for path in launch.whole}
            sink = Sink(files, launch.mask, keep, tail, launch.max_output, whole, late)
            files = {}
        finally:
            for file in files:
                os.close(file)
        os.set_blocking(reading, False)
        self.pipes[reading] = sink
        self._files.append(writing)
        return writing, sink

    def _given(self, file: int, path: str, tail: int) -> int:
        """Return a file that the process itself writes to; where its errors end, they are read from there."""
        self._files.append(file)
        if tail:
            found = os.fstat(file)
            self._from = (path, found.st_size) if stat.S_ISREG(found.st_mode) else None
        return file

    def _opened(self, launch: Launch, path: Any) -> int:
        try:
            return appended(path)
        except (OSError, ValueError, TypeError) as error:
            raise _cannot_write(launch, path, error) from None

    def read(self, descriptor: int, size: int) -> bool:
        """Read what a pipe has, and return whether there was something; at its end it is not among the pipes any more."""
        try:
            data = os.read(descriptor, size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self.pipes[descriptor].take(data)
            return True
        self.pipes.pop(descriptor).close()
        return False

    @property
    def cut(self) -> bool:
        """Whether it wrote more than it may."""
        return self._stdout.cut or self._stderr.cut

    def kill(self, number: int) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(OSError):  # nobody is left there, or somebody with more rights
            os.killpg(self.pid, number)

    def deserted(self) -> bool:
        """Return whether nobody is left in the group; for when the process itself has been collected."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return not _alive(self.pid)

    def collect(self) -> bool:
        """Take the exit code of the process, if it has ended."""
        try:
            number, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            number, status = self.pid, UNKNOWN << 8  # this program lets the system collect its children
        if not number:
            return False
        self.code = os.waitstatus_to_exitcode(status)
        if self.code < 0:
            self.signal = -self.code
            self.code = SIGNALLED + self.signal
        self.disown()
        return True

    def has_ended(self) -> bool:
        """Return whether the process has ended, or is about to be collected."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def mask(self, secrets: Sequence[str]) -> None:
        """Mask other secrets from now on; in place of the former ones."""
        self._launch.mask = secrets
        for sink in self.pipes.values():
            sink.mask(secrets)

    def forget(self) -> None:
        """What it wrote until now are not its last words."""
        for sink in self.pipes.values():
            sink.forget()

    def wait(self, timeout: float) -> None:
        """Wait for the end of a process that was killed; `timeout` in seconds."""
        if self._popen is not None and not self.ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)

    def disown(self) -> None:
        """Nobody has to wait for it any more."""
        self.ended = True
        if self._popen is not None:
            self._popen.returncode = self.code  # or its end would be warned of

    def close(self) -> None:
        """Read no more of it."""
        for descriptor, sink in self.pipes.items():
            os.close(descriptor)
            sink.close()
        self.pipes.clear()

    def exit(self, seconds: float) -> Exit:
        """Return what is known of its end."""
        launch, out, err = self._launch, self._stdout, self._stderr
        errors = out.tail if launch.merge else err.tail
        if self._from is not None and self.code:
            errors = _tail_of(*self._from, launch.errors)
        trouble = "; ".join(filter(None, (out.trouble, err.trouble)))
        return Exit(
            launch.shown,
            self.code,
            self.signal,
            out.kept,
            errors,
            seconds,
            out.truncated,
            self.cut,
            masked(trouble, launch.mask),
        )


_NOTHING = Sink()


def how_not_to_stop(number: Any, grace: Any) -> str:
    """Return what is wrong with the way in which something is to be stopped, or nothing."""
    if not (isinstance(number, int) and 0 < number < signal.NSIG):
        return f"stop_signal is the number of a signal, such as signal.SIGTERM, not {number!r}"
    if not (isinstance(grace, (int, float)) and grace >= 0):
        return f"grace is seconds from 0 up, not {grace!r}"
    return ""


def _check(launch: Launch) -> None:
    """Refuse what would be found out only when the process is there."""
    refused = ""
    if not launch.argv or isinstance(launch.argv, (str, bytes)):
        refused = f"argv is a list of a program and its arguments, not {launch.argv!r}; for a text say ['/bin/sh', '-c', text]"
    elif isinstance(launch.mask, (str, bytes)):
        raise CommandError(
            "The command cannot be started: mask is a list of secrets, not one text.", code=NOT_EXECUTABLE
        )
    else:
        refused = how_not_to_stop(launch.stop_signal, launch.grace)
    if refused:
        raise CommandError(masked(f"The command cannot be started: {refused}.", launch.mask), code=NOT_EXECUTABLE)


def _alive(group: int) -> bool:
    """Return whether a group has more than dead members, which nobody collects where a container has no init."""
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return True
    for number in numbers:
        with contextlib.suppress(OSError), open(f"/proc/{number}/stat", "rb") as file:
            state, _, its_group = file.read().rpartition(b") ")[2].split(maxsplit=3)[:3]
            if int(its_group) == group and state not in b"ZX":
                return True
    return not numbers


def _tail_of(path: str, start: int, size: int) -> bytes:
    """Return the end of what was appended to a file from a place on."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - size))
            return file.read(size)
    except OSError:
        return b""


def _cannot_write(launch: Launch, path: Any, error: Exception) -> CommandError:
    number = getattr(error, "errno", None)
    remedy = {
        errno.ENOENT: "Make its folder.",
        errno.ENOTDIR: "Make its folder.",
        errno.EACCES: "Choose a place that you may write to.",
        errno.EROFS: "Choose a place that you may write to.",
        errno.EISDIR: "Name a file, not a folder.",
        errno.ENXIO: "It is a pipe that nobody reads.",
        errno.ENOSPC: "Make room on the disk.",
        errno.EMFILE: "Raise the limit of open files (ulimit -n), or let fewer commands run at once.",
    }.get(number or 0, "Choose another place.")
    text = f"The output of {launch.shown} cannot be written to {path!r}: {_why(error)}. {remedy}"
    return CommandError(masked(text, launch.mask), code=NOT_EXECUTABLE)


def _cannot_start(launch: Launch, error: Exception) -> CommandError:
    number = getattr(error, "errno", None)
    first, code = launch.argv[0], NOT_EXECUTABLE
    program = os.fsdecode(first) if isinstance(first, (str, bytes, os.PathLike)) else repr(first)
    if launch.cwd is not None and not os.path.isdir(launch.cwd):
        what = f"there is no folder {os.fspath(launch.cwd)!r} to run it in. Make it, or name another one"
    elif launch.cwd is not None and not os.access(launch.cwd, os.X_OK):
        what = f"its folder {os.fspath(launch.cwd)!r} may not be entered. Change its rights, or name another one"
    elif number == errno.ENOENT:
        code = NOT_FOUND
        if os.path.exists(os.path.join(launch.cwd or "", program)):
            what = f"the interpreter in the first line of {program!r} is not there. Install it, or change that line"
        elif os.sep in program:
            what = f"there is no {program!r}. Look at its path"
        else:
            what = f"there is no program {program!r} along the PATH. Install it, or say where it is"
    elif number in (errno.EACCES, errno.EPERM):
        what = f"{program!r} may not be executed. Make it executable (chmod +x), or let an interpreter run it"
    elif number == errno.ENOEXEC:
        what = f"{program!r} is no program. A script needs a first line such as #!/bin/sh"
    elif number == errno.E2BIG:
        what = "its arguments and variables are too long. Let it read them from its input or from a file"
    elif number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        what = f"{_why(error)}. Let fewer commands run at once (max_concurrency), or raise the limit (ulimit)"
    elif isinstance(error, OSError):
        what = f"{_why(error)}. Look at {program!r}"
    else:
        what = f"{_why(error)}. Arguments and variables are texts without NUL"
    return CommandError(masked(f"{launch.shown} cannot be started: {what}.", launch.mask), code=code)


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
