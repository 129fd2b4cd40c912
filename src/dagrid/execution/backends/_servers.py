"""Warm processes: each answers requests over a line of its own, one at a time, and stays for the next one of its kind.

They are processes as any other of the session, so that what holds for these (groups, signals, the watchdog, last words) holds for
them; here is only what goes over the line. It knows no attempts: who asks is told the answer, or why there is none.
"""

from __future__ import annotations

import selectors
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dagrid.commands import NOT_EXECUTABLE, Exit, Launch, Request, Server, signal_name
from dagrid.errors import CommandError
from dagrid.execution.backends._launching import KILL, Process, how_not_to_stop
from dagrid.execution.backends._running import PARTING, READ_SIZE, Ground, Running
from dagrid.masking import masked
from dagrid.serving import HEAD, MARK, MOST, framed

IDLE = 64
"""How many servers without work are kept at most."""
SILENCE = 0.5
"""How many seconds a process that has closed its line has to end, so that its end says more than the line."""

Tell = Callable[[Any, BaseException | None], None]


class Begun:
    """A process that was started to serve, which nobody looks after yet; it ends when its line does.

    Args:
        kind: what it is started from.
        mask: what is secret in its last words.

    Raises:
        CommandError: it cannot be started.

    Attributes:
        line: this end of its line.
    """

    __slots__ = ("kind", "launch", "line", "mask", "process")

    def __init__(self, kind: Server, mask: Sequence[str]) -> None:
        import socket  # only who asks a warm process needs it

        self.kind = kind
        self.mask = mask
        self.launch = Launch(kind.argv, kind.env, kind.cwd, mask=mask)
        self.line, theirs = socket.socketpair()
        try:
            self.line.setblocking(False)
            self.process = Process(self.launch, subprocess.DEVNULL, theirs.fileno())
        except BaseException:
            self.line.close()
            raise
        finally:
            theirs.close()

    def end(self) -> None:
        """End it, for nobody wants it."""
        self.line.close()
        self.process.kill(KILL)
        self.process.wait(PARTING)
        self.process.close()


class Service:
    """A process that serves.

    Attributes:
        running: the process.
        kind: what it was started from.
    """

    __slots__ = (
        "_incoming",
        "_line",
        "_mask",
        "_outgoing",
        "_secrets",
        "_servers",
        "_tell",
        "_trouble",
        "_watched",
        "kind",
        "request",
        "running",
    )  # fmt: skip

    def __init__(self, servers: Servers, begun: Begun) -> None:
        """Look after a process from now on. Raises CommandError."""
        self._servers = servers
        self.kind = begun.kind
        self.request: Request | None = None
        self._tell: Tell | None = None
        self._incoming = bytearray()
        self._outgoing: memoryview | None = None
        self._trouble = ""
        self._mask = begun.mask
        self._secrets = {*begun.mask}
        self._watched = False
        self._line = begun.line
        try:
            self.running = Running(servers.ground, begun.launch, self._over, self._failed, begun.process)
        except BaseException:
            self._line.close()
            raise
        self._watch(selectors.EVENT_READ)

    def ask(self, request: Request, tell: Tell) -> None:
        """Send a request; `tell` is called with the answer, or with the error that there is none."""
        self.request, self._tell = request, tell
        data = framed(request.data)
        try:
            sent = self._line.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # its end is noticed soon
            self._hung_up()
            return
        if sent < len(data):
            self._outgoing = memoryview(data)[sent:]
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)

    def renew(self, mask: Sequence[str]) -> bool:
        """Make it ready for another request, and return whether it can take one; its last words are those of that one."""
        running = self.running
        if running.left or running.process.has_ended():
            return False
        running.drain()
        if mask is not self._mask:
            self._mask = mask
            if not self._secrets.issuperset(mask):
                self._secrets.update(mask)
                running.process.mask(tuple(self._secrets))
        running.process.forget()
        return True

    def stop(self) -> None:
        """Stop it as its request says; what it still answers is not heard."""
        assert self.request is not None
        self._unwatch()
        self.running.stop(self.request.stop_signal, self.request.grace)

    def dismiss(self) -> None:
        """Let it go when it has nothing to do: its line ends, and so does it."""
        self._unwatch()
        self._line.close()
        self.running.stop(0, PARTING)

    def fail(self, error: BaseException) -> None:
        self.running.fail(error)

    def _ready(self) -> None:
        """Something can be done with its line."""
        if not self._watched:
            return
        if self._outgoing is not None:
            self._send_on(self._outgoing)
        try:
            data = self._line.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hung_up()
        elif self.request is None:
            self._refuse("spoke without being asked")
        else:
            self._take(data)

    def _send_on(self, data: memoryview) -> None:
        try:
            data = data[self._line.send(data) :]
        except BlockingIOError:
            return
        except OSError:
            data = data[:0]  # reading will tell
        self._outgoing = data or None
        if self._outgoing is None:
            self._watch(selectors.EVENT_READ)

    def _take(self, data: bytes) -> None:
        incoming = self._incoming
        incoming += data
        size = len(incoming)
        whole = HEAD + int.from_bytes(incoming[4:HEAD], "big") if size >= HEAD else HEAD
        done = size >= HEAD and size == whole
        known = incoming.startswith(MARK) or MARK.startswith(incoming)
        if not known or size > whole or (done and self._outgoing is not None):
            self._refuse("wrote to its line what is no answer of dagrid.commands.serve")
        elif done:
            answer = bytes(memoryview(incoming)[HEAD:])
            self._incoming = bytearray()
            tell, self._tell, self.request = self._tell, None, None
            self._servers.rest(self)
            assert tell is not None
            tell(answer, None)

    def _hung_up(self) -> None:
        """Its line is closed; most often because it ends, and then its end says why."""
        self._unwatch()
        self._trouble = self._trouble or "closed its line"
        self._servers.leave(self)
        self.running.stop(0, SILENCE)

    def _refuse(self, trouble: str) -> None:
        """It cannot be relied on."""
        self._unwatch()
        self._trouble = trouble
        self._servers.leave(self)
        self.running.stop(KILL, 0)

    def _watch(self, events: int) -> None:
        selector, data = self._servers.ground.selector, (self, self._ready)
        (selector.modify if self._watched else selector.register)(self._line, events, data)
        self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._servers.ground.selector.unregister(self._line)

    def _over(self) -> None:
        """Its process has ended."""
        self._gone(None)

    def _failed(self, error: BaseException) -> None:
        self._gone(error)

    def _gone(self, error: BaseException | None) -> None:
        self._unwatch()
        self._line.close()
        self._servers.forget(self)
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(None, error or self._unanswered(self.running.exit()))

    def _unanswered(self, end: Exit) -> CommandError:
        """Return why there is no answer."""
        code, number = end.code, end.signal
        if self._trouble and self.running.killed:
            how, code, number = self._trouble, 1, 0
        else:
            how = f"was killed by {signal_name(number)}" if number else f"exited with code {code}"
        last = end.last_words
        said = f": {last[-1]}" if last else "."
        asked = self.request
        who = masked(asked.said, asked.mask) if asked is not None and asked.said else f"The server {end.shown}"
        return CommandError(
            f"{who} {how} before it had answered{said}",
            code=code,
            signal=number,
            stderr="\n".join(last),
        )


