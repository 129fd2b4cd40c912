"""Where graph, backend and engine are joined: names and URLs become objects, and a run begins.

Backends are found by entry point (group `dagrid.backends`), ours through the same door as anyone's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from dagrid.errors import (
    BackendNotInstalledError,
    CapabilityError,
    InvalidSettingError,
    UnknownBackendError,
    hint,
    nearest,
)
from dagrid.execution.binding import Binder, Bindings, bind, check_sources
from dagrid.execution.clock import REAL_CLOCK
from dagrid.execution.engine import Engine
from dagrid.execution.part import Before, Given, Part, kept_of, part_of, set_up
from dagrid.execution.results import ExecutionResult, NodeResult, RunStatus
from dagrid.execution.run import HeldInterrupts, Run, interruptible
from dagrid.graph.dag import DAG
from dagrid.graph.node import NodeRef
from dagrid.graph.parts import Choice
from dagrid.graph.rules import Rule
from dagrid.machine.plan import OnFailure, Plan, Settings, order_keys
from dagrid.ports import Backend, Clock, FourMethods, Observer, Onlooker

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from os import PathLike
    from random import Random

GROUP = "dagrid.backends"
DEFAULT_BACKEND = "thread"
BackendLike = str | Backend | FourMethods


class RunSettings(TypedDict, total=False):
    """What `start` takes by name, for the functions that pass it on."""

    backend: BackendLike | None
    max_concurrency: int | None
    resources: Mapping[str, float] | None
    on_failure: OnFailure
    node_timeout: float | None
    rules: Sequence[Rule]
    max_nodes: int
    progress: bool | None
    observers: Sequence[Observer | Onlooker]
    tracing: bool
    seed: int | None
    clock: Clock
    targets: Iterable[NodeRef] | None
    roots: Iterable[NodeRef] | None
    exclude: Iterable[NodeRef] | None
    debug: bool
    given: Mapping[NodeRef, Any] | None
    from_run: ExecutionResult | None
    from_file: str | PathLike[str] | None


def start(
    dag: DAG,
    tasks: Mapping[str, Callable[..., Any]] | None = None,
    *,
    backend: BackendLike | None = None,
    max_concurrency: int | None = None,
    resources: Mapping[str, float] | None = None,
    on_failure: OnFailure = "skip",
    node_timeout: float | None = None,
    rules: Sequence[Rule] = (),
    max_nodes: int = 1_000_000,
    progress: bool | None = None,
    observers: Sequence[Observer | Onlooker] = (),
    tracing: bool = True,
    seed: int | None = None,
    clock: Clock = REAL_CLOCK,
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
            any object with `name`, `submit`, `result` and `shutdown`. One made of a name is closed at the end of the run. By
            default threads, as many as `max_concurrency` says.
        max_concurrency: how many nodes may run at once; by default what the graph says.
        resources: the capacity of each named resource that nodes ask for.
        on_failure: "skip" the descendants of a failed node, "continue" also with those that take no value from it, or "stop".
        node_timeout: seconds for nodes without a timeout of their own.
        rules: make the graph grow while it runs.
        max_nodes: a growing graph may not have more nodes than this.
        progress: a progress bar on stderr; by default, when stderr is a terminal, one that appears after a second.
        observers: readers of the run's events, or onlookers that follow its handle.
        tracing: whether the result has a trace.
        seed: of the random draws (jitter); None draws differently in each run.
        clock: where time comes from.
        targets: run these and all that they need. Here and in `roots` and `exclude` a text is the name of a node, or else a tag;
            a task or a function means every node that is made of it.
        roots: run these and all that follows from them. What they need from elsewhere must have a value: `given`, `from_run`.
        exclude: run neither these nor what waits for them.
        debug: run the debug nodes too. Without it only those run that are targets by name, and what these need.
        given: values by node; these nodes do not run. It goes before `from_run`, and that before `from_file`.
        from_run: the result of an earlier run: the nodes that completed in it have their values from there and do not run, even
            if they are targets; but with `roots`, these and what follows from them run anew.
        from_file: the same of a file that `result.save(path)` wrote.

    Setup nodes run once for a graph, before its first run that needs them and with its backend; this call then waits for them. A
    graph keeps their values for its later runs. Where `tasks` has another function for one of them, they run like other nodes.

    Raises:
        BaseException: what a setup node raised.
        PlanError, GraphError: graph, tasks and settings do not fit together; nothing has run.
        BackendError: there is no such backend, or it is closed or not installed.
    """
    if max_concurrency is None:
        max_concurrency = dag.max_concurrency
    if resources:
        settings = Settings(max_concurrency, on_failure, dict(resources), node_timeout, max_nodes=max_nodes)
    else:
        settings = _shared_settings(max_concurrency, on_failure, node_timeout, max_nodes)
    part = part_of(dag, Choice(targets, roots, exclude, debug), Before(given, from_run, from_file), tasks or ())
    compiled = _compile(part.dag, tasks, settings)
    part.check(compiled.bindings)
    if compiled.plan.empty:
        _check_sources(compiled, part)
    if backend is None:
        backend = DEFAULT_BACKEND if max_concurrency is None else f"{DEFAULT_BACKEND}?max_workers={max_concurrency}"
    place, owned = open_backend(backend)
    try:
        if not place.capabilities.matches_selectors:
            _refuse_selectors(compiled.plan, place)
        if part.setup:
            set_up(part, kept_of(dag), lambda given, omitted: _run_setup(compiled, place, clock, seed, given, omitted))
        engine = Engine(
            compiled.plan,
            compiled.binder,
            compiled.bindings,
            place,
            clock,
            _drawing(seed),
            [*part.dag.rules, *rules],
            given=part.given,
            omitted=part.omitted,
        )
        engine.start()
    except BaseException:
        if owned:
            place.close(wait=False)
        raise
    readers = [*observers, *_progress(progress)]
    return Run(engine, traced=tracing, observers=readers, release=(lambda: place.close(wait=False)) if owned else None)


