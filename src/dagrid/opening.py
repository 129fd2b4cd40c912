"""Names, URLs and folders become objects: backends, the places beside them, caches and checkpoints.

Backends are found by entry point (group `dagrid.backends`), ours through the same door as anyone's. What runs there is not known
here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Mapping
from functools import cache as once
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from dagrid.errors import (
    BackendError,
    BackendNotInstalledError,
    InvalidSettingError,
    UnknownBackendError,
    UnknownRunError,
    hint,
    nearest,
)
from dagrid.execution.binding import COMMAND, HERE, LOOP
from dagrid.execution.recording import Checkpoint
from dagrid.masking import without_password
from dagrid.ports import Artifacts, Backend, FourMethods, RunRecord

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "dagrid.backends"
DEFAULT_BACKEND = "thread"
AUTO = "auto"
EXTRAS = {"grpc": "cluster", "grpcs": "cluster"}
"""What is installed for a backend, where that is not called as it is."""
VARIABLE = "DAGRID_BACKEND"
CALLER = "caller"
PLACES = COMMAND, HERE, LOOP, CALLER
DEFAULT_CACHE = ".dagrid/cache"
JOURNAL = "journal.db"
BackendLike = str | Backend | FourMethods
CacheLike = str | PathLike[str] | Artifacts | bool
CheckpointLike = str | PathLike[str] | Checkpoint


class Opened:
    """What a run has opened: closed when it ends, or at once if it does not come about. An ExitStack costs a short run more."""

    __slots__ = ("_closers",)

    def __init__(self) -> None:
        self._closers: list[Callable[[], object]] = []

    def add(self, close: Callable[[], object]) -> None:
        """Close something else with these."""
        self._closers.append(close)

    def close(self) -> None:
        """Close all, the last one first, also when one of them raises."""
        while self._closers:
            try:
                self._closers.pop()()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()


def open_backend(backend: BackendLike | None, max_concurrency: int | None = None) -> tuple[Backend, bool]:
    """Return the backend that a name, a URL or an object means, and whether it was made here and is to be closed here.

    Args:
        backend: a name, a URL or an object; "auto" takes what there is (see `chosen`), and None means threads.
        max_concurrency: how many threads, where that was said of the run.

    Raises:
        UnknownBackendError: no backend has that name.
        BackendNotInstalledError: its package is not installed.
        InvalidSettingError: a setting in the URL that the backend does not take; or it is no backend.
    """
    if backend is None:
        return _made(_threads(max_concurrency)), True
    if isinstance(backend, str):
        return (_chosen(max_concurrency) if backend == AUTO else _made(backend)), True
    if isinstance(backend, type):  # it has all that its objects have
        raise InvalidSettingError(f"A backend is an object, not its class; write backend={backend.__name__}(...).")
    if _is_backend(backend):
        return backend, False
    if isinstance(backend, FourMethods):
        from dagrid.execution.backends.adapter import adapt

        return adapt(backend), False
    raise InvalidSettingError(
        f"A backend is a name such as 'thread', or an object with name, submit, result and shutdown; not {backend!r}."
    )


def _is_backend(found: object) -> TypeGuard[Backend]:
    """Return what `isinstance` does, which looks through the protocol each time, for every run."""
    return all(map(partial(hasattr, found), ("name", "capabilities", "open", "close")))


def _chosen(max_concurrency: int | None) -> Backend:
    try:
        return _made(chosen() or _threads(max_concurrency))
    except (BackendError, InvalidSettingError) as error:
        if os.environ.get(VARIABLE):
            error.add_note(f"The environment variable {VARIABLE} chose it.")
        raise


def _threads(count: int | None) -> str:
    return DEFAULT_BACKEND if count is None else f"{DEFAULT_BACKEND}?max_workers={count}"


def chosen() -> str | None:
    """Return the name or URL of the backend that "auto" means here and now, None for threads.

    That is the first of these that there is: what the environment variable DAGRID_BACKEND says; "ray", where this process is in a
    Ray session (`ray.init` was called); "dask", where it has a current client (a `distributed.Client` was made, and is not
    closed). Where there is none of them threads serve, as many as without a backend. No engine is imported to find out, and
    none is begun.

    Raises:
        InvalidSettingError: the environment variable says "auto" too.
    """
    if named := os.environ.get(VARIABLE):
        if named.partition("?")[0] == AUTO:
            raise InvalidSettingError(
                f"{VARIABLE} is {named!r}, which chooses nothing. Let it name a backend, or unset it."
            )
        return named
    if getattr(sys.modules.get("ray"), "is_initialized", bool)():
        return "ray"
    client = getattr(sys.modules.get("distributed"), "Client", None)
    with contextlib.suppress(ValueError):  # there is no current one
        if client is not None and client.current().status == "running":
            return "dask"
    return None


def open_place(name: str, max_concurrency: int | None = None) -> Backend:
    """Return what performs the nodes of a place; `max_concurrency` is how many commands run at once, where the run says it."""
    if name in (COMMAND, HERE):
        from dagrid.execution.backends.command import CommandBackend

        return CommandBackend(max_concurrency)
    if name == LOOP:
        from dagrid.execution.backends.event_loop import EventLoopBackend

        return EventLoopBackend()
    from dagrid.execution.backends.inline import InlineBackend

    return InlineBackend()


def performer(name: str, main: Backend, places: Mapping[str, Backend] | None) -> Backend | None:
    """Return what performs the nodes of a place, or those without one, as far as that is not made anew for a run: None."""
    if places and name in places:
        return places[name]
    if not name:
        return main
    own: Callable[[str], Backend | None] | None = getattr(main, "open_place", None)
    return None if own is None else own(name)


def lent_places(places: Mapping[str, Backend], otherwise: Callable[[str], Backend]) -> Callable[[str], Backend]:
    """Return what opens the places of a run: those that are given, which it does not close, and otherwise its own.

    Raises:
        InvalidSettingError: there is no such place, or what is given is no backend.
    """
    if not isinstance(places, Mapping):
        raise InvalidSettingError(f"places is a dict of backends by place, not {places!r}.")
    for name, backend in places.items():
        if name not in PLACES:
            raise InvalidSettingError(
                f"There is no place {name!r}.{hint(nearest(name, PLACES))} There are: {', '.join(PLACES)}."
            )
        if not _is_backend(backend):
            raise InvalidSettingError(f"The place {name!r} is a backend such as CommandBackend(), not {backend!r}.")
    return lambda name: _Lent(places[name]) if name in places else otherwise(name)


class _Lent:
    """A backend that is somebody else's to close."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.capabilities = backend.capabilities
        self.open = backend.open
        if hasattr(backend, "reopen"):
            self.reopen = backend.reopen

    def close(self, wait: bool = True) -> None:
        """It stays open."""


