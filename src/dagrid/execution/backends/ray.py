"""Ray: attempts run in actors, which are the worker processes of a Ray cluster, and live from run to run.

This is the face of the crew, and the Ray session that it works in; what a run decides, it does not know.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pickle import loads
from typing import Any, ClassVar
from urllib.parse import urlsplit

import ray

from dagrid.errors import BackendError, BackendNotInstalledError, BackendUnreachableError, InvalidSettingError
from dagrid.execution.backends import _performer, _ray_tasks, _ray_worker
from dagrid.execution.backends._crew import WINDOW, Crew
from dagrid.execution.backends._delegate import IN_FLIGHT, PAUSE, Delegation, Joined
from dagrid.execution.backends._lanes import Site
from dagrid.execution.backends._remote import Depot
from dagrid.execution.backends._worker import told
from dagrid.execution.backends.base import BackendBase, Sessions, check_whole
from dagrid.ports import Capabilities, Host, Needs

CLIENT = "ray://"
"""How the addresses of Ray Client begin: the program is no part of the cluster, and a server there acts for it."""
OBJECT_STORE = 200 * 2**20
LEAST_STORE = 75 * 2**20
"""Below this many bytes of shared memory Ray begins no session."""
REACH = 3.0
"""Seconds that an address has to answer."""
KEEP = 30.0
"""Seconds for which workers stay that have nothing to do, in a session of our own."""
KEEP_AMONG_OTHERS = 1.0
"""The same where others may want their CPUs."""
SETTINGS = b"\x04"
"""The type of the frame with which both sides of HTTP/2, and so of gRPC, begin."""
FRAME_HEAD = 9
"""The bytes before what is in a frame; the fourth is its type."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)
"""How a client of HTTP/2 begins that has nothing to say."""


