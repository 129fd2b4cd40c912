"""What is to be said on a link: messages one after another that become few, and what is long in pieces. Pure.

Within one message everything is taken in the order of `ORDER`, whatever came first. So a message is joined to the one before it
only where that is the order in which things happened, and a large one is cut along it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from dagrid.execution.backends.cluster import fleet_pb2 as pb

PIECE = 256 * 2**10
"""Bytes of a piece of what is long."""
BATCH = 2**20
"""Bytes of a message from which on it is cut, and nothing is joined to it."""
ORDER = (
    *(
        "hello",
        "open",
        "challenge",
        "proof",
        "welcome",
        "refusal",
        "heartbeat",
        "echo",
        "parts",
        "drops",
        "logs",
        "log_acks",
        "receipts",
        "lacks",
        "over",
    ),
    *("acks", "joined", "recalls", "rooms", "assigns", "cancels", "reports", "wants", "missing", "gone", "mark"),
    *("drain", "draining", "drained", "close"),
)
"""The fields of messages in the order in which they are taken."""

_rank = {name: rank for rank, name in enumerate(ORDER)}
_after_all = len(ORDER)
_LACKS = _rank["lacks"]

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Outbox(Generic[AnyMessage]):
    """What is to be said on one link."""

    __slots__ = ("_long", "_messages", "size")

    def __init__(self) -> None:
        self.size = 0
        self._messages: deque[tuple[AnyMessage, int]] = deque()
        self._long: deque[Iterator[AnyMessage]] = deque()

    def put(self, message: AnyMessage) -> None:
        """Say something; the message is the outbox's from now on."""
        size = message.ByteSize()
        self.size += size
        if self._messages:
            last, before = self._messages[-1]
            end, begin = _last_rank(last), _first_rank(message)
            if before + size <= BATCH and end <= begin:
                if end == begin == _LACKS:
                    last.ClearField("lacks")  # each says all of it
                last.MergeFrom(message)
                self._messages[-1] = last, before + size
                return
        self._messages.append((message, size))

    def feed(self, long: Iterator[AnyMessage]) -> None:
        """Say something long, of which each item is a piece; it is asked for items as they can be sent."""
        self._long.append(long)

    def take(self) -> AnyMessage | None:
        """Return what comes next."""
        if not self._messages:
            return None
        message, size = self._messages.popleft()
        self.size -= size
        return message

    def piece(self) -> AnyMessage | None:
        """Return the next piece of something long; of several in turn."""
        while self._long:
            long = self._long.popleft()
            found = next(long, None)
            if found is not None:
                self._long.append(long)
                return found
        return None


def cut(message: AnyMessage) -> Iterable[AnyMessage]:
    """Return a message as several of about `BATCH` bytes; what goes together in an assignment stays together."""
    return [message] if message.ByteSize() <= BATCH else _cut(message)


def _cut(message: AnyMessage) -> Iterator[AnyMessage]:
    current, size = type(message)(), 0
    for field, value in sorted(message.ListFields(), key=lambda found: _rank.get(found[0].name, _after_all)):
        if not field.is_repeated:
            whole = type(message)()
            setting = getattr(whole, field.name)
            if isinstance(setting, Message):
                setting.CopyFrom(value)
            else:
                setattr(whole, field.name, value)
            current.MergeFrom(whole)
            continue
        for item in value:
            for smaller in _smaller(item):
                more = len(smaller) if isinstance(smaller, (bytes, str)) else smaller.ByteSize()
                if size and size + more > BATCH:
                    yield current
                    current, size = type(message)(), 0
                getattr(current, field.name).append(smaller)
                size += more
    yield current


def _smaller(item: Any) -> Iterator[Any]:
    if isinstance(item, pb.Assign) and item.ByteSize() > BATCH:
        yield from _assigns(item)
    elif isinstance(item, pb.Report) and item.ByteSize() > BATCH:
        yield from _reports(item)
    else:
        yield item


def _assigns(whole: pb.Assign) -> Iterator[pb.Assign]:
    about = pb.Assign()
    about.CopyFrom(whole)
    about.ClearField("calls")
    current, size = pb.Assign(), 0
    current.CopyFrom(about)
    for call in whole.calls:
        if size + call.ByteSize() > BATCH and size and not call.rides:
            yield current
            current, size = pb.Assign(), 0
            current.CopyFrom(about)
        current.calls.append(call)
        size += call.ByteSize()
    yield current


def _reports(whole: pb.Report) -> Iterator[pb.Report]:
    current, size = pb.Report(run=whole.run, fence=whole.fence), 0
    for finished in whole.finished:
        if size and size + finished.ByteSize() > BATCH:
            yield current
            current, size = pb.Report(run=whole.run, fence=whole.fence), 0
        current.finished.append(finished)
        size += finished.ByteSize()
    current.started.extend(whole.started)
    current.recalled.extend(whole.recalled)
    yield current


def _first_rank(message: Message) -> int:
    return min((_rank.get(field.name, _after_all) for field, _ in message.ListFields()), default=_after_all)


def _last_rank(message: Message) -> int:
    return max((_rank.get(field.name, _after_all) for field, _ in message.ListFields()), default=0)
