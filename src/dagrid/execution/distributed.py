"""`PartitionedDAGExecutor`: a graph in parts, each of which one worker performs as a whole, side by side where they can.

The outer run is an ordinary run of an ordinary graph, whose nodes are the parts; each part is an ordinary run where it is
performed. Here the two are joined; no scheduling rule is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

from dagrid.errors import CapabilityError, InvalidSettingError, PoisonousTaskError, TransferError, hint, nearest
from dagrid.execution.backends._worker import type_name
from dagrid.execution.binding import Gathered, named_tasks
from dagrid.execution.compiling import Compiled, Keep, NamedKeep, checked_keep, compiled_for
from dagrid.execution.distributed_executor import DistributedExecutor
from dagrid.execution.division import GIVEN, Divider, Slice
from dagrid.execution.executor import checked_graph, on_failure, shut_down
from dagrid.execution.merging import Whole
from dagrid.execution.part import Before, Part, kept_of, part_of, set_up
from dagrid.execution.performing import Inputs, Live, PartEnded, PartInterrupted, Report, perform_piece
from dagrid.execution.pieces import Held, Unsent
from dagrid.execution.results import ExecutionResult, NodeResult, NodeStatus, RunStatus
from dagrid.graph.dag import DAG
from dagrid.graph.late import as_unread_list
from dagrid.graph.node import Node, NodeRef
from dagrid.graph.partition import Partition, Transfer, partition
from dagrid.graph.parts import Choice
from dagrid.graph.structure import Structure
from dagrid.machine.plan import OnFailure, Settings
from dagrid.machine.state import CANCELLED, COMPLETED, FAILED, LOST, SKIPPED
from dagrid.ports import opened

__all__ = ["DistributedExecutor", "PartitionedDAGExecutor", "PartitionedSettings"]


class PartitionedSettings(TypedDict, total=False):
    """What `PartitionedDAGExecutor` takes of the settings of `DAG.start`, and what `DAG.partition` takes beside its own."""

    transfer: Transfer | None
    on_failure: OnFailure
    keep: Keep
    progress: bool | None
    seed: int | None
    targets: Iterable[NodeRef] | None
    roots: Iterable[NodeRef] | None
    exclude: Iterable[NodeRef] | None
    debug: bool
    given: Mapping[NodeRef, Any] | None
    from_run: ExecutionResult | None
    from_file: str | PathLike[str] | None
    cache: bool | None


_INSTEAD = {
    "resources": "Parts that run side by side share no count",
    "max_concurrency": "Parts run side by side: say how many workers the backend has, and max_workers for each part",
    "checkpoint": "What happens within a part is told when the part has ended",
    "run_id": "There is no checkpoint",
    "rules": "A graph is cut before it runs, so it cannot grow",
    "max_nodes": "A graph is cut before it runs, so it cannot grow",
    "observers": "What happens within a part is told when the part has ended",
    "timeout": "Parts run by the clocks of their workers: say node_timeout",
    "clock": "Parts run by the clocks of their workers",
}


class PartitionedDAGExecutor:
    """Execute a graph in parts: each goes to a worker as a whole, as soon as the parts that it needs are done.

    Only values that other parts take travel between them, and only those that are kept travel home. Within a part nodes run as
    in any run, with their retries, timeouts and priorities, and a failed one skips what depends on it and nothing else. A worker
    that vanishes loses its part, which is sent again.

    Args:
        dag: the graph.
        k: for how many workers it is cut, see `DAG.partition`.
        strategy: "level_based", "balanced" or "communication_min".
        costs: estimated seconds of nodes, by name.
        max_workers: how many nodes of a part run at once, in threads of its worker; None is one, in the worker's own thread.
        fail_fast: a failed node skips its descendants; with False, those that take no value from it run all the same.
        max_iterations: how often the cut is improved at most.
        max_imbalance: by what share a worker may have more than the mean; 0.0 is balanced to one node.
        backend: where the parts run: a name, a URL or a backend object; by default threads.
        enable_tracing: whether the result has a trace.
        node_timeout: seconds for nodes without a timeout of their own.
        **settings: `PartitionedSettings`; as for `DAG.start` and `DAG.partition`.

    Attributes:
        partition: the parts.

    Raises:
        InvalidSettingError: a setting that is not known, or cannot be combined with parts; or what is given as a graph is none.
        UnknownNodeError, InvalidNodeError: a cost for a node that is not there, or no cost.
        CapabilityError: the graph grows while it runs.

    As a context manager it shuts a backend object down at the end.
    """

    def __init__(
        self,
        dag: DAG,
        k: int,
        strategy: str = "level_based",
        costs: Mapping[str, float] | None = None,
        max_workers: int | None = None,
        fail_fast: bool = True,
        max_iterations: int = 20,
        max_imbalance: float | None = None,
        *,
        backend: Any = None,
        enable_tracing: bool = True,
        node_timeout: float | None = None,
        **settings: Unpack[PartitionedSettings],
    ) -> None:
        _check_settings(settings)
        _refuse(checked_graph(dag), cached=settings.get("cache") is not False)
        if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
            raise InvalidSettingError(f"max_workers is a whole number from 1 up, or None for one; not {max_workers!r}.")
        self.dag = dag
        self.backend = backend
        self._slots = max_workers or 0
        self._traced = enable_tracing
        self._said = settings
        self._settings = Settings(
            dag.max_concurrency, settings.get("on_failure", on_failure(fail_fast)), {}, node_timeout
        )
        self.partition: Partition = partition(
            dag,
            k,
            strategy,
            costs=costs,
            max_iterations=max_iterations,
            max_imbalance=max_imbalance,
            transfer=settings.get("transfer"),
        )
        self._divided: _Divided | None = None

    def execute(self, tasks: Mapping[Any, Callable[..., Any]] | None = None) -> ExecutionResult:
        """Run the graph with these tasks, by node name, and wait for it. Ctrl-C cancels the run, and the result says so.

        Raises:
            PlanError, GraphError: graph, tasks and settings do not fit together; nothing has run.
            CapabilityError: a node asks for what a part cannot give; nothing has run.
            BackendError: there is no such backend, or it is closed or not installed.
        """
        said = self._said
        choice = Choice(
            said.get("targets"), said.get("roots"), said.get("exclude"), said.get("debug", False), self.dag.name
        )
        before = Before(said.get("given"), said.get("from_run"), said.get("from_file"))
        own = named_tasks(tasks, self.dag.name)
        part = part_of(self.dag, choice, before, own or ())
        compiled = compiled_for(part.dag, own, self._settings)
        part.check(compiled.bindings)
        if compiled.plan.empty:
            compiled.check_sources(part)
        keep = checked_keep(said.get("keep", "all"), compiled.plan, False, self.dag, choice.whole)
        if part.setup:
            set_up(part, kept_of(self.dag), _refuse_setup)
        divided = self._divide(compiled, part, keep)
        return _Execution(divided, part, said.get("seed"), self.dag.name).run(
            self.backend, self._traced, said.get("progress"), self._at_once()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shut_down(self.backend)

    def __repr__(self) -> str:
        return f"<PartitionedDAGExecutor: {len(self.partition)} parts for {self.partition.k} workers>"

    def _at_once(self) -> int | None:
        """Return how many parts may run at once, so that no more nodes do than the graph allows."""
        limit = self.dag.max_concurrency
        return None if limit is None else max(1, limit // max(1, self._slots))

    def _divide(self, compiled: Compiled, part: Part, keep: NamedKeep) -> _Divided:
        """Return the graph divided for a run; as it was before if nothing is different."""
        known = self._divided
        if (
            known is not None
            and known.compiled is compiled
            and known.given == part.given.keys()
            and known.omitted == part.omitted.keys()
        ):
            return known
        plan = compiled.plan
        index = plan.index
        kept = None if keep == "all" else frozenset(_kept(keep, compiled, part))
        limit = self.dag.max_concurrency
        slots = self._slots if limit is None else min(self._slots, limit)
        divider = Divider(plan, compiled.bindings, self.dag.specs, kept, part.given.keys(), part.omitted.keys(), slots)
        slices = divider.divide([[index[name] for name in names] for names in self.partition.parts])
        specs = {at: one for at, one in enumerate(map(self._spec, range(len(slices)), slices)) if one is not None}
        names = [f"part {at}" for at in range(len(slices))]
        structure = Structure.of_predecessors(
            names, {name: at for at, name in enumerate(names)}, [list(one.needs) for one in slices]
        )
        self._divided = _Divided(compiled, slices, DAG.of(structure, specs), kept, set(part.given), set(part.omitted))
        return self._divided

    def _spec(self, number: int, part: Slice) -> Node | None:
        """Return what is to be said of a part: it is as urgent and as fragile as the nodes in it."""
        specs = self.dag.specs
        said = [specs[node] for node in part.order if node in specs]
        priority = max([spec.priority for spec in said], default=0)
        on_lost: Literal["fail", "requeue"] = "fail" if any(spec.on_lost == "fail" for spec in said) else "requeue"
        if not priority and on_lost == "requeue":
            return None
        return Node(f"part {number}", priority=priority, on_lost=on_lost)


@dataclass(slots=True)
class _Divided:
    """A graph divided for runs that are alike, and the graph of its parts."""

    compiled: Compiled
    slices: list[Slice]
    outer: DAG
    kept: frozenset[int] | None
    given: set[int]
    omitted: set[int]


class _Execution:
    """One run of a divided graph."""

    def __init__(self, divided: _Divided, part: Part, seed: int | None, name: str | None) -> None:
        self._divided = divided
        self._name = name
        self._part = part
        self._seed = seed
        self._live = Live()
        self._reports: dict[int, Report] = {}
        self._values: dict[int, list[Any]] = {}
        self._fine: set[int] = set()  # parts all of whose nodes completed, with values that could travel

    def run(self, backend: Any, traced: bool, progress: bool | None, at_once: int | None) -> ExecutionResult:
        """Run the parts and return the result of the whole."""
        divided = self._divided
        stops = divided.compiled.settings.on_failure == "stop"
        inputs = self._inputs
        tasks = {
            name: Gathered(perform_piece, partial(inputs, number))
            for number, name in enumerate(divided.outer.structure.names)
        }
        try:
            result = divided.outer.run(
                tasks,
                backend=backend,
                on_failure="stop" if stops else "continue",
                max_concurrency=at_once,
                progress=progress,
            )
        except BaseException:
            self._live.stop("the run ended")
            raise
        return self._whole(result, traced)

    def _inputs(self, number: int, values: Sequence[Any]) -> tuple[Any, Inputs]:
        """Return what a part is called with, of the reports of all parts; None is one that gave none."""
        part = self._divided.slices[number]
        reports, kept = self._reports, self._values
        for at in part.needs:
            if at not in reports and values[at] is not None:
                self._report(at, values[at])
        fine = not self._part.given and self._fine.issuperset(part.needs)
        if fine:
            taken = zip(part.sources, part.places, strict=True)
            found = [kept[source][place] if place >= 0 else None for source, place in taken]
            return part.piece, Inputs(number, found, [], self._seed, self._live)
        found = [self._value(part, at) for at in range(len(part.sources))]
        unwell = [
            at
            for at, (source, local) in enumerate(zip(part.sources, part.numbers, strict=True))
            if source != GIVEN and source not in self._fine and self._is_unwell(source, local)
        ]
        for at in unwell:
            found[at] = None
        return part.piece, Inputs(number, found, unwell, self._seed, self._live)

    def _value(self, part: Slice, at: int) -> Any:
        """Return a value that a part needs, which may come from before the run, or not be there."""
        source, place = part.sources[at], part.places[at]
        if place < 0 or (source != GIVEN and source not in self._values):
            return None
        if source != GIVEN:
            return self._values[source][place]
        node = part.nodes[part.size + at]
        return Held(self._part.given[node][0], self._divided.compiled.plan.names[node])

    def _report(self, part: int, value: Any) -> Report:
        found = self._reports.get(part)
        if found is None:
            found = opened(value)
            if not isinstance(found, Report):
                raise TransferError(
                    f"The backend gave {type_name(found)} in place of the report of a part. Let it return what it is given."
                )
            self._reports[part] = found
            self._values[part] = found.values
            if found.well and not found.lacks:
                self._fine.add(part)
        return found

    def _is_unwell(self, part: int, local: int) -> bool:
        """Whether a node ended in such a way that those that depend on it may not run."""
        report = self._reports.get(part)
        if report is None:
            return True
        code = report.status[local]
        if code == COMPLETED:
            sent = self._divided.slices[part].sent
            if not report.lacks or (sent is not None and local not in sent):
                return False
            return type(report.values[local if sent is None else sent.index(local)]) is Unsent
        return not (code == SKIPPED and local not in report.told[3])

    def _whole(self, outer: ExecutionResult, traced: bool) -> ExecutionResult:
        """Return the result of the whole, put together of what the parts told."""
        divided = self._divided
        total = outer.total_duration_seconds
        left = self._live.stop("the run ended")
        whole = Whole(divided.compiled.plan, divided.slices, self._part.given, self._part.omitted)
        values = outer.completed()
        results = [outer.node_result(name, value=False) for name in divided.outer.structure.names]
        untold: list[int] = []
        for number in sorted(range(len(results)), key=lambda at: (results[at].started, at)):
            told = results[number]
            report = self._told(number, told, values, left)
            if report is None:
                untold.append(number)
            else:
                whole.take(number, report, told.worker, told.started)
        most = divided.compiled.settings.max_losses
        for number in sorted(untold):
            told = results[number]
            losses = most if isinstance(told.error, PoisonousTaskError) else 0
            whole.lose(number, _STATUS.get(told.status, CANCELLED), told.ended or total, _why(told), told.error, losses)
        cancelled = ""
        if outer.status is RunStatus.ABORTED:
            cancelled = next((one.reason for one in results if one.status is NodeStatus.CANCELLED), "cancelled")
        stopped = divided.compiled.settings.on_failure == "stop" and not outer.ok
        state = whole.finish(total, cancelled, STOPPED if stopped else "")
        if divided.kept is not None:
            whole.drop(divided.kept)
        return ExecutionResult(
            state, whole.values, whole.errors, 0.0, total, outer.failure, (), traced, outer.backend_name, self._name
        )

    def _told(
        self, number: int, told: NodeResult, values: Mapping[str, Any], left: Mapping[int, Report]
    ) -> Report | None:
        """Return the report of a part, also of one that did not end by itself, if there is one."""
        if told.status is NodeStatus.COMPLETED:
            return self._report(number, values[told.name])
        if isinstance(told.error, (PartEnded, PartInterrupted)):
            return told.error.report
        return left.get(number) if told.attempts else None


STOPPED = "a node failed and on_failure is 'stop'"
_STATUS = {NodeStatus.FAILED: FAILED, NodeStatus.LOST: LOST}


def _why(told: NodeResult) -> str:
    return STOPPED if told.status is NodeStatus.SKIPPED else told.reason


def _kept(keep: NamedKeep, compiled: Compiled, part: Part) -> Collection[int]:
    """Return the nodes whose values are kept: those that are named, or those that no node takes that runs."""
    if keep != "outputs":
        return [compiled.plan.index[name] for name in keep]
    nodes = range(len(compiled.plan))
    running = [node for node in nodes if node not in part.given and node not in part.omitted]
    taken = {source for node in running for source in compiled.bindings.sources(node)}
    fns = compiled.bindings.fns
    index = compiled.plan.index
    asked = {index[name] for name in part.outputs if name in index}
    return [node for node in nodes if node in asked or (node not in taken and fns[node] is not as_unread_list)]


def _check_settings(settings: Mapping[str, Any]) -> None:
    known = PartitionedSettings.__annotations__
    for name in settings:
        if name in _INSTEAD:
            raise InvalidSettingError(
                f"{name} cannot be combined with parts: {_INSTEAD[name]}. Run node by node, with DAG.run, where you need it."
            )
        if name not in known:
            suggestion = nearest(name, known)
            raise InvalidSettingError(f"PartitionedDAGExecutor has no setting {name!r}.{hint(suggestion)}")
    if settings.get("cache"):
        raise InvalidSettingError(
            "Values are not kept between runs where a graph is cut into parts. Leave cache out, or run with DAG.run."
        )


def _refuse(dag: DAG, cached: bool) -> None:
    """Refuse what parts cannot give.

    Raises:
        CapabilityError: the graph, or one of its nodes, asks for it.
    """
    if dag.rules or dag.outline is not None:
        raise CapabilityError(
            "The graph grows while it runs (by rules, or a map over a value to come), and is cut into parts before. "
            "Run it with DAG.run or DistributedExecutor."
        )
    for spec in dag.specs.values():
        why = _refused(spec, cached)
        if why:
            raise CapabilityError(f"Node {spec.id!r} {why}, or run the graph with DAG.run or DistributedExecutor.")


def _refused(spec: Node, cached: bool) -> str:
    if spec.adds is not None:
        return "may append to the graph, which is cut into parts before. Remove its adds"
    if spec.resources:
        return "asks for resources, of which parts that run side by side share no count. Remove its resources"
    if spec.selector:
        return "selects its worker by labels, and a part is performed by one worker. Remove its selector"
    if spec.is_sequential:
        return "has to run alone, and other parts run beside its own. Remove is_sequential"
    if spec.place is not None:
        return "has to run in the caller's thread, and its part runs elsewhere. Remove its place"
    if spec.handler is not None:
        return "is a handler, and parts end one by one. Remove its handler"
    if spec.continue_on:
        return "lets others go on when it fails, of which other parts are not told. Remove its continue_on"
    if spec.repeat is not None:
        return "may ask to be run again, and its part does not wait. Remove its repeat"
    if spec.reads:
        return "reads values that other parts may have by then, of which its own part is not told. Remove its reads"
    if spec.cache and cached:
        return "keeps its value between runs, which parts do not. Give cache=False, which keeps none and uses none"
    return ""


def _refuse_setup(given: Mapping[int, Any], omitted: Mapping[int, str]) -> ExecutionResult:  # noqa: ARG001
    raise CapabilityError(
        "The setup nodes of the graph have not run yet, and parts cannot run them once for all. Run them before with "
        "dag.run(targets=[...]), which keeps their values for later runs of the same graph; or give the values with given=."
    )