class Servers:
    """The warm processes of one session.

    Args:
        ground: what they share.
        begun: those that were started before anybody asked.

    Attributes:
        alive: those that there are, also those that have been told to go.
    """

    def __init__(self, ground: Ground, begun: Sequence[Begun] = ()) -> None:
        self.ground = ground
        self.alive: set[Service] = set()
        self._idle: dict[Server, list[Service]] = {}
        self._resting: dict[Service, None] = {}  # the one that has rested longest first
        for one in begun:
            self.rest(self._looked_after(one))

    def ask(self, request: Request, tell: Tell) -> Service:
        """Send a request to a server of its kind that has nothing to do, or to a new one.

        Raises:
            CommandError: none can be started, or it is no request.
        """
        _check(request)
        service = self._rested(request)
        if service is None:
            service = self._looked_after(Begun(request.server, request.mask))
        service.ask(request, tell)
        return service

    def rest(self, service: Service) -> None:
        """A server has answered."""
        self._idle.setdefault(service.kind, []).append(service)
        self._resting[service] = None
        if len(self._resting) > IDLE:
            longest = next(iter(self._resting))
            self.leave(longest)
            longest.dismiss()

    def leave(self, service: Service) -> None:
        """A server is not to be asked any more."""
        if service in self._resting:
            del self._resting[service]
            alike = self._idle[service.kind]
            alike.remove(service)
            if not alike:
                del self._idle[service.kind]

    def forget(self, service: Service) -> None:
        """A server has ended."""
        self.leave(service)
        self.alive.discard(service)

    def dismiss(self, kinds: Iterable[Server]) -> None:
        """Let those of certain kinds go that have nothing to do."""
        for service in [one for kind in kinds for one in self._idle.get(kind, ())]:
            self.leave(service)
            service.dismiss()

    def close(self) -> None:
        """Let those go that have nothing to do."""
        self.dismiss(list(self._idle))

    def _looked_after(self, begun: Begun) -> Service:
        service = Service(self, begun)
        self.alive.add(service)
        return service

    def _rested(self, request: Request) -> Service | None:
        while (resting := self._idle.get(request.server)) is not None:
            service = resting[-1]
            self.leave(service)
            if service.renew(request.mask):
                return service
        return None


def _check(request: Request) -> None:
    """Refuse what cannot be asked."""
    refused = ""
    if not isinstance(request.server, Server):
        refused = f"server is a Server, not {type(request.server).__name__}"
    elif not isinstance(request.data, (bytes, bytearray, memoryview)):
        refused = f"data is bytes, not {type(request.data).__name__}; encode it"
    elif len(request.data) > MOST:
        refused = f"data is at most {MOST} bytes; let a file carry more"
    elif isinstance(request.mask, (str, bytes)):
        refused = "mask is a list of secrets, not one text"
    else:
        refused = how_not_to_stop(request.stop_signal, request.grace)
    if refused:
        raise CommandError(f"The request cannot be sent: {refused}.", code=NOT_EXECUTABLE)
