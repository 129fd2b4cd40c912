"""The side of a warm process: it reads requests from a line and answers each. Bytes only, and nothing of dagrid is needed here.

The line is a socket that such a process gets as its standard input. A request and an answer look alike: a mark of four bytes, the
length of the data in four more (the highest first), the data. This file may be loaded by its path in a process that has no
dagrid, or has no time to import it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

MARK = b"dgr1"
HEAD = 8
MOST = (1 << 32) - 1
"""How many bytes a request or an answer has at most."""
READ_SIZE = 1 << 16


def framed(data: bytes) -> bytes:
    """Return data as it goes over the line."""
    return MARK + len(data).to_bytes(4, "big") + data


def serve(handle: Callable[[bytes], bytes], afterwards: Callable[[], object] | None = None) -> None:
    """Answer requests with `handle(data)`, one by one, until nobody is there to ask; a program that serves ends with this.

    It is for a process that was started for a `dagrid.commands.Server`. Its standard input is the line, which is taken away from
    it here, so that what the handler starts cannot disturb it. Standard output and standard error are the handler's: the former
    goes nowhere, the last lines of the latter are in the error of a request that is not answered.

    What the handler raises ends the process; an error that the other side shall know is part of an answer.

    Args:
        handle: makes the answer; bytes as well, at most 4 GiB.
        afterwards: is called when an answer has gone, for what nobody has to wait for.

    Raises:
        BackendError: this process was not started as a server.
        TypeError: an answer is no bytes.
    """
    line = _line()
    process = os.getpid()
    try:
        while (data := _received(line)) is not None:
            answer = handle(data)
            if os.getpid() != process:
                os._exit(0)  # a fork that the handler made and that went on in its place: one answer is enough
            if not isinstance(answer, (bytes, bytearray, memoryview)):
                raise TypeError(f"The handler of a server returns bytes, not {type(answer).__name__}.")
            view = memoryview(framed(answer))
            while view:
                view = view[os.write(line, view) :]
            if afterwards is not None:
                afterwards()
    except (BrokenPipeError, ConnectionResetError):
        return  # nobody is there any more
    finally:
        os.close(line)


def _line() -> int:
    """Take the line from the standard input, which is empty from now on."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        from dagrid.errors import BackendError

        raise BackendError(
            "serve() answers what comes over the line that a server of dagrid has as its standard input, and there is none here. "
            "Yield Request(Server([...]), data) in a Command, and let dagrid start this program."
        )
    line = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return line


def _received(line: int) -> bytes | None:
    """Return the next request, or None when there is none any more."""
    pieces: list[bytes] = []
    size, whole = 0, HEAD
    while size < whole:
        piece = os.read(line, READ_SIZE)
        if not piece:
            return None
        pieces.append(piece)
        size += len(piece)
        if whole == HEAD and size >= HEAD:
            pieces = [b"".join(pieces)]
            whole += int.from_bytes(pieces[0][4:HEAD], "big")
    return b"".join(pieces)[HEAD:]
