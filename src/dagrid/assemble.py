"""Where graph, backend and engine are joined, and a run begins or goes on. What names and URLs mean is for `opening`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from os import PathLike, urandom
from time import time
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from dagrid.errors import (
    CapabilityError,
    InvalidSettingError,
    UnknownNodeError,
)
from dagrid.execution.binding import named_tasks, without_labels
from dagrid.execution.calls import needs_of
from dagrid.execution.clock import REAL_CLOCK
from dagrid.execution.compiling import Compiled, Keep, NamedKeep, checked_keep, compiled_for
from dagrid.execution.engine import Engine
from dagrid.execution.keeping import Keeping
from dagrid.execution.part import Before, Given, kept_of, part_of, set_up
from dagrid.execution.recording import Checkpoint, Recorder, pack_head, read, read_head
from dagrid.execution.results import ExecutionResult, NodeResult, RunStatus
from dagrid.execution.run import Run, checked_observers
from dagrid.graph.dag import DAG
from dagrid.graph.node import NodeRef, is_one, node_id
from dagrid.graph.parts import Choice
from dagrid.graph.rules import Rule, checked_rules
from dagrid.interrupts import HeldInterrupts, interruptible
from dagrid.machine.plan import OnFailure, Plan, Settings
from dagrid.opening import (
    BackendLike,
    CacheLike,
    CheckpointLike,
    Opened,
    chosen_run,
    find_checkpoint,
    lent_places,
    named,
    open_backend,
    open_cache,
    open_checkpoint,
    open_place,
    performer,
    run_id_of,
)
from dagrid.ports import (
    Artifacts,
    Backend,
    Capabilities,
    Clock,
    Host,
    Needs,
    Observer,
    Onlooker,
    Session,
)

if TYPE_CHECKING:
    from os import PathLike
    from random import Random


UNENDED = frozenset((RunStatus.RUNNING.value, RunStatus.WAITING.value))
"""What a store says of runs with which somebody can go on."""


class RunSettings(TypedDict, total=False):
    """What `start` takes by name, for the functions that pass it on."""

    backend: BackendLike | None
    places: Mapping[str, Backend] | None
    max_concurrency: int | None
    resources: Mapping[str, float] | None
    on_failure: OnFailure
    node_timeout: float | None
    timeout: float | None
    cancelled: str
    rules: Sequence[Rule] | None
    max_nodes: int
    progress: bool | None
    observers: Sequence[Observer | Onlooker]
    tracing: bool
    seed: int | None
    clock: Clock
    keep: Keep
    checkpoint: CheckpointLike | None
    run_id: str | None
    cache: CacheLike | None
    targets: Iterable[NodeRef] | None
    roots: Iterable[NodeRef] | None
    exclude: Iterable[NodeRef] | None
    debug: bool
    given: Mapping[NodeRef, Any] | None
    from_run: ExecutionResult | None
    from_file: str | PathLike[str] | None


def start(
    dag: DAG,
    tasks: Mapping[Any, Callable[..., Any]] | None = None,
    *,
    backend: BackendLike | None = None,
    places: Mapping[str, Backend] | None = None,
    max_concurrency: int | None = None,
    resources: Mapping[str, float] | None = None,
    on_failure: OnFailure = "skip",
    node_timeout: float | None = None,
    timeout: float | None = None,
    cancelled: str = "",
    rules: Sequence[Rule] | None = (),
    max_nodes: int = 1_000_000,
    progress: bool | None = None,
    observers: Sequence[Observer | Onlooker] = (),
    tracing: bool = True,
    seed: int | None = None,
    clock: Clock = REAL_CLOCK,
    keep: Keep = "all",
    checkpoint: CheckpointLike | None = None,
    run_id: str | None = None,
    epoch: int | None = None,
    cache: CacheLike | None = None,
    targets: Iterable[NodeRef] | None = None,
    roots: Iterable[NodeRef] | None = None,
    exclude: Iterable[NodeRef] | None = None,
    debug: bool = False,
    given: Mapping[NodeRef, Any] | None = None,
    from_run: ExecutionResult | None = None,
    from_file: str | PathLike[str] | None = None,
) -> Run:
    """Start a run of a graph and return its handle, which can be waited for, awaited and cancelled.

    Args:
        dag: the graph.
        tasks: functions by node name, for nodes that have none of their own or shall have another one.
        backend: where it runs: a name or URL such as "thread", "inline" or "multiprocessing?max_workers=2", a backend object, or
            any object with `name`, `submit`, `result` and `shutdown`; "dask://host:8786" gives an address. "auto" takes what
            there is: what the environment variable DAGRID_BACKEND names, the Ray session or the Dask client of this process,
            else threads. One made of a name is closed at the end of the run. By default threads, as many as
            `max_concurrency` says.
        places: what performs the nodes that run beside that backend, by the name of their place: "command" (`Command`), "loop"
            (`async def`), "caller" (`place="caller"`); such as {"command": CommandBackend(1000, processes=4)}. The run does not
            close them. For a place that is not named there is one of its own.
        max_concurrency: how many nodes may run at once; by default what the graph says.
        resources: the capacity of each named resource that nodes ask for.
        on_failure: "skip" the descendants of a failed node, "continue" also with those that take no value from it, or "stop".
        node_timeout: seconds for nodes without a timeout of their own.
        timeout: seconds for the run as a whole: its nodes are then cancelled, and it has failed. Handlers run after that.
        cancelled: why the run is cancelled before it begins, so that nothing but its handlers runs; empty where it is not.
        rules: make the graph grow while it runs.
        max_nodes: a growing graph may not have more nodes than this.
        progress: a progress bar on stderr; by default, when stderr is a terminal, one that appears after a second.
        observers: readers of the run's events, or onlookers that follow its handle.
        tracing: whether the result has a trace.
        seed: of the random draws (jitter); None draws differently in each run.
        clock: where time comes from.
        keep: which values stay until the end: "all", "outputs" (what a function of `@dag` returned, else those that no node
            takes), or the names of nodes; any other is dropped when the last node that takes it has ended.
        checkpoint: a folder in which the journal and the values of the run are kept, so that `resume` can go on after a crash;
            `postgresql://user@host/database`, so that it can do so on another machine; or a `Checkpoint` of other stores.
        run_id: what the run is called there; by default the name of the graph with the time.
        epoch: of a run of that id that is there already and has not begun, such as one that waited in a queue.
        cache: where the values of nodes with `cache` are kept between runs: a folder, the URL of any place that fsspec reaches,
            or an object with `put` and `get`; by default `.dagrid/cache` in the current folder; False keeps none and uses none.
        targets: run these and all that they need. Here and in `roots` and `exclude` a text is the name of a node, or else a tag;
            a task or a function means every node that is made of it, a handle that was kept from the description its node.
        roots: run these and all that follows from them. What they need from elsewhere must have a value: `given`, `from_run`.
        exclude: run neither these nor what waits for them.
        debug: run the debug nodes too. Without it only those run that are targets by name, and what these need.
        given: values by node; these nodes do not run. It goes before `from_run`, and that before `from_file`.
        from_run: the result of an earlier run: the nodes that completed in it have their values from there and do not run, even
            if they are targets; but with `roots`, these and what follows from them run anew. It is for the nodes that the graph
            has from the start: what `rules` append runs anew, and what a task appended that does not run is not there.
        from_file: the same of a file that `result.save(path)` wrote.

    Setup nodes run once for a graph, before its first run that needs them and with its backend; this call then waits for them. A
    graph keeps their values for its later runs. Where `tasks` has another function for one of them, they run like other nodes.

    Raises:
        BaseException: what a setup node raised.
        PlanError, GraphError: graph, tasks and settings do not fit together; nothing has run.
        BackendError: there is no such backend, or it is closed or not installed.
        StoreError: there is no such place for a cache or a checkpoint, or what it needs is not installed.
    """
    own_rules = checked_rules(rules)
    own_tasks = named_tasks(tasks, dag.name)
    readers = checked_observers(observers)
    _check_switches(progress, tracing, seed, clock)
    if max_concurrency is None:
        max_concurrency = dag.max_concurrency
    sparing = not (isinstance(keep, str) and keep == "all")
    settings = _settings(resources, max_concurrency, on_failure, node_timeout, max_nodes, timeout, debug, sparing)
    choice = Choice(targets, roots, exclude, debug, dag.name)
    part = part_of(dag, choice, Before(given, from_run, from_file), own_tasks or ())
    compiled = compiled_for(part.dag, own_tasks, settings)
    part.check(compiled.bindings)
    if compiled.plan.empty:
        compiled.check_sources(part)
    all_rules = (*part.dag.rules, *own_rules)
    values = checked_keep(keep, compiled.plan, bool(all_rules), dag, choice.whole)
    head, nonce = None, ""
    if checkpoint is not None:
        nonce = urandom(8).hex()
        run_id = _checked_run_id(run_id) if run_id is not None else _run_id(dag.name)
        head = pack_head(
            {
                "nonce": nonce,
                "dag": part.dag,
                "tasks": own_tasks or {},
                "rules": all_rules,
                "settings": settings,
                "keep": values,
                "outputs": part.outputs,
                "given": dict(part.given),
                "omitted": dict(part.omitted),
            }
        )
    with Opened() as opened:
        place, owned = open_backend(backend, max_concurrency)
        if owned:
            opened.add(partial(place.close, wait=False))
        _check_needs(compiled.plan, place, places)
        opened_cache = open_cache(cache)
        if opened_cache is not None and compiled.bindings.lineages:
            opened_cache()
        engine_of = _engines(compiled, place, places, clock, seed, opened_cache, dag.name)
        kept = open_checkpoint(opened, checkpoint) if checkpoint is not None else None
        if part.setup:
            set_up(part, kept_of(dag), lambda given, omitted: _run_setup(engine_of, given, omitted))
        recorder, began = None, 0.0  # 0: when it starts
        if kept is not None and run_id is not None and head is not None:
            recorder = _record(kept, run_id, nonce, epoch, dag.name, clock)
            recorder.begin(began := clock.now(), head)
        engine = engine_of(
            all_rules, part.given, part.omitted, recorder, _keeping(values, compiled, recorder, part.outputs)
        )
        engine.began = began
        engine.start(cancelled)
        readers += _progress(progress)
        return Run(engine, traced=tracing, observers=readers, release=opened.close, run_id=run_id or "", name=dag.name)


def restart(
    checkpoint: CheckpointLike,
    run_id: str | None = None,
    *,
    backend: BackendLike | None = None,
    places: Mapping[str, Backend] | None = None,
    progress: bool | None = None,
    observers: Sequence[Observer | Onlooker] = (),
    tracing: bool = True,
    seed: int | None = None,
    clock: Clock = REAL_CLOCK,
    cache: CacheLike | None = None,
    again: bool = False,
    roots: Iterable[NodeRef] = (),
    cancelled: str = "",
) -> Run:
    """Go on with a run that a checkpoint keeps, and return its handle.

    Takes what `resume` takes, and `cancelled`: why nothing runs any more but handlers, as for `start`.
    """
    if roots and not again:
        raise InvalidSettingError("roots says what of a run is to run once more. Say again=True too.")
    readers = checked_observers(observers)
    _check_switches(progress, tracing, seed, clock)
    with Opened() as opened:
        place_of_record = find_checkpoint(opened, checkpoint)
        record = chosen_run(place_of_record, run_id, UNENDED if not again else None, named(checkpoint))
        head = read_head(place_of_record, record.run)
        settings: Settings = head["settings"]
        compiled = compiled_for(head["dag"], head["tasks"], settings)
        place, owned = open_backend(backend, settings.max_concurrency)
        if owned:
            opened.add(partial(place.close, wait=False))
        _check_needs(compiled.plan, place, places)
        # From here on the run is ours; whoever had it has lost it. One that has ended is only read.
        store = place_of_record.store
        epoch = store.acquire(record.run) if again or record.status in UNENDED else record.epoch
        recovered = read(place_of_record, record.run, clock.now())
        recorder = Recorder(place_of_record, record.run, _nonce(head), epoch, recovered.written, clock.now())
        untold = recovered.picture is None and not recovered.entries  # it ended before it could say what is not to run
        engine = _engines(compiled, place, places, clock, seed, open_cache(cache), record.name)(
            head["rules"],
            given=head["given"] if untold else None,
            omitted=head["omitted"] if untold else None,
            recorder=recorder,
            keeping=_keeping(head["keep"], compiled, recorder, head.get("outputs", ())),
        )
        engine.restore(recovered)
        if again:
            spared = head["given"].keys() | head["omitted"].keys()
            engine.reopen(_numbers(roots, engine.state.plan, head["omitted"]), spared)
        since = clock.now() - engine.began
        if not engine.done.is_set():
            recorder.begin(clock.now(), waited=record.status == RunStatus.WAITING)
            engine.start(cancelled)
        readers += _progress(progress)
        return Run(
            engine,
            traced=tracing,
            observers=readers,
            release=opened.close,
            run_id=record.run,
            name=record.name,
            since=since,
        )


def resume(checkpoint: CheckpointLike, run_id: str | None = None, **settings: Any) -> ExecutionResult:
    """Go on with a run whose process ended before it, and wait for it: only what had not finished runs.

    A run in which nodes wait for signals goes on waiting here; `restart` gives the handle with which it can be signalled.

    What was running when the process ended counts as lost with its worker: it runs again, or fails where its node says
    `on_lost="fail"`, or when it was lost three times. With `again=True`, which a person says, it runs again in any case, and
    losses count anew. If the process still goes on, it loses the run to this one.

    Args:
        checkpoint: what `start` was given.
        run_id: which run; by default the newest one that has not ended. One that has ended gives its result.
        settings: `backend`, `places`, `progress`, `observers`, `tracing`, `seed`, `clock` and `cache`, as for `start`; all others
            are as the run was started with. `again=True` takes up a run that has ended, however it did, by default the newest:
            all that did not complete runs again, and the handlers. `roots` names nodes that run again although they completed,
            with all that is behind them. Retries count anew, the numbers of attempts go on, and so does what was appended to the
            graph.

    Raises:
        UnknownRunError: there is no such checkpoint or run, or none that has not ended; no folder is made.
        UnknownNodeError: one of the roots is no node of the run.
        InvalidSettingError: one of the roots is none that the run was to run, or its graph has grown by the value of one.
        TransferError: its graph cannot be rebuilt here; the run stays whose it is.
        StoreVersionError: a newer version of dagrid kept it.
    """
    with HeldInterrupts() as held:
        begun = restart(checkpoint, run_id, **settings)
    return begun.wait_or_interrupt(held)


def view(checkpoint: CheckpointLike, run_id: str | None = None, *, clock: Clock = REAL_CLOCK) -> Run:
    """Return a handle on what the journal of a run says at this moment, without taking the run over; it does not run here.

    Its `counts`, `status`, `node_result`, `explain` and `events` tell how it stands; `result` what came of one that has ended.
    `close` it when no more of its values are wanted. To see more, look again.

    Args:
        checkpoint: what `start` was given.
        run_id: which run; by default the newest, ended or not.

    Raises:
        UnknownRunError: there is no such checkpoint or run; no folder is made.
        TransferError: its graph cannot be rebuilt here.
        StoreVersionError: a newer version of dagrid kept it.
    """
    with Opened() as opened:
        place_of_record = find_checkpoint(opened, checkpoint)
        record = chosen_run(place_of_record, run_id, None, named(checkpoint))
        head = read_head(place_of_record, record.run)
        compiled = compiled_for(head["dag"], head["tasks"], head["settings"])
        now = clock.now()
        recovered = read(place_of_record, record.run, now)
        recorder = Recorder(place_of_record, record.run, _nonce(head), record.epoch, recovered.written, now)
        engine = _engines(compiled, _Nowhere(), None, clock, None, None, record.name)(head["rules"], recorder=recorder)
        engine.restore(recovered)
        return Run(engine, release=opened.close, run_id=record.run, view=True)


class _Nowhere:
    """The backend of a run that is only looked at."""

    name = "nowhere"
    capabilities = Capabilities(delegates=True)  # whatever nodes ask for, somebody had it

    def open(self, host: Host) -> Session:  # noqa: ARG002  # the socket has it
        raise CapabilityError("A view of a run performs nothing.")

    def close(self, wait: bool = True) -> None:
        """There is nothing."""


def run(
    dag: DAG, tasks: Mapping[Any, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]
) -> ExecutionResult:
    """Run a graph and wait for it; takes what `start` takes. Ctrl-C cancels the run, and the result says so."""
    with HeldInterrupts() as held:
        begun = start(dag, tasks, **settings)
    return begun.wait_or_interrupt(held)


def execute(
    dag: DAG, tasks: Mapping[Any, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]
) -> dict[str, NodeResult]:
    """Run a graph and return the result of each node by name, in order of insertion; takes what `start` takes.

    Raises:
        BaseException: what the first failed node raised.
        KeyboardInterrupt: Ctrl-C cancelled the run.
    """
    result = run(dag, tasks, **settings)
    if result.interrupted:
        raise KeyboardInterrupt
    return dict(result.raise_for_status().node_results)


def _drawing(seed: int | None) -> Callable[[], float]:
    """Return a function that draws from [0, 1). Most runs never draw, and seeding costs more than the run of a node."""
    generators: list[Random] = []

    def draw() -> float:
        if not generators:
            from random import Random

            generators.append(Random(seed))
        return generators[0].random()

    return draw


def _settings(resources: Mapping[str, float] | None, *said: Any) -> Settings:
    """Return the settings of a run; most have no resources, and share them."""
    if resources:
        return _made_settings(dict(resources) if isinstance(resources, Mapping) else resources, *said)
    try:
        return _shared_settings(*said)
    except TypeError:  # one that cannot be a key of the cache, and no setting either
        return _made_settings({}, *said)


@lru_cache(32, typed=True)
def _shared_settings(*said: Any) -> Settings:
    return _made_settings({}, *said)


def _made_settings(
    resources: dict[str, float],
    max_concurrency: int | None,
    on_failure: OnFailure,
    node_timeout: float | None,
    max_nodes: int,
    timeout: float | None,
    debug: bool,
    sparing: bool,
) -> Settings:
    return Settings(
        max_concurrency,
        on_failure,
        resources,
        node_timeout,
        max_nodes=max_nodes,
        timeout=timeout,
        debug=debug,
        deepest_first=sparing,
    )


def _keeping(keep: NamedKeep, compiled: Compiled, recorder: Recorder | None, asked: Collection[str]) -> Keeping | None:
    if keep == "all":
        return None
    kept = None if keep == "outputs" else frozenset(keep)
    return Keeping(kept, compiled.bindings, None if recorder is None else recorder.value, asked)


def _checked_run_id(run_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", run_id_of(run_id)) or run_id in (".", ".."):
        raise InvalidSettingError(f"run_id {run_id!r} cannot be: give letters a to z, digits, '-', '_' and '.'.")
    return run_id


def _run_id(name: str | None) -> str:
    from datetime import datetime
    from secrets import token_hex

    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name or 'run')}-{datetime.now():%Y%m%d-%H%M%S}-{token_hex(2)}"


def _record(kept: Checkpoint, run_id: str, nonce: str, epoch: int | None, name: str | None, clock: Clock) -> Recorder:
    if epoch is None:
        epoch = kept.store.create(run_id, name=name or "", at=time())
    return Recorder(kept, run_id, nonce, epoch, 0, clock.now())


def _nonce(head: Mapping[str, Any]) -> str:
    """Return what tells a run from any other of its id; one that was kept before there was such a thing has none."""
    nonce: str = head.get("nonce", "")
    return nonce


def _numbers(roots: Iterable[NodeRef], plan: Plan, omitted: Mapping[int, str]) -> list[int]:
    """Return the numbers of nodes, those that the graph has grown by too; `omitted` are no part of the run."""
    if is_one(roots) or not isinstance(roots, Iterable):
        raise InvalidSettingError(f"roots is a list of nodes; write roots=[{roots!r}].")
    names = [node_id(one) for one in roots]
    for name in names:
        if name not in plan.index:
            raise UnknownNodeError.of(name, plan.index, "roots asks for a node that the run does not have:")
        why = omitted.get(plan.index[name])
        if why is not None:
            raise InvalidSettingError(
                f"roots asks for {name!r}, which this run was started without ({why}), and a run that is taken up has the nodes "
                f"that it had. Run the graph again with it: dag.run(from_run=result, targets=[{name!r}])."
            )
    return [plan.index[name] for name in names]


def _engines(
    compiled: Compiled,
    place: Backend,
    places: Mapping[str, Backend] | None,
    clock: Clock,
    seed: int | None,
    cache: Callable[[], Artifacts | None] | None,
    name: str | None,
) -> Callable[..., Engine]:
    """Return what makes the engines of one run, that of its setup and its own, of what is left to be said of each."""
    beside: Callable[[str], Backend] = partial(open_place, max_concurrency=compiled.plan.settings.max_concurrency)
    own = getattr(place, "open_place", None)
    if own is not None:
        others = beside
        beside = lambda name: own(name) or others(name)  # noqa: E731 - the shortest way to say it
    beside = beside if not places else lent_places(places, beside)
    plan, binder, bindings = compiled.plan, compiled.binder, compiled.bindings
    return partial(Engine, plan, binder, bindings, place, clock, _drawing(seed), beside, cache, name=name or "")


def _run_setup(
    engine_of: Callable[..., Engine], given: Mapping[int, Given], omitted: Mapping[int, str]
) -> ExecutionResult:
    """Run the setup nodes of a graph by themselves."""
    engine = engine_of((), given, omitted)
    engine.growing.kept = True
    engine.start()
    with interruptible():
        result = Run(engine, traced=False).wait_or_interrupt(HeldInterrupts())
    if result.status is RunStatus.ABORTED:
        raise KeyboardInterrupt
    return result


def _check_needs(plan: Plan, main: Backend, places: Mapping[str, Backend] | None) -> None:
    """Refuse a graph whose nodes ask for labels or resources that the backend cannot find.

    Raises:
        CapabilityError: it matches no labels.
        UnsatisfiableError: a resource that neither the run nor the backend knows, or nobody has what a node asks for.
    """
    if len(plan.requests) == 1:
        return
    needs: dict[Backend, dict[str, Needs]] = {}
    first = {group: node for node, group in reversed(list(enumerate(plan.groups)))}
    for group, node in sorted(first.items(), key=itemgetter(1)):
        request = plan.requests[group]
        found = needs_of(request)
        if found is None:
            continue
        name = plan.names[node]
        place = performer(request.place, main, places)
        can = main.capabilities if place is None else place.capabilities
        if request.foreign and (request.place or not can.delegates):
            raise plan.unknown_resource(name, request)
        if request.selector and not (can.matches_selectors or can.delegates):
            raise CapabilityError(
                f"Node {name!r} selects workers by labels, and the backend {(place or main).name!r} has none. "
                f"Remove its selector, or run where workers have labels."
            )
        if request.selector and place is None:
            raise without_labels(name, request.place)
        assert place is not None
        needs.setdefault(place, {})[name] = found
    for place, asked in needs.items():
        check = getattr(place, "check", None)  # a backend that was written against the five methods has none
        if check is not None:
            check(asked)


def _check_switches(progress: object, tracing: object, seed: object, clock: object) -> None:
    if progress not in (False, True, None):
        raise InvalidSettingError(
            f"progress is True, False, or None, which shows it where stderr is a terminal; not {progress!r}."
        )
    if tracing not in (True, False):
        raise InvalidSettingError(f"tracing is True or False; not {tracing!r}.")
    if seed is not None and not isinstance(seed, int):
        raise InvalidSettingError(f"seed is a whole number, or None for another one in each run; not {seed!r}.")
    if clock is not REAL_CLOCK and not isinstance(clock, Clock):
        raise InvalidSettingError(f"clock is an object with now and call_at, not {clock!r}.")


def _progress(wanted: bool | None) -> list[Onlooker]:
    if wanted is False or (wanted is None and not _is_terminal(sys.stderr)):
        return []
    from dagrid.observe.progress import Progress

    return [Progress(REAL_CLOCK, delay=0.0 if wanted else 1.0)]


@lru_cache(1)
def _is_terminal(stream: Any) -> bool:
    return bool(stream and stream.isatty())
