"""A checked workflow and its context become a graph: a node for each step, and nodes for its handlers.

It decides nothing about when steps run: order, retries, repetitions and handlers are settings of nodes, and the machine's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import reduce
from itertools import compress
from operator import or_
from typing import Any

import msgspec

from dagrid.commands import Command
from dagrid.errors import CapabilityError, WorkflowError
from dagrid.execution.pickling import pack
from dagrid.graph.arguments import Arguments, Ref
from dagrid.graph.dag import DAG, unpacked
from dagrid.graph.node import ContinueOn, Node
from dagrid.graph.policy import Repeat, Retry
from dagrid.masking import masked
from dagrid.workflow.context import Context, Selector, Spec
from dagrid.workflow.known import Known
from dagrid.workflow.model import Record, RepeatPolicy, RetryPolicy, Step, Workflow, handlers, place
from dagrid.workflow.order import dependencies, names_of
from dagrid.workflow.performing import EXCLUSIVE_HANDLER, EXCLUSIVE_STEP, HANDLER, STEP
from dagrid.workflow.references import OF_ITS_FILES, asked, texts
from dagrid.workflow.surroundings import before
from dagrid.workflow.variables import Names

HANDLER_NAMES = {
    "init": "onInit",
    "success": "onSuccess",
    "failure": "onFailure",
    "cancel": "onCancel",
    "exit": "onExit",
}
HANDLER_KIND = "handler"
"""The kind of the nodes that are no steps."""
LOCAL = "local"
KEPT = 32
"""So many graphs are kept for further runs of the same workflows, and of one file at most."""
HERE_KINDS = frozenset({"approval", "dag"})
"""Types of steps that need the process of the run, whatever performs the others."""


_opened: Known[DAG] = Known(KEPT)


def lower(context: Context, spread: bool = False) -> DAG:
    """Return the graph of a workflow; runs share it, unless it says what only one of them knows.

    Args:
        context: of the run, which knows the values that settings such as `retryPolicy.limit` may be made of.
        spread: whether workers perform the steps, by their labels; else this machine does.

    Raises:
        WorkflowError: a setting that is no number when its variables are known, or labels that no worker can have.
        CapabilityError: a step asks for labels that this machine does not have.
    """
    workflow, graphs = context.workflow, context.file.graphs
    labels = () if spread else tuple(sorted(context.labels.items()))
    selector = tuple(sorted(context.selector.items())) if isinstance(context.selector, Mapping) else context.selector
    how = place(workflow), workflow.name, spread, selector, labels
    packed = graphs.get(how)
    if packed is not None:
        return _opened.get(packed) or _opened.keep(unpacked(packed), packed)
    lowering = _Lowering(context, spread)
    graph = lowering.graph()
    if not lowering.is_own and len(graphs) < KEPT:
        graph.packed = graphs[how] = pack(graph)
        _opened.keep(graph, graph.packed)
    return graph


class _Lowering:
    def __init__(self, context: Context, spread: bool) -> None:
        self.context = context
        self.spread = spread
        self.workflow: Workflow = context.workflow
        self.names = Names([context.given, context.variables, os.environ])
        self.by_id = names_of(self.workflow)
        self.ids = {one.name: one.id for one in self.workflow.steps if one.id}
        self.refs = {name: Ref(name) for name in self.by_id.values()}
        self.waits = dependencies(self.workflow)
        self.taken = set(self.waits)
        every = (*self.workflow.steps, *(step for _, step in handlers(self.workflow)))
        self.texts = {id(step): tuple(texts(step)) for step in every}
        self.asks = {step: tuple(asked(said)) for step, said in self.texts.items()}
        self.shown = self._shown()
        self.is_own = False  # whether a setting was made of what this run knows

    def graph(self) -> DAG:
        nodes = []
        before: tuple[str, ...] = ()
        first: tuple[str, ...] = ()
        roles = dict(handlers(self.workflow))
        init = roles.pop("init", None)
        if init is not None:
            name = _free("init", self.taken)
            nodes.append(self._node(init, name, (), ()))
            before = (name,)
            first = before if _leaves(init) else ()
            self.refs[name] = Ref(name)
        readable = self._readable()
        for step in self.workflow.steps:
            waits = self.waits[step.name] or before
            nodes.append(self._node(step, step.name, waits, (*first, *readable[step.name])))
        leaving = (*first, *(step.name for step in self.workflow.steps if _leaves(step)))
        for role, step in roles.items():
            if role in HANDLER_NAMES:
                nodes.append(self._node(step, _free(role, self.taken), (), leaving, role))
        return DAG(nodes, name=self.workflow.name, max_concurrency=self.workflow.max_active_steps or None)

    def _shown(self) -> dict[str, tuple[str, ...]]:
        """Return by the ids of steps which files of their output others look into."""
        found: dict[str, set[str]] = {}
        for asks in self.asks.values():
            for _, asked_id, what in asks:
                if what in ("stdout", "stderr"):
                    found.setdefault(asked_id, set()).add(what)
        return {one: tuple(sorted(streams)) for one, streams in found.items()}

    def _readable(self) -> dict[str, tuple[str, ...]]:
        """Return for each step those before it, directly or not, that leave outputs, in the order of the file."""
        names = [step.name for step in self.workflow.steps if _leaves(step)]
        leaving = {name: 1 << number for number, name in enumerate(names)}
        if not leaving:
            return dict.fromkeys(self.waits, ())
        order = [step.name for step in self.workflow.steps]
        seen: dict[str, int] = {}
        rest = list(reversed(order))
        while rest:
            name = rest[-1]
            open_ones = [one for one in self.waits[name] if one not in seen] if name not in seen else []
            if open_ones:
                rest += open_ones
                continue
            rest.pop()
            if name not in seen:
                seen[name] = reduce(or_, [seen[one] | leaving.get(one, 0) for one in self.waits[name]], 0)
        return {name: tuple(compress(names, map("1".__eq__, bin(seen[name])[:1:-1]))) for name in order}

    def _node(
        self, step: Step, name: str, waits: tuple[str, ...], readable: tuple[str, ...], handler: str | None = None
    ) -> Node:
        wanted = self._wanted(step)
        is_watched = any(OF_ITS_FILES in text for _, text in self.texts[id(step)])
        named = [self.by_id[one] for _, one, _ in self.asks[id(step)] if one in self.by_id]
        shown = self.shown.get(step.id, ())
        values = tuple(one for one in waits if one in self.taken) if step.kind == "python" else ()
        reads = tuple(dict.fromkeys((*readable, *(one for one in named if one != step.name), *values)))
        retry, made = self._retry(step.retry_policy)
        step = msgspec.structs.replace(step, name=name, retry_policy=made, places={})  # which nobody asks for any more
        spec = Spec(
            step=step,
            reads=reads,
            ids={self.ids[one]: one for one in reads if one in self.ids},
            values=values,
            selector=wanted if step.kind == "dag" else {},
            is_first=not waits and handler is None,
            is_read=bool(shown),
            shown=shown if self.spread else (),
            is_watched=is_watched,
        )
        tasks = (EXCLUSIVE_STEP, EXCLUSIVE_HANDLER) if step.exclusive else (STEP, HANDLER)
        task: Command = tasks[handler is not None]
        settings: dict[str, Any] = {"handler": handler} if handler is not None else {}
        if not self.spread:
            self._check_here(step, wanted)
        elif wanted == LOCAL or step.kind in HERE_KINDS:
            settings["place"] = "here"
        elif wanted:
            settings["selector"] = wanted
        return Node(
            name,
            task,
            waits,
            step.priority,
            resources=step.resources or None,
            retries=retry,
            repeat=_repeat(step.repeat_policy),
            timeout=step.timeout_sec or None,
            kind=HANDLER_KIND if step.name not in self.waits else None,
            reads=tuple(one for one in reads if one not in waits),
            on_lost=step.on_worker_lost,
            continue_on=_goes_on(step),
            arguments=Arguments((spec, *[self.refs[one] for one in reads]), sources=reads),
            **settings,
        )

    def _retry(self, policy: RetryPolicy | None) -> tuple[Retry | None, RetryPolicy | None]:
        """Return how a node is tried again, and the policy with its numbers."""
        if policy is None:
            return None, None
        limit = int(self._number(policy, "limit"))
        interval = self._number(policy, "interval_sec")
        most = self._number(policy, "max_interval_sec")
        made = msgspec.structs.replace(policy, limit=limit, interval_sec=interval, max_interval_sec=most)
        if limit <= 0:
            return None, made
        return Retry(limit, interval, max(policy.backoff, 1.0), most or max(interval, 86_400.0)), made

    def _number(self, record: Record, field: str) -> float:
        value = getattr(record, field)
        if not isinstance(value, str):
            return float(value)
        self.is_own = True
        text = before(self.context, record, field, self.names).strip()
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            shown = masked(text, self.context.secrets)
            message = f"{value!r} is {shown!r} here, and a number from 0 up is wanted"
            raise WorkflowError([self.context.file.problem(place(record, field), message)])
        return number

    def _wanted(self, step: Step) -> Selector:
        """Return the labels that the worker of a step must have: those of all that say some."""
        wanted: dict[str, str] = {}
        for said in filter(None, (self.context.selector, self.workflow.worker_selector, step.worker_selector)):
            if not isinstance(said, Mapping):
                return LOCAL
            for label, value in said.items():
                if wanted.setdefault(label, value) != value:
                    message = (
                        f"the worker of step {step.name!r} cannot have both {label}={wanted[label]} and {label}={value}"
                    )
                    raise WorkflowError([self.context.file.problem(place(step, "worker_selector"), message)])
        return wanted

    def _check_here(self, step: Step, wanted: Selector) -> None:
        if not isinstance(wanted, dict) or not wanted:
            return
        labels = self.context.labels
        missing = [f"{label}={value}" for label, value in wanted.items() if labels.get(label) != value]
        if missing:
            raise CapabilityError(
                f"Step {step.name!r} wants a worker with {', '.join(missing)}, and this machine has no such label. "
                f"If it can do that, say so: --worker.labels {','.join(missing)}; or name the coordinator of workers that "
                f"can: --coordinator.host"
            )


def _leaves(step: Step) -> bool:
    return bool(step.output or step.outputs or step.approval)


def steps_of(workflow: Workflow) -> dict[str, Step]:
    """Return the steps and the handlers of a workflow, by the names of their nodes."""
    steps = {step.name: step for step in workflow.steps}
    roles = {_free(role, steps): step for role, step in handlers(workflow) if role in HANDLER_NAMES}
    return {**steps, **roles}


def _free(role: str, taken: Collection[str]) -> str:
    name = HANDLER_NAMES[role]
    while name in taken:
        name += "_"
    return name


def _goes_on(step: Step) -> tuple[ContinueOn, ...]:
    """Return after which of its ends what comes behind a step goes on."""
    on = step.continue_on
    if not (on.failure or on.skipped):
        return ()
    words: dict[ContinueOn, bool] = {
        "failure": on.failure,
        "skipped": on.skipped,
        "success": on.failure and on.mark_success,
    }
    return tuple(word for word, is_meant in words.items() if is_meant)


def _repeat(policy: RepeatPolicy | None) -> Repeat | None:
    if policy is None or not policy.repeat:
        return None
    most = policy.max_interval_sec or max(policy.interval_sec, 86_400.0)
    return Repeat(policy.limit, policy.interval_sec, max(policy.backoff, 1.0), most)
