"""Values of tasks that are kept between runs: the function of a cached node, wrapped, and the form in which values are stored.

All of it happens where a task runs: making the key, looking it up, storing the value. What happened is left beside the value, see
`dagrid.attempt`. This room knows a place for bytes (`dagrid.ports.Artifacts`), neither the engine nor the graph.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import msgspec

from dagrid.attempt import Extra, holder
from dagrid.errors import InvalidNodeError, NoCurrentTaskError
from dagrid.execution.faults import described
from dagrid.execution.hashing import CannotHashError, Hasher, combined, innermost
from dagrid.graph.arguments import Arguments, Group, Ref
from dagrid.ports import Artifacts

FORMAT = 1
"""The number of the way in which keys are made and values are stored; what has another one is not read."""

_MAGIC = b"dagrid value "
_LONGEST_HEAD = 1000
_PROTOCOL = 5
_SHOWN = 12
_log = logging.getLogger("dagrid")
_NONE: Mapping[int | str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a cached node's arguments come from.

    Args:
        place: where among the arguments of the call the `Known` goes: behind the condition of a node that has one.
        args: for each argument behind it the node whose value it is, or -1.
        kwargs: the same for those passed by name.
    """

    place: int
    args: tuple[int, ...]
    kwargs: Mapping[str, int]

    def known(self, artifacts: Artifacts | None, keys: Mapping[int, str]) -> Known:
        """Return what a call is told, given the keys of the nodes that have one."""
        if artifacts is None or not keys:
            return Known(artifacts)
        found: dict[int | str, str] = {place: keys[node] for place, node in enumerate(self.args) if node in keys}
        found.update({name: keys[node] for name, node in self.kwargs.items() if node in keys})
        return Known(artifacts, found)


