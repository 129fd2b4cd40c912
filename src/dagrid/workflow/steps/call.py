"""Sub-workflows: a step that runs another workflow, once or for each item of a list that may be known only when it runs.

Each is a run of its own, whose id follows from that of this run, so that a step which is tried again goes on with what it had
begun; one that is repeated, or runs anew after it had completed, begins others. How runs are started is not known here; the
context of the run has a function for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dagrid.attempt import has_waited, present_round
from dagrid.commands import Await, Exit, Launch
from dagrid.errors import StepError, WaitForSignal
from dagrid.masking import masked
from dagrid.workflow.context import Asked, Child, ChildEnd, Running, StartChild
from dagrid.workflow.expressions import json_text
from dagrid.workflow.model import Params
from dagrid.workflow.work import Work

GOOD = ("succeeded", "partially_succeeded")


class Call:
    """A step with `call`, with or without `parallel`."""

    def perform(self, work: Work) -> Generator[Launch | Await, Exit | Any, None]:
        """Run the workflow, wait for its end, and write what became of it to the standard output."""
        step = work.step
        name = yield from work.text(step.call)
        beside = yield from work.beside(step.stdout)
        if step.parallel is None:
            params = yield from _params(work, step.params)
            (end,) = yield from _run(work, [_child(work, name, params, 0)], 1)
            _write(work, [*work.outs, *beside], _shown(end))
            if end.status not in GOOD:
                failure = StepError(f"The workflow {name!r} has {end.status}{_why(end)} (run {end.run_id}).", step.name)
                failure.reason = end.reason
                raise failure
            return
        items = yield from _items(work, step.parallel.items)
        children = []
        for number, item in enumerate(items):
            work.own["ITEM"] = item
            params = (yield from _params(work, step.params)) if step.params.items else (item,)
            children.append(_child(work, name, params, number))
        ends = yield from _run(work, children, step.parallel.max_concurrent)
        failed = [end for end in ends if end.status not in GOOD]
        _write(
            work,
            [*work.outs, *beside],
            {
                "summary": {"total": len(ends), "succeeded": len(ends) - len(failed), "failed": len(failed)},
                "results": [_shown(end) for end in ends],
                "outputs": [end.outputs for end in ends],
            },
        )
        if failed:
            first = failed[0]
            raise StepError(
                f"{len(failed)} of {len(ends)} runs of the workflow {name!r} did not succeed; the first of them has "
                f"{first.status}{_why(first)} (run {first.run_id}).",
                step.name,
            )


def _why(end: ChildEnd) -> str:
    return f": {end.reason}" if end.reason else ""


def _params(work: Work, params: Params) -> Generator[Launch, Exit, tuple[str, ...]]:
    found = []
    for one in params.items:
        value = yield from work.text(one.value or "")
        found.append(f"{one.name}={value}" if one.name else value)
    return tuple(found)


def _items(work: Work, said: tuple[Any, ...] | str) -> Generator[Launch, Exit, list[str]]:
    """Return the items as texts; those that are mappings as JSON, into which `${ITEM.key}` looks."""
    if not isinstance(said, str):
        items = yield from work.plain(list(said))
        return [json_text(item) for item in items]
    text = (yield from work.text(said)).strip()
    try:
        found = json.loads(text)
    except ValueError:
        if text.startswith("$") and text == said.strip():
            raise StepError(
                f"The items of step {work.step.name!r} are {text[:60]!r}, and there is nothing of that name. Name an output of a "
                f"step before it, a parameter, or a variable of env.",
                work.step.name,
                retryable=False,
            ) from None
        return text.split()
    if isinstance(found, dict) or found is None:
        raise StepError(f"The items of step {work.step.name!r} are {text[:60]!r}, which is no list.", work.step.name)
    if not isinstance(found, list):  # one word that happens to be JSON
        return [found if isinstance(found, str) else text]
    return [json_text(item) for item in found]


def _child(work: Work, name: str, params: tuple[str, ...], number: int) -> Child:
    run_id, traceparent = _run_id(work, params, number), work.env.get("TRACEPARENT", "")
    return Child(name, params, run_id, traceparent, work.spec.selector, has_waited())


def _run_id(work: Work, params: Sequence[str], number: int) -> str:
    """Return the id of a child run: the same for all tries of one round of this step."""
    told = masked("\0".join((work.step.name, str(number), str(present_round()), *params)), work.context.secrets)
    return f"{work.context.logs.run_id}.{hashlib.sha256(told.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _run(work: Work, children: list[Child], at_once: int) -> Generator[Await, Any, list[ChildEnd]]:
    """Run workflows, so many at once, and return their ends in the same order.

    Raises:
        WaitForSignal: somebody is asked in some of them; this step, performed again, goes on with these, and ends when all have.
    """
    start = work.context.start_child
    if start is None:
        raise StepError("No other workflow can be run from here.", work.step.name)
    if not children:
        return []
    ends: list[ChildEnd] = yield Await(
        partial(_begin, start, children, max(1, min(at_once, len(children)))), parting=True
    )
    questions = tuple([question for end in ends for question in end.questions])
    if questions:
        said = "; ".join(f"step {one.step!r} of run {one.run}: {one.prompt}" for one in questions)
        raise WaitForSignal(said, Asked(questions))
    return ends


def _begin(start: StartChild, children: list[Child], at_once: int, notify: Callable[..., None]) -> Callable[[], None]:
    family = _Family(start, children, at_once, notify)
    threading.Thread(target=family.run, name="dagrid-children", daemon=True).start()
    return family.cancel


class _Family:
    """The workflows that one step runs; `cancel` stops those that run, again if it is said again, and begins no other."""

    def __init__(self, start: StartChild, children: list[Child], at_once: int, notify: Callable[..., None]) -> None:
        self._start = start
        self._children = children
        self._at_once = at_once
        self._notify = notify
        self._guard = threading.Lock()
        self._running: dict[str, Running] = {}
        self._stops = 0

    def run(self) -> None:
        try:
            if self._at_once == 1:
                ends = [self._one(child) for child in self._children]
            else:
                with ThreadPoolExecutor(self._at_once, "dagrid-child") as pool:
                    ends = list(pool.map(self._one, self._children))
        except BaseException as error:  # noqa: BLE001  # the step is told, whatever it is
            self._notify(error=error)
        else:
            self._notify(ends)

    def cancel(self) -> None:
        with self._guard:
            self._stops += 1
            running = list(self._running.values())
        for one in running:
            one.cancel()

    def _one(self, child: Child) -> ChildEnd:
        with self._guard:
            if self._stops:
                return ChildEnd(child.call, child.run_id, "aborted")
        running = self._start(child)
        with self._guard:
            self._running[child.run_id] = running
            stops = self._stops
        for _ in range(stops):
            running.cancel()
        try:
            return running.wait()
        finally:
            with self._guard:
                del self._running[child.run_id]


def _shown(end: ChildEnd) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": end.name, "dagRunId": end.run_id, "params": end.params}
    return {**shown, "outputs": end.outputs, "status": end.status}


def _write(work: Work, paths: Sequence[str], document: Any) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    for path in paths:
        try:
            with open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o666)) as file:
                file.write(text)
        except OSError as error:
            raise StepError(
                f"The output of {work.step.name!r} is not complete: {path!r} cannot be written: {error.strerror}.",
                work.step.name,
            ) from None