class RayBackend(BackendBase):
    """Run tasks in a Ray cluster: on this machine, or on many.

    A Ray session that there is already (`ray.init` was called) is used, and left as it is when the backend is closed. Else one is
    begun, and ended with the last backend that uses it. Each worker is an actor that holds one CPU of the cluster while it
    lives; they start when there is work for them, serve one run after the other, and go when they have had nothing to do for
    a while. Cancels and timeouts kill the actor, and another takes its place.

    A node that asks for resources which the run does not count (`resources`: CPU or num_cpus, GPU or num_gpus, memory in bytes,
    or a custom name) or for labels (`selector`, as Ray's `label_selector` has them) is a task of Ray, which finds a place for it;
    it has one CPU if it does not ask for another number. Workers that have nothing to do give their CPUs to tasks that wait for
    them. A cancel or a timeout kills the task. Large values stay in the cluster, and come here when they are read.

    Through Ray Client (`ray://`) all of this is the same, and large values stay in the cluster too; what is begun there ends with
    the session. It needs `ray[client]` on both sides. Where the process that the head starts for a client dies at once, the head
    is to have GRPC_ENABLE_FORK_SUPPORT=0 in its environment (github.com/ray-project/ray/issues/63202).

    dagrid must be installed where the workers run, and the Python be of the same minor version. Functions travel by reference if
    they can be imported there, else by value. Tasks see the environment and the directory of their Ray worker; `runtime_env`
    changes these. They run in a thread of the actor which is not its main one: a node that waits there for tasks of Ray's own
    (`ray.get`) keeps its CPU while it waits, so leave some free (`num_cpus`), or have it be a task of Ray, which gives its CPU
    back meanwhile (`resources={"CPU": 1}`).

    Args:
        num_cpus: how many attempts run at once at most; None means all CPUs of the cluster. A session that is begun on this
            machine gets so many CPUs, however many there are.
        address: of a cluster: `"ray://host:10001"`, `"host:6379"`, `"auto"`; None begins a session on this machine, unless the
            environment variable RAY_ADDRESS says otherwise.
        max_in_flight: how many attempts may be with the workers, the waiting ones included; None means 256 for each. As many
            nodes may be tasks of Ray at once; None means 64, or four for each CPU if that is more.
        object_store_memory: bytes of shared memory of a session that is begun on this machine; what does not fit goes to disk.
        keep_workers: seconds for which workers that have nothing to do keep their CPUs, within a run and after it; None means 30
            in a session that was begun here, and one where others may want them.
        actor_options: what else Ray is to know of a worker: `num_gpus`, `resources`, `memory`, `runtime_env`, ...

    Raises:
        InvalidSettingError: a number or the address is none, or an option is unknown to Ray.
        BackendUnreachableError: there is no cluster at the address.
        BackendNotInstalledError: the address is one of Ray Client, and its packages are missing.
    """

    name: ClassVar[str] = "ray"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kills=True, cancels=True, passes_references=True, chains=True, delegates=True
    )

    def __init__(
        self,
        num_cpus: int | None = None,
        address: str | None = None,
        max_in_flight: int | None = None,
        *,
        object_store_memory: int = OBJECT_STORE,
        keep_workers: float | None = None,
        **actor_options: Any,
    ) -> None:
        super().__init__()
        check_whole(num_cpus=num_cpus, max_in_flight=max_in_flight)
        check_whole(LEAST_STORE, object_store_memory=object_store_memory)
        if keep_workers is not None and not (type(keep_workers) in (int, float) and keep_workers >= 0):
            raise InvalidSettingError(f"keep_workers is a number of seconds from 0 up, not {keep_workers!r}.")
        if not isinstance(address, str | None):
            raise InvalidSettingError(f"address is a text such as 'ray://host:10001' or 'host:6379', not {address!r}.")
        make = _actor_class(actor_options)
        _cluster.join(num_cpus, address, object_store_memory)
        try:
            count = num_cpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        except BaseException:
            _cluster.leave()
            raise
        self.num_cpus = count
        window = max(1, (max_in_flight or WINDOW * count) // count)
        self._depot = Depot(partial(_ray_tasks.fetch, _ray_tasks.where()))
        if keep_workers is None:
            keep_workers = KEEP if _cluster.ours else KEEP_AMONG_OTHERS
        self._crew = Crew("ray", make, [Site("ray", count)], window, keep_workers, self._depot)
        self._tasks = _ray_tasks.Tasks(self._crew, actor_options.get("runtime_env"))
        self._in_flight = max_in_flight or max(IN_FLIGHT, 4 * count)
        self._delegations: Sessions[Delegation] = Sessions()
        self._watch = _Watch(self._crew, self._tasks)
        # Also for a backend that is dropped without being closed, and at the end of the program.
        self._finalizer = weakref.finalize(self, _end, self._watch, self._crew, self._tasks, self._depot)

    def open(self, host: Host) -> Joined:
        """Begin to serve a run: announce its workers, which start when they get something to do."""
        self.check_open()
        self._watch.begin()
        return Joined(
            self._crew.open(host, self),
            Delegation(host, self._tasks, self._depot, self.name, self._delegations, self._in_flight, self._tasks),
        )

    def check(self, needs: Mapping[str, Needs]) -> None:
        """Refuse a graph of whose nodes one asks for what no machine of the cluster has. Raises UnsatisfiableError."""
        self.check_open()
        _ray_tasks.check(needs)

    def release(self, wait: bool) -> None:
        """End the workers, and the Ray session if it was begun here and nobody else uses it."""
        self._finalizer.detach()
        for delegation in self._delegations:
            delegation.refuse()
        _end(self._watch, self._crew, self._tasks, self._depot)

    def __repr__(self) -> str:
        closed = " (closed)" if self._closed else ""
        return f"<RayBackend of {self.num_cpus} workers{closed}>"


def _end(watch: _Watch, crew: Crew, tasks: _ray_tasks.Tasks, depot: Depot) -> None:
    watch.end()
    crew.stop()
    tasks.close()
    _cluster.leave(depot)


class _Watch:
    """Sees that the session has ended: what Ray was asked for before, it answers never, and does not say so either."""

    def __init__(self, crew: Crew, tasks: _ray_tasks.Tasks) -> None:
        self._crew = crew
        self._tasks = tasks
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def begin(self) -> None:
        """Look from the first run on."""
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="dagrid-ray-session", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(PAUSE):
            try:
                _ray_tasks.expect_session()
            except BackendError as error:
                self._tasks.refuse(error)
                self._crew.command(self._crew.refuse, error)
                return


class _Channel:
    """How Ray reaches an actor: by letters, of which one at a time is answered with what has happened then.

    So most answers cost no call of their own.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._heard: Future[list[_performer.Record]] | None = None
        self._next: Future[list[_performer.Record]] | None = None

    def tell(self, *letter: Any) -> None:
        if self._next is None and (self._heard is None or self._heard.done()):
            self._next = self._exchange(letter)
        else:
            self._call("tell", letter)

    def listen(self) -> Future[list[_performer.Record]]:
        self._heard, self._next = self._next or self._exchange(), None
        return self._heard

    def kill(self) -> None:
        with suppress(Exception):  # it is dead, or Ray is gone, and it with it
            if ray.is_initialized():  # else Ray would begin a session
                ray.kill(self._handle)

    def _exchange(self, *letters: Sequence[Any]) -> Future[list[_performer.Record]]:
        records, kept = self._call("exchange", *letters)
        found: Future[list[_performer.Record]] = Future()
        records.future().add_done_callback(partial(_pass_on, found, kept))
        return found

    def _call(self, method: str, *letters: Sequence[Any]) -> Any:
        _ray_tasks.expect_session()
        return getattr(self._handle, method).remote(*map(_ray_worker.sealed, letters))


def _pass_on(found: Future[list[_performer.Record]], kept: Any, done: Future[bytes]) -> None:
    """Put Ray's handle of the value that was kept, which is returned beside the records, into the record that speaks of it."""
    try:
        records = loads(done.result())
    except BaseException as error:  # noqa: BLE001 - Ray's, all kinds
        found.set_exception(error)
    else:
        found.set_result(_performer.with_kept(records, kept))


def _actor_class(options: dict[str, Any]) -> Callable[[Site], _Channel]:
    """Return what starts an actor; Ray looks at the options at once."""
    ours = {"max_restarts": 0, "max_concurrency": _ray_worker.AT_ONCE}
    try:
        kind = ray.remote(_ray_worker.Seat).options(**{"num_cpus": 1, **options, **ours})
    except (TypeError, ValueError) as error:
        raise InvalidSettingError(f"Ray cannot start workers with {options}: {error}") from error

    def make(_: Site) -> _Channel:
        _ray_tasks.expect_session()
        return _Channel(kind.remote())

    return make


class _Cluster:
    """The Ray session of this process: there is one at most, so backends share it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._users = 0
        self._ours = False

    @property
    def ours(self) -> bool:
        """Whether it was begun here."""
        return self._ours

    def join(self, num_cpus: int | None, address: str | None, object_store_memory: int) -> None:
        """Use the session that there is, or begin one."""
        with self._guard:
            if not ray.is_initialized():
                self._begin(num_cpus, address or os.environ.get("RAY_ADDRESS") or None, object_store_memory)
                self._users, self._ours = 0, True
            self._users += 1

    def leave(self, depot: Depot | None = None) -> None:
        """The last one ends the session, if it is ours; what values are still wanted are fetched before."""
        with self._guard:
            self._users -= 1
            if self._ours and depot is not None and ray.is_initialized():
                depot.bring_home()
            if self._ours and self._users == 0:
                self._ours = False
                if ray.is_initialized():
                    ray.shutdown()

    @staticmethod
    def _begin(num_cpus: int | None, address: str | None, object_store_memory: int) -> None:
        quiet: dict[str, Any] = {"logging_level": "ERROR"}
        if address in (None, "local"):
            own = {"num_cpus": num_cpus, "object_store_memory": object_store_memory, "include_dashboard": False}
            ray.init(address="local", **own, **quiet)
            return
        assert address is not None
        if address.startswith(CLIENT):
            _check_client(address)
        try:
            _knock(address)
            _reach(address, **quiet)
        except ConnectionAbortedError as error:
            raise BackendUnreachableError(
                f"The Ray Client server at {address} could not begin a session ({_last_line(error)}). The logs of the "
                "head say why. If they are empty, start the head with GRPC_ENABLE_FORK_SUPPORT=0 in its environment."
            ) from error
        except (OSError, RuntimeError, ValueError, SystemExit, ray.exceptions.RayError) as error:
            raise BackendUnreachableError(
                f"There is no Ray cluster at {address} ({told(error)}). Start one with `ray start --head`, or leave out "
                "the address for one on this machine."
            ) from error


def _check_client(address: str) -> None:
    """Refuse an address of Ray Client where Ray was installed without it."""
    try:
        importlib.import_module("grpc")
    except ImportError as error:
        raise BackendNotInstalledError(
            f"The address {address} is of Ray Client, which needs {error.name or 'grpc'}. "
            "Install it with: pip install 'ray[client]'"
        ) from error


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), told(error))


def _knock(address: str) -> None:
    """Raise OSError if nobody at an address speaks as Ray does, which is gRPC; Ray itself would try for a long time."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if not (parts.hostname and parts.port):
        return
    with socket.create_connection((parts.hostname, parts.port), REACH) as line:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # what is said there only Ray can read
        line.sendall(GREETING)
        if line.recv(FRAME_HEAD, socket.MSG_WAITALL)[3:4] != SETTINGS:
            raise ConnectionError("what listens there is not Ray")


def _reach(address: str, **options: Any) -> None:
    """Use the session at an address; where that fails, nothing of the try stays in this process."""
    try:
        ray.init(address=address, **options)
    except BaseException:
        with suppress(Exception):
            ray.shutdown()  # also of a client that did not come about, in whose name everything later would be asked
        raise


_cluster = _Cluster()
