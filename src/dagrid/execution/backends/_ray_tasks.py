"""Calls as tasks of Ray: what a task does in the worker process, and how it is launched, watched and stopped.

It knows Ray and the flights of a delegation, and nothing of a run.
"""

from __future__ import annotations

import queue
import threading
from asyncio import Event
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import count
from struct import Struct
from typing import Any
from uuid import uuid4

import ray
from ray import exceptions

from dagrid.errors import BackendError, CapabilityError, TransferError, UnsatisfiableError
from dagrid.execution.backends import _remote
from dagrid.execution.backends._crew import Crew
from dagrid.execution.backends._delegate import Flight
from dagrid.execution.backends._herald import Herald
from dagrid.execution.backends._worker import told
from dagrid.machine.events import Outcome
from dagrid.ports import Needs

OWN_OPTIONS = {"CPU": "num_cpus", "num_cpus": "num_cpus", "GPU": "num_gpus", "num_gpus": "num_gpus", "memory": "memory"}
"""The names of resources for which Ray has an option of its own; all others are custom ones."""
REMEMBERED = 512
"""How many functions a worker process keeps open."""

_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.LocalRayletDiedError,
)

# In the worker process.

_HEAD = Struct("<Q16s")
"""Before a call: the number of its flight, and the name of the post."""
_functions: dict[bytes, Callable[..., Any]] = {}
_herald = Herald()
_posts: dict[bytes, Any] = {}


def perform_task(sent: bytes, *values: bytes) -> tuple[bytes, bytes]:
    """Be a task of Ray: perform a call, and return its report and, apart from it, a large value; empty if there is none.

    Args:
        sent: a `_HEAD`, and the call as bytes. Each argument of a task costs Ray more than its bytes.
        values: what the references in the call stand for.
    """
    if len(_functions) > REMEMBERED:
        _functions.clear()
    label, post = _HEAD.unpack_from(sent)
    number = _herald.enter(partial(_say, post, label))
    try:
        report, kept = _remote.perform_apart(sent[_HEAD.size :], _functions, (lambda: values) if values else None)
        return report, kept or b""  # Ray sends bytes as they are, and pickles None
    finally:
        _herald.leave(number)


def _say(post: bytes, label: int, at: float) -> None:
    found = _posts.get(post)
    if found is None:
        _posts.clear()
        found = _posts[post] = ray.get_actor(post.hex())
    found.tell.remote(label, at)


class Post:
    """The actor to which workers say that a call has begun, and where the driver hears of it."""

    def __init__(self) -> None:
        self._news: list[tuple[int, float]] = []
        self._some = Event()

    async def tell(self, label: int, at: float) -> None:
        self._news.append((label, at))
        self._some.set()

    async def listen(self) -> list[tuple[int, float]]:
        """Return what was said since the last time, as soon as there is something."""
        await self._some.wait()
        self._some.clear()
        news, self._news = self._news, []
        return news


# At the driver.


def options_of(needs: Needs) -> dict[str, Any]:
    """Return what a node asks for in Ray's words."""
    options: dict[str, Any] = {}
    custom: dict[str, float] = {}
    for name, amount in needs.resources.items():
        if name in OWN_OPTIONS:
            options[OWN_OPTIONS[name]] = int(amount) if name == "memory" else amount
        else:
            custom[name] = amount
    if custom:
        options["resources"] = custom
    if needs.selector:
        options["label_selector"] = dict(needs.selector)
    return options


def fetch(session: str, handle: Any) -> bytes:
    """Return the pickled value that an object holds of the Ray session that is called so (`where`)."""
    if not ray.is_initialized() or where() != session:
        raise BackendError("the Ray session in which it was made is over")
    found: bytes = ray.get(handle)
    return found


def where() -> str:
    """Return what the present session is called: the address of its cluster and, as sessions follow each other, its job."""
    here = ray.get_runtime_context()
    return f"{here.gcs_address} {here.get_job_id()}"


def expect_session() -> None:
    """Raise BackendError if there is no session: Ray would begin one by itself where it is asked for anything."""
    if not ray.is_initialized():
        raise BackendError("the Ray session is over; make a new backend")