def run(
    dag: DAG, tasks: Mapping[str, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]
) -> ExecutionResult:
    """Run a graph and wait for it; takes what `start` takes. Ctrl-C cancels the run, and the result says so."""
    with HeldInterrupts() as held:
        begun = start(dag, tasks, **settings)
    return begun.wait_or_interrupt(held)


def execute(
    dag: DAG, tasks: Mapping[str, Callable[..., Any]] | None = None, **settings: Unpack[RunSettings]
) -> dict[str, NodeResult]:
    """Run a graph and return the result of each node by name, in order of insertion; takes what `start` takes.

    Raises:
        BaseException: what the first failed node raised.
    """
    return dict(run(dag, tasks, **settings).raise_for_status().node_results)


def open_backend(backend: BackendLike) -> tuple[Backend, bool]:
    """Return the backend that a name, a URL or an object means, and whether it was made here and is to be closed here.

    Raises:
        UnknownBackendError: no backend has that name.
        BackendNotInstalledError: its package is not installed.
        InvalidSettingError: a setting in the URL that the backend does not take.
    """
    if isinstance(backend, str):
        return _made(backend), True
    if isinstance(backend, Backend):
        return backend, False
    if isinstance(backend, FourMethods):
        from dagrid.execution.backends.adapter import adapt

        return adapt(backend), False
    raise InvalidSettingError(
        f"A backend is a name such as 'thread', or an object with name, submit, result and shutdown; not {backend!r}."
    )


@cache
def known_backends() -> dict[str, EntryPoint]:
    """Return the backends that are registered, by name."""
    from importlib.metadata import entry_points  # reads mail headers: 15 ms that no description of a graph needs

    return {point.name: point for point in entry_points(group=GROUP)}