@dataclass(frozen=True, slots=True)
class Known:
    """What the run tells a cached function with each call: where values are kept, None for nowhere, and what the arguments are.

    `keys` has those of arguments that are values of cached nodes, by place or name: how they were made says what they are.
    """

    artifacts: Artifacts | None
    keys: Mapping[int | str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """The function of a cached node. It is called with a `Known` before the arguments, and stores what is not stored yet.

    Args:
        fn: what is called.
        task: the task itself, which `fn` may wrap: what the key is made of.
        text: stands for the code of the task, if it is not empty.
        awaits: `fn` is an `async def` function, and so is this then.
    """

    fn: Callable[..., Any]
    task: Callable[..., Any]
    text: str = ""
    awaits: bool = False

    @property
    def __name__(self) -> str:
        return str(getattr(self.task, "__name__", type(self.task).__name__))

    def __call__(self, known: Known, /, *args: Any, **kwargs: Any) -> Any:
        if known.artifacts is None:
            return self.fn(*args, **kwargs)
        if self.awaits:
            return self._awaited(known, args, kwargs)
        found = self._find(known, args, kwargs)
        if found.hit:
            return _told(found, found.value)
        return _told(found, value := self.fn(*args, **kwargs), _kept(known, found, value))

    async def _awaited(self, known: Known, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        from asyncio import to_thread

        found = await to_thread(self._find, known, args, kwargs)
        if found.hit:
            return _told(found, found.value)
        value = await self.fn(*args, **kwargs)
        return _told(found, value, await to_thread(_kept, known, found, value))

    def _find(self, known: Known, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Found:
        """Look for the value of a call. What is wrong with the cache is no reason to fail."""
        assert known.artifacts is not None
        try:
            key = self.key(known, args, kwargs)
        except CannotHashError as error:
            return Found("", f"computed: {error}")
        except Exception as error:  # noqa: BLE001  # the user's code: what an object says of how it is pickled
            return Found("", f"computed: its key cannot be made ({described(error)})")
        try:
            data = known.artifacts.get(place_of(key))
        except Exception as error:  # noqa: BLE001  # a place that is out of reach now must not fail the task
            return _doubtful(key, f"the cache cannot be read ({described(error)})")
        if data is None:
            return Found(key, f"computed: no value for this key yet (key {key[:_SHOWN]})")
        return _read(key, data)

    def key(self, known: Known, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the key of a call: equal for equal code and equal arguments, in every process.

        Raises:
            CannotHashError: the code closes over something, or is called with something, that cannot be hashed.
        """
        hasher = Hasher(self.task, by_name=bool(self.text))
        python = f"{FORMAT} {sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
        parts = [hasher.of(python), hasher.of(self.text), hasher.task(self.task)]
        for place, value in enumerate(args):
            parts.append(_argument(hasher, known, place, f"argument {place + 1}", value))
        for name in sorted(kwargs):
            parts += [hasher.of(name), _argument(hasher, known, name, f"argument {name!r}", kwargs[name])]
        return combined(f"{len(args)}", parts).hex()


@dataclass(frozen=True, slots=True)
class Found:
    """What looking for a value came to; without a key there is nothing to look for."""

    key: str
    note: str
    hit: bool = False
    value: Any = None


def cached(fn: Callable[..., Any], task: Callable[..., Any], name: str, said: bool | str, awaits: bool) -> Cached:
    """Return the function of a cached node.

    Args:
        fn: what is called.
        task: the task itself.
        name: of the node.
        said: what its `cache` says.
        awaits: whether it is asynchronous.

    Raises:
        InvalidNodeError: the task has no code that could be read, and nothing stands for it.
    """
    if said is True and innermost(task) is None:
        raise InvalidNodeError(
            f"Node {name!r} is cached, and the code of its task {task!r} cannot be read, so nobody would see that it changes. "
            f"Call it in a function of yours (def), or say cache='a text that you change when it changes'."
        )
    return Cached(fn, task, said if isinstance(said, str) else "", awaits)


def place_of(key: str) -> str:
    """Return the name under which the value of a key is stored."""
    return f"{key[:2]}/{key}"


def _argument(hasher: Hasher, known: Known, place: int | str, what: str, value: Any) -> bytes:
    key = known.keys.get(place)
    if key is not None:
        return bytes.fromhex(key)
    try:
        return _template(hasher, value) if type(value) is Arguments else hasher.of(value)
    except CannotHashError as error:
        raise CannotHashError(f"{what}: {error}") from error


def _template(hasher: Hasher, given: Arguments) -> bytes:
    """Return the fingerprint of arguments with places in them, for which the names of nodes do not count."""
    numbers = {name: number for number, name in enumerate(given.sources or ())}
    named = given.kwargs or {}

    def of(one: Any) -> bytes:
        if type(one) is Ref:
            return combined("place", [hasher.of(numbers[one.node]), hasher.of(one.path)])
        if type(one) is Group:
            beside = [] if one.empty is None else [hasher.of(one.empty)]
            return combined("group", [hasher.of(one.kind), hasher.of(one.keys), *beside, *map(of, one.items)])
        return hasher.of(one)

    return combined("arguments", [hasher.of(tuple(named)), *map(of, given.args), *map(of, named.values())])


# --- the stored form ------------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, frozen=True):
    """The first line of what is stored, as JSON: it can be read with `head -1`."""

    format: int
    dagrid: str
    key: str
    size: int
    sha256: str


def _read(key: str, data: bytes) -> Found:
    end = data.find(b"\n", 0, _LONGEST_HEAD)
    if end < 0 or not data.startswith(_MAGIC):
        return _doubtful(key, "the stored value is corrupt (it has no head)")
    try:
        head = msgspec.json.decode(data[len(_MAGIC) : end], type=_Head)
    except msgspec.DecodeError:
        return _doubtful(key, "the stored value is corrupt (its head cannot be read)")
    if head.format != FORMAT:
        return _doubtful(key, f"it was stored by another version, dagrid {head.dagrid}")
    body = memoryview(data)[end + 1 :]
    if len(body) != head.size:
        return _doubtful(key, f"the stored value is corrupt ({len(body)} of {head.size} bytes)")
    if head.key != key or sha256(body).hexdigest() != head.sha256:
        return _doubtful(key, "the stored value is corrupt (its checksum is another)")
    try:
        value = pickle.loads(body)
    except Exception as error:  # noqa: BLE001  # the user's code
        return _doubtful(key, f"the stored value cannot be read here ({described(error)})")
    return Found(key, f"from the cache (key {key[:_SHOWN]})", True, value)


def _doubtful(key: str, why: str) -> Found:
    try:
        node = holder().node
    except NoCurrentTaskError:
        node = ""
    _log.warning("%s is computed: %s (key %s)", repr(node) if node else "A node", why, key[:_SHOWN])
    return Found(key, f"computed: {why} (key {key[:_SHOWN]})")


def _kept(known: Known, found: Found, value: Any) -> str:
    """Store a value; return why that was not done, or nothing."""
    if not found.key:
        return ""
    assert known.artifacts is not None
    left = _left()
    if left is not None and left.patch is not None:
        return "it appended to the graph"
    try:
        body = _pickled(value)
    except _StaysHereError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # the user's code
        return f"it cannot be pickled ({described(error)})"
    head = _Head(FORMAT, _version(), found.key, len(body), sha256(body).hexdigest())
    try:
        known.artifacts.put(place_of(found.key), b"".join((_MAGIC, msgspec.json.encode(head), b"\n", body)))
    except Exception as error:  # noqa: BLE001  # a full disk must not fail the task
        _log.warning("A value is not kept: %s", error)
        return described(error)
    return ""


class _StaysHereError(Exception):
    """A value of a class that other processes would make anew, and then take for another one."""


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, _PROTOCOL)
    except Exception:  # noqa: BLE001  # whatever it is, cloudpickle may know better, and raises if it does not
        from cloudpickle import dumps as by_value

    body = bytes(by_value(value, _PROTOCOL))
    if b"__main__" in body:
        raise _StaysHereError("it has classes or functions of the script (__main__): move them into a module")
    return body


@cache
def _version() -> str:
    from importlib.metadata import version

    return version("dagrid")


# --- what is told ---------------------------------------------------------------------------------------------------------


def _left() -> Extra | None:
    try:
        left: Extra | None = holder().extra
    except NoCurrentTaskError:
        return None
    return left


def _told(found: Found, value: Any, refused: str = "") -> Any:
    """Leave beside a value how the node got it, and return the value."""
    try:
        here = holder()
    except NoCurrentTaskError:
        return value
    note = f"{found.note}; not kept: {refused}" if refused else found.note
    here.extra = msgspec.structs.replace(here.extra or Extra(), note=note, key=found.key)
    return value
