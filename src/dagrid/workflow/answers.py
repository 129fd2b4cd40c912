"""What persons are asked in a run and in those that it has called, and what is made of their answers.

A step that asks waits with its end; a step that has called a workflow in which somebody is asked waits with an `Asked`, and is
performed again when its run goes on: then it goes on with what it had called. It knows no history and begins no run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from dagrid.errors import InvalidSettingError, RunStateError, UnknownNodeError, hint, nearest
from dagrid.execution.run import Run
from dagrid.masking import masked
from dagrid.workflow.context import Asked, Question, StepEnd
from dagrid.workflow.lowering import steps_of
from dagrid.workflow.model import Approval, Workflow


def questions(run: Run, run_id: str) -> Iterator[tuple[str, Question]]:
    """Yield what a run waits for, each with the step of this run: what it asks itself, and what those ask that it has called.

    Args:
        run: the handle, or a view.
        run_id: its id.
    """
    for name in run.waiting:
        prompt, held = run.held(name)
        for question in held.questions if isinstance(held, Asked) else (Question(run_id, name, prompt),):
            yield name, question


def tell(
    run: Run, signals: Mapping[str, Mapping[str, str]], rejects: Mapping[str, str], secrets: Sequence[str] = ()
) -> None:
    """Tell steps that wait for a person what the person said, and have those performed again that wait for what they called.

    Args:
        run: the handle.
        signals, rejects: see `dagrid.workflow.running.go_on`.
        secrets: masked in what was said, for it is kept.
    """
    for name in run.waiting:
        _, held = run.held(name)
        if isinstance(held, Asked):
            run.again(name)
        elif name in signals:
            end = held if isinstance(held, StepEnd) else StepEnd()
            inputs = {key: masked(value, secrets) for key, value in signals[name].items()}
            run.signal(
                name, msgspec.structs.replace(end, outputs={**end.outputs, **inputs}, apart=(*end.apart, *inputs))
            )
        elif name in rejects:
            run.reject(name, masked(rejects[name], secrets))


def check(
    run: Run,
    run_id: str,
    workflow: Workflow,
    signals: Mapping[str, Mapping[str, str]],
    rejects: Mapping[str, str],
) -> None:
    """Refuse what is said to a step that does not wait, or lacks what the step asks for.

    Args:
        run: a view of the run.
        run_id: its id.
        workflow: what it is of.
        signals, rejects: see `dagrid.workflow.running.go_on`.

    Raises:
        UnknownNodeError: there is no such step.
        RunStateError: it does not wait for a person.
        InvalidSettingError: it was not told all that it asks for, or what it does not ask for.
    """
    known = steps_of(workflow)
    asking = {name: question for name, question in questions(run, run_id) if name in (*signals, *rejects)}
    for name in (*signals, *rejects):
        if name not in known:
            raise UnknownNodeError.of(name, known, f"In run {run_id!r} there is no step")
        if name not in asking:
            listed = ", ".join(map(repr, run.waiting)) or "none"
            raise RunStateError(
                f"Step {name!r} does not wait for a person in run {run_id!r}; those that do: {listed}.", "waiting"
            )
        if asking[name].run != run_id:
            where = f"step {asking[name].step!r} of run {asking[name].run!r}, which it has called"
            raise RunStateError(f"Step {name!r} waits for {where}: answer that.", "waiting")
    for name, inputs in signals.items():
        approval = known[name].approval or Approval()
        missing = [one for one in approval.required if not inputs.get(one)]
        if missing:
            raise InvalidSettingError(
                f"Step {name!r} asks for {', '.join(missing)}: give it as --input {missing[0]}=..."
            )
        taken = (*approval.input, *approval.required)
        for one in inputs:
            if one not in taken:
                asks = hint(nearest(one, taken)) or f" It asks for {', '.join(dict.fromkeys(taken)) or 'nothing'}."
                raise InvalidSettingError(f"Step {name!r} does not ask for {one!r}.{asks}")
