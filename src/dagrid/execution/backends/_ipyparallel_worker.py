"""What an IPython engine is asked, and what it does about it: letters for performers in, records out, in one exchange.

An engine answers one request at a time, in its main thread; performers perform their calls in other threads meanwhile. It knows
performers, and of the engine only whether somebody is waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import msgspec

from dagrid.execution.backends._performer import Performer, Record

LINGER = 0.001
"""Seconds for which an answer that has something in it waits for more, while there is something to do."""
STARTS = 0.005
"""Seconds after which it is told that a call has started; one that has ended by then has its times in its report."""
BLIND = 0.05
"""Seconds for which an engine waits at most that cannot see whether somebody waits for it."""
GLANCES = (0.001, 0.02)
"""Seconds between two looks at who waits for the engine: at first, and at last."""

FACTS = (
    "(__import__('sys').version_info[:2], __import__('socket').gethostname(), __import__('os').getpid(), "
    "__import__('os').environ.get('DAGRID_WORKER_LABELS', ''), "
    "__import__('importlib.util').util.find_spec('dagrid') is not None)"
)
"""What any Python can evaluate, of whatever version and without dagrid: its version, its machine, its number, its labels, and
whether dagrid is there."""

Letter = tuple[list[tuple[int, bytes]], list[int], int]
"""Tokens and calls; the tokens that are wanted back; the token that is to be stopped, or 0."""


class Packet(msgspec.Struct, array_like=True):
    """What goes to a performer: it is made by the first one and ended by the last.

    Args:
        performer: its key, and what it is called.
        letters: for it.
        wait: seconds for which the answer may wait for a call to end.
        ends: whether it is to perform nothing any more.
    """

    performer: str
    name: str
    letters: Sequence[Letter] = ()
    wait: float = 0.0
    ends: bool = False


encode_packet = msgspec.msgpack.Encoder().encode
_decode_packet = msgspec.msgpack.Decoder(Packet).decode
_encode_records = msgspec.msgpack.Encoder().encode
decode_records: Callable[[bytes], list[Record]] = msgspec.msgpack.Decoder(list[tuple[int, int, Any]]).decode

_performers: dict[str, Performer] = {}


class _Exchange:
    """The one function of this module that is sent: as its name, for ipyparallel would send the code of a real one."""

    __name__ = "exchange"

    def __reduce__(self) -> str:
        return "exchange"

    def __call__(self, data: bytes) -> bytes:
        """Give letters to a performer, and return what it has to tell.

        Args:
            data: a `Packet`, encoded; none at all asks only whether this can be called.
        """
        if not data:
            return b""
        packet = _decode_packet(data)
        if packet.ends:
            gone = _performers.pop(packet.performer, None)
            if gone is not None:
                gone.end()
            return b""
        performer = _performers.get(packet.performer)
        if performer is None:
            performer = _performers[packet.performer] = Performer(packet.name)
        for letter in packet.letters:
            performer.take(*letter)
        _wait(performer, packet.wait)
        return _encode_records(performer.gathered())


exchange = _Exchange()


def _wait(performer: Performer, limit: float) -> None:
    """Wait for a call to end, until somebody else wants the engine."""
    begun = monotonic()
    wanted = _who_waits()
    until = begun + (limit if wanted is not None else min(limit, BLIND))
    while not performer.await_end(_glance(begun, until)):
        now = monotonic()
        told = performer.has_news and now >= begun + STARTS
        if told or now >= until or (wanted is not None and wanted()):
            return
    performer.await_rest(LINGER)


def _glance(begun: float, until: float) -> float:
    """Return for how long not to look: an eighth of the time so far."""
    now = monotonic()
    first, last = GLANCES
    return max(0.0, min(first + (now - begun) / 8, last, until - now))


def _who_waits() -> Callable[[], bool] | None:
    """Return what says whether a request has come in; None where this IPython does not let that be seen."""
    try:
        import zmq
        from IPython.core.getipython import get_ipython

        shell: Any = get_ipython()
        socket = shell.kernel.shell_stream.socket
        return lambda: bool(socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
    except (ImportError, AttributeError):
        return None