def open_cache(cache: CacheLike | None) -> Callable[[], Artifacts | None] | None:
    """Return what gives the place where a run keeps values; a place that is named is opened at once, and may be refused.

    Raises:
        StoreError: there is no such place, or what it needs is not installed.
        InvalidSettingError: it is no place at all.
    """
    if cache is False:
        return None
    if cache is None or cache is True:
        return _default_cache
    if isinstance(cache, (str, PathLike)):
        made = _artifacts(cache)
        return lambda: made
    if not (callable(getattr(cache, "get", None)) and callable(getattr(cache, "put", None))):
        raise InvalidSettingError(
            f"A cache is a folder, a URL or an object with put and get; or False, to keep nothing. It is not {cache!r}."
        )
    return lambda: cache


def _default_cache() -> Artifacts:
    return _default_artifacts(os.path.abspath(DEFAULT_CACHE))


@once
def _default_artifacts(folder: str) -> Artifacts:
    return _artifacts(folder)


def _artifacts(place: str | PathLike[str]) -> Artifacts:
    from dagrid.stores import open_artifacts  # only a run that keeps values needs it

    return open_artifacts(place)


@once
def known_backends() -> dict[str, EntryPoint]:
    """Return the backends that are registered, by name."""
    from importlib.metadata import entry_points  # reads mail headers: 15 ms that no description of a graph needs

    return {point.name: point for point in entry_points(group=GROUP)}


def _made(url: str) -> Backend:
    """Return the backend of a URL: `name`, `name?setting=value&...`, or `name://address`, with settings or without."""
    name, kind, settings = _read_url(url)
    if not settings:
        return kind()
    try:
        return kind(**settings)
    except TypeError as error:
        raise InvalidSettingError(f"Backend {name!r} cannot be made with {', '.join(settings)}: {error}.") from error


@lru_cache(32)
def _read_url(url: str) -> tuple[str, Callable[..., Backend], Mapping[str, Any]]:
    """Return what the URL of a backend says: its name, what makes it, its settings. A program runs many graphs with one URL."""
    place, _, query = url.strip().partition("?")
    name, _, address = place.partition("://")
    if name == AUTO:
        raise InvalidSettingError(
            f"'auto' takes no settings and no address, as in {url!r}. Name the backend, or say 'auto'."
        )
    kind = _loaded(name)
    return name, kind, _settings(kind, name, address, query) if query or address else {}


def _settings(kind: Callable[..., Backend], name: str, address: str, query: str) -> Mapping[str, Any]:
    """Return the settings in the URL of a backend, by the name of the parameter.

    Raises:
        InvalidSettingError: it takes no such one.
    """
    from inspect import Parameter, signature
    from urllib.parse import parse_qsl

    taken = signature(kind).parameters
    named = [each for each, one in taken.items() if one.kind is not Parameter.VAR_KEYWORD]
    texts = _texts(kind) | {"address"}
    said: dict[str, Any] = {}
    for key, value in [("address", address)] * bool(address) + parse_qsl(query, keep_blank_values=True):
        if key not in taken and len(named) == len(taken):
            raise InvalidSettingError(
                f"Backend {name!r} takes no {key!r}.{hint(nearest(key, named))} "
                + (f"It takes {', '.join(named)}, as in '{name}?{named[0]}=...'." if named else f"Say {name!r} alone.")
            )
        if key in said:
            raise InvalidSettingError(f"The URL of backend {name!r} says {key!r} twice. Say it once.")
        said[key] = value if key in texts else _read(value)
    return said