class Tasks:
    """Launches calls as tasks of Ray, for all runs of a backend.

    Args:
        crew: of the backend, whose workers hold CPUs, and go when tasks wait for these.
        runtime_env: of the tasks, as Ray has it.
    """

    def __init__(self, crew: Crew, runtime_env: Mapping[str, Any] | None = None) -> None:
        self._crew = crew
        self._always: dict[str, Any] = {"num_returns": 2, "max_retries": 0}
        if runtime_env is not None:
            self._always["runtime_env"] = dict(runtime_env)
        self._guard = threading.Lock()
        self._labels = count()
        self._flights: dict[int, Flight] = {}
        self._kinds: dict[Any, Any] = {}
        self._post_name = uuid4().bytes
        self._post: Any = None
        self._heard: queue.SimpleQueue[Future[list[tuple[int, float]]] | None] = queue.SimpleQueue()

    def launch(self, flight: Flight) -> None:
        """Begin a task with the needs of a flight."""
        expect_session()
        if self._post is None:
            self._open_post()
        label = next(self._labels)
        task = self._kind_of(flight.needs)
        flight.handle = (*task.remote(_HEAD.pack(label, self._post_name) + flight.sent, *flight.references), label)
        flight.watched = False
        self._flights[label] = flight

    def cancel(self, flight: Flight) -> None:
        """Take back what waits, and kill the worker process of what runs."""
        if flight.handle is not None:
            expect_session()
            ray.cancel(flight.handle[0], force=True)

    def waiting(self, flights: Sequence[Flight], moving: bool) -> None:
        """Let workers of the crew go if they hold what these wait for."""
        if not self._crew.present:
            return
        expect_session()
        free = ray.available_resources()
        if any(options_of(flight.needs).get("num_cpus", 1) > free.get("CPU", 0) for flight in flights):
            self._crew.make_room(not moving)

    def refuse(self, error: BackendError) -> None:
        """The session is over: what is under way will not be answered."""
        for flight in list(self._flights.values()):
            flight.failed(Outcome.FAILED, _unperformed(flight, error))
        self._flights.clear()

    def close(self) -> None:
        """End what was started for the tasks."""
        with self._guard:
            post, self._post = self._post, None
        self._flights.clear()
        if post is not None:
            self._heard.put(None)
            if ray.is_initialized():
                ray.kill(post)

    def _kind_of(self, needs: Needs) -> Any:
        """Return what launches tasks with these needs; making it costs more than using it."""
        key = (tuple(needs.resources.items()), tuple(needs.selector.items()))
        found = self._kinds.get(key)
        if found is None:
            found = self._kinds[key] = ray.remote(perform_task).options(**self._always, **options_of(needs))
        return found

    def look(self, flights: Sequence[Flight]) -> None:
        """Say how those have ended that have: a fifteenth of what a future for each would cost."""
        expect_session()
        by_report = {flight.handle[0]: flight for flight in flights}
        ready, _ = ray.wait(list(by_report), num_returns=len(by_report), timeout=0, fetch_local=False)
        try:
            reports = ray.get(ready)
        except Exception:  # noqa: BLE001 - one of them at least; each is asked by itself
            self.watch([by_report[report] for report in ready])
            return
        for handle, report in zip(ready, reports, strict=True):
            self._land(by_report[handle], report)

    def watch(self, flights: Sequence[Flight]) -> None:
        """Say of each how it ends, when it does."""
        for flight in flights:
            flight.watched = True
            flight.handle[0].future().add_done_callback(partial(self._take, flight))

    def _take(self, flight: Flight, done: Future[bytes]) -> None:
        try:
            report = done.result()
        except BaseException as error:  # noqa: BLE001 - Ray's, all kinds
            _, kept, label = flight.handle
            self._flights.pop(label, None)
            flight.failed(*_judged(flight, error))
            kept.future()  # who drops a failed object that nobody has looked at is told so on the terminal
        else:
            self._land(flight, report)

    def _land(self, flight: Flight, report: bytes) -> None:
        _, kept, label = flight.handle
        self._flights.pop(label, None)
        flight.landed(report, kept)

    def _open_post(self) -> None:
        with self._guard:
            if self._post is None:
                kind = ray.remote(Post).options(name=self._post_name.hex(), num_cpus=0, max_concurrency=1000)
                self._post = kind.remote()
                threading.Thread(target=self._listen, args=(self._post,), name="dagrid-ray-post", daemon=True).start()

    def _listen(self, post: Any) -> None:
        """Hear what the post hears, in a thread of its own: what Ray Client calls back may not ask it for anything."""
        with suppress(Exception):  # it has gone: what begins is known from its report
            while True:
                expect_session()
                post.listen.remote().future().add_done_callback(self._heard.put)
                done = self._heard.get()
                if done is None:
                    return
                for label, at in done.result():
                    flight = self._flights.get(label)
                    if flight is not None:
                        flight.begun(at)
        with self._guard:
            if self._post is post:
                self._post = None