def _made(url: str) -> Backend:
    name, _, query = url.partition("?")
    kind = _loaded(name)
    if not query:
        return kind()
    from urllib.parse import parse_qsl

    settings = {key: _read(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    try:
        return kind(**settings)
    except TypeError as error:
        raise InvalidSettingError(f"Backend {name!r} cannot be made with {settings}: {error}.") from error


@cache
def _loaded(name: str) -> Callable[..., Backend]:
    known = known_backends()
    if name not in known:
        suggestion = nearest(name, known)
        listed = ", ".join(sorted(known))
        raise UnknownBackendError(
            f"There is no backend {name!r}.{hint(suggestion)} There are: {listed}.", name, suggestion
        )
    try:
        kind: Callable[..., Backend] = known[name].load()
    except ImportError as error:
        raise BackendNotInstalledError(
            f"Backend {name!r} needs {error.name or 'a package that is not there'}. Install it with: pip install 'dagrid[{name}]'"
        ) from error
    return kind


def _read(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _drawing(seed: int | None) -> Callable[[], float]:
    """Return a function that draws from [0, 1). Most runs never draw, and seeding costs more than the run of a node."""
    generators: list[Random] = []

    def draw() -> float:
        if not generators:
            from random import Random

            generators.append(Random(seed))
        return generators[0].random()

    return draw


def _shared_settings(*said: Any) -> Settings:
    try:
        return _settings(*said)
    except TypeError:  # one that cannot be a key of the cache, and no setting either
        return _settings.__wrapped__(*said)


@lru_cache(32, typed=True)
def _settings(
    max_concurrency: int | None, on_failure: OnFailure, node_timeout: float | None, max_nodes: int
) -> Settings:
    """Return settings without resources, which most runs share."""
    return Settings(max_concurrency, on_failure, {}, node_timeout, max_nodes=max_nodes)


@dataclass(slots=True)
class _Compiled:
    """A graph bound to its tasks and compiled; kept with the graph, so that it is done once for runs that are alike.

    `own` says that all tasks are the nodes' own, which cannot change.
    """

    fns: list[Any]
    own: bool
    settings: Settings
    keys: list[int]
    binder: Binder
    bindings: Bindings
    plan: Plan


def _compile(dag: DAG, tasks: Mapping[str, Callable[..., Any]] | None, settings: Settings) -> _Compiled:
    structure, specs = dag.structure, dag.specs
    known: _Compiled | None = dag.compiled
    alike = known is not None and (known.settings is settings or known.settings == settings)
    if alike and known is not None and known.own and not tasks:
        return known
    binder = Binder(tasks, structure.index, dag.outline.late(structure.index) if tasks and dag.outline else ())
    fns = binder.tasks(structure.names, specs)
    if alike and known is not None and known.fns == fns and dag.outline is None:
        return known
    keys = order_keys(structure, specs) if known is None else known.keys
    bindings = bind(binder, fns, structure.names, structure.predecessors, specs)
    plan = Plan(
        structure,
        specs,
        settings,
        empty=bindings.empty,
        sources=bindings.sources,
        keys=keys,
        places=bindings.places,
    )
    compiled = _Compiled(fns, not tasks, settings, keys, binder, bindings, plan)
    dag.compiled = compiled
    return compiled


def _check_sources(compiled: _Compiled, part: Part) -> None:
    """Check that no node that runs takes the value of one that has neither a task nor a value."""
    names = compiled.plan.names
    running = (at for at in range(len(names)) if at not in part.omitted and at not in part.given)
    check_sources(compiled.bindings, running, names, part.given)


def _run_setup(
    compiled: _Compiled,
    place: Backend,
    clock: Clock,
    seed: int | None,
    given: Mapping[int, Given],
    omitted: Mapping[int, str],
) -> ExecutionResult:
    """Run the setup nodes of a graph by themselves."""
    plan, binder, bindings = compiled.plan, compiled.binder, compiled.bindings
    engine = Engine(plan, binder, bindings, place, clock, _drawing(seed), given=given, omitted=omitted)
    engine.start()
    with interruptible():
        result = Run(engine, traced=False).wait_or_interrupt(HeldInterrupts())
    if result.status is RunStatus.ABORTED:
        raise KeyboardInterrupt
    return result


def _refuse_selectors(plan: Plan, place: Backend) -> None:
    if not any(request.selector for request in plan.requests):
        return
    for node, group in enumerate(plan.groups):
        if group and plan.requests[group].selector:
            raise CapabilityError(
                f"Node {plan.names[node]!r} selects workers by labels, and the backend {place.name!r} has none. "
                f"Remove its selector, or run where workers have labels."
            )


def _progress(wanted: bool | None) -> list[Onlooker]:
    if wanted is False or (wanted is None and not (sys.stderr and sys.stderr.isatty())):
        return []
    from dagrid.observe.progress import Progress

    return [Progress(REAL_CLOCK, delay=0.0 if wanted else 1.0)]