def _texts(kind: Callable[..., Backend]) -> set[str]:
    """Return the parameters that may be a text, which stays one also where it looks like a number."""
    from typing import get_args, get_type_hints

    try:
        hints = get_type_hints(getattr(kind, "__init__") if isinstance(kind, type) else kind)  # noqa: B009  # for mypy
    except (NameError, TypeError):  # somebody else's, with names that are there for a checker only
        return set()
    return {name for name, one in hints.items() if str in (one, *get_args(one))}


@once
def _loaded(name: str) -> Callable[..., Backend]:
    known = known_backends()
    found = name if name in known else name.lower()
    if found not in known:
        suggestion = nearest(name, known)
        listed = ", ".join(sorted(known))
        raise UnknownBackendError(
            f"There is no backend {name!r}.{hint(suggestion)} There are: {listed}.", name, suggestion
        )
    try:
        kind: Callable[..., Backend] = known[found].load()
    except ImportError as error:
        raise BackendNotInstalledError(
            f"Backend {name!r} needs {error.name or 'a package that is not there'}. "
            f"Install it with: pip install 'dagrid[{EXTRAS.get(found, found)}]'"
        ) from error
    return kind


def _read(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def open_checkpoint(opened: Opened, checkpoint: CheckpointLike) -> Checkpoint:
    """Return what a folder or the URL of a database means, open until the rest is closed.

    A checkpoint that is made already is its maker's to close.

    Raises:
        StoreError: it cannot be opened.
        InvalidSettingError: it is neither a path nor a checkpoint, or a URL, and none of PostgreSQL's.
    """
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    from dagrid.stores import is_postgres, open_artifacts, open_postgres, open_store

    if is_postgres(checkpoint):
        journal, values = open_postgres(checkpoint)
        opened.add(journal.close)
        opened.add(values.disconnect)  # a result may still be asked for a value
        return Checkpoint(journal, values)
    folder = _folder(checkpoint)
    store = open_store(folder / JOURNAL)
    opened.add(store.close)
    return Checkpoint(store, open_artifacts(folder / "values"))


def find_checkpoint(opened: Opened, checkpoint: CheckpointLike) -> Checkpoint:
    """Return what `open_checkpoint` does, but make no folder to look for a run in.

    Raises:
        UnknownRunError: nothing was ever kept in the folder.
        StoreError, InvalidSettingError: see `open_checkpoint`.
    """
    from dagrid.stores import is_postgres

    if not isinstance(checkpoint, Checkpoint) and not is_postgres(checkpoint):
        folder = _folder(checkpoint)
        if not (folder / JOURNAL).exists():
            raise UnknownRunError(
                f"{named(folder)} has no run, for it has no {JOURNAL}. Give the folder that the run was started with."
            )
    return open_checkpoint(opened, checkpoint)


def named(checkpoint: CheckpointLike) -> str:
    """Return what a checkpoint is called in a message, at the beginning of a sentence."""
    if isinstance(checkpoint, Checkpoint):
        return "The checkpoint"
    return f"The checkpoint {without_password(os.fspath(checkpoint))!r}"


def chosen_run(checkpoint: Checkpoint, run_id: str | None, wanted: Collection[str] | None, shown: str) -> RunRecord:
    """Return a run by its name, or the newest that has one of these statuses; None wants any. `shown` begins the messages.

    Raises:
        UnknownRunError: there is none.
    """
    known = checkpoint.store.runs(ids=None if run_id is None else {run_id_of(run_id)})
    for record in known:
        # One without facts ended before it had begun.
        if record.run == run_id or (run_id is None and record.facts and (wanted is None or record.status in wanted)):
            return record
    if run_id is not None:
        suggestion = nearest(run_id, [record.run for record in checkpoint.store.runs()])
        raise UnknownRunError(f"{shown} has no run {run_id!r}.{hint(suggestion)}", run_id, suggestion)
    if wanted is None:
        raise UnknownRunError(f"{shown} has no run. Start one with checkpoint=...")
    if not known:
        raise UnknownRunError(f"{shown} has no run that has not ended.")
    raise UnknownRunError(
        f"{shown} has no run that has not ended. The newest, {known[0].run!r}, is {known[0].status}: give its run_id for its "
        f"result, or say again=True to take it up."
    )


def run_id_of(run_id: object) -> str:
    """Return the id of a run as it was given. Raises InvalidSettingError: it is none."""
    if not isinstance(run_id, str):
        raise InvalidSettingError(f"run_id is a text such as 'monday', not {run_id!r}.")
    return run_id


def _folder(checkpoint: object) -> Path:
    if isinstance(checkpoint, (str, PathLike)):
        text = os.fspath(checkpoint)
        if not text:
            raise InvalidSettingError("A checkpoint is a folder, and its path is empty. Say '.' for the current one.")
        if "://" not in text or not isinstance(checkpoint, str):
            return Path(os.path.expanduser(text))
        checkpoint = without_password(text)
    raise InvalidSettingError(
        f"A checkpoint is a folder, or postgresql://user@host/database; not {checkpoint!r}. Other stores go into a Checkpoint."
    )