def _unperformed(flight: Flight, error: BackendError) -> BackendError:
    found = BackendError(f"Ray did not perform node {flight.node!r}: {error}")
    found.__cause__ = error
    return found


def _judged(flight: Flight, error: BaseException) -> tuple[Outcome, BaseException]:
    """Return how a task of Ray ended that has no report, and the error to be shown."""
    try:
        expect_session()
    except BackendError as over:  # whatever Ray says of it then
        return Outcome.FAILED, _unperformed(flight, over)
    if isinstance(error, _LOST):
        return Outcome.LOST, error
    if isinstance(error, exceptions.TaskCancelledError):
        return Outcome.CANCELLED, error
    cause = getattr(error, "cause", None) if isinstance(error, exceptions.RayTaskError) else None
    found: BaseException
    why = " ".join(told(error if cause is None else cause).split())
    if isinstance(error, exceptions.ObjectLostError) or isinstance(cause, exceptions.ObjectLostError):
        found = TransferError(
            f"A value that node {flight.node!r} takes stayed where it was made, and cannot be had from there any more ({why}). "
            "Run the nodes before it again; a run with a checkpoint keeps a copy of every value.",
            flight.node,
        )
    elif isinstance(error, exceptions.TaskUnschedulableError):
        found = UnsatisfiableError(f"Ray finds no place for node {flight.node!r}: {why}")
    else:
        found = BackendError(
            f"Ray could not perform node {flight.node!r} ({why}). Is dagrid installed where its workers run?"
        )
    found.__cause__ = error
    return Outcome.FAILED, found


def check(needs: Mapping[str, Needs]) -> None:
    """Refuse nodes that ask for what no single node of the cluster has.

    Raises:
        UnsatisfiableError: it names the node, what it asks for, and what there is.
        CapabilityError: this version of Ray knows no labels.
        BackendError: the session is over.
    """
    if not needs:
        return
    expect_session()
    machines = [machine for machine in ray.nodes() if machine["Alive"]]
    for name, need in needs.items():
        _check_one(name, need, machines)


def _check_one(name: str, need: Needs, machines: list[dict[str, Any]]) -> None:
    options = options_of(need)
    try:
        ray.remote(perform_task).options(**options)
    except (TypeError, ValueError) as error:
        if need.selector and "label_selector" in str(error) and "Invalid option" in str(error):
            raise CapabilityError(
                f"Node {name!r} selects workers by labels, which Ray {ray.__version__} does not know. Install a newer one."
            ) from error
        raise UnsatisfiableError(f"Ray cannot take what node {name!r} asks for: {error}") from error
    wanted = dict(options.get("resources", {}))
    wanted |= {
        theirs: options[ours]
        for ours, theirs in (("num_cpus", "CPU"), ("num_gpus", "GPU"), ("memory", "memory"))
        if ours in options
    }
    able = [machine for machine in machines if _has(machine["Resources"], wanted)]
    if not able:
        there = "; ".join(_shown({name: machine["Resources"].get(name, 0) for name in wanted}) for machine in machines)
        known = sorted({each for machine in machines for each in machine["Resources"] if not each.startswith("node:")})
        raise UnsatisfiableError(
            f"Node {name!r} asks for {_shown(wanted)}, and no machine of the Ray cluster has that: they have {there}. "
            f"Ask for less, or start Ray with it (there is {', '.join(known)})."
        )
    if need.selector and not any(_matches(machine.get("Labels") or {}, need.selector) for machine in able):
        there = "; ".join(_shown(machine.get("Labels") or {}) or "none" for machine in machines)
        raise UnsatisfiableError(
            f"Node {name!r} asks for the labels {_shown(need.selector)}, and no machine of the Ray cluster that could take it "
            f"has them. There are: {there}. Start Ray with them: `ray start --labels`."
        )


def _has(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in wanted.items())


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether labels fit a selector of Ray's: a value, `!value`, `in(a, b)` or `!in(a, b)`."""
    return all(_fits(labels.get(name), wanted.strip()) for name, wanted in selector.items())


def _fits(label: str | None, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not _fits(label, wanted[1:].strip())
    if wanted.startswith("in(") and wanted.endswith(")"):
        return label in [value.strip() for value in wanted[3:-1].split(",")]
    return label == wanted


def _shown(pairs: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs.items()
    )
