"""A step performed: conditions, variables, its work, what it leaves, and whether it is done, tried again, repeated or waited for.

It is one generator for all types of steps, and runs wherever commands run (`dagrid.commands.Command`): it must be quick between
two things that it yields. The types stand in `steps`; what the machine makes of the end is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from dagrid.attempt import Outcome, current
from dagrid.commands import Await, Command, Launch, Request
from dagrid.errors import (
    DagridError,
    OutputLimitError,
    RepeatTask,
    SkipTask,
    StepError,
    TaskError,
    WaitForSignal,
    WorkflowError,
)
from dagrid.masking import masked
from dagrid.workflow import steps
from dagrid.workflow.context import CURRENT, Context, Spec, StepEnd
from dagrid.workflow.expressions import json_text
from dagrid.workflow.model import Output, Precondition
from dagrid.workflow.surroundings import holds, matches
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

_WROTE_TOO_MUCH = "It wrote more than {} bytes. Let it write less, or raise maxOutputSize."

Performing = Generator[Launch | Await | Request, Any, Any]


def perform(spec: Spec, *ends: StepEnd | None) -> Performing:
    """Perform a step and return its end."""
    return (yield from _perform(spec, ends, {}))


def perform_handler(spec: Spec, *ends: StepEnd | None, outcome: Outcome) -> Performing:
    """Perform a handler, which is told how the run ended."""
    return (yield from _perform(spec, ends, {"DAG_RUN_STATUS": outcome.status}))


STEP = Command(perform)
HANDLER = Command(perform_handler)
EXCLUSIVE_STEP = Command(perform, exclusive=True)
EXCLUSIVE_HANDLER = Command(perform_handler, exclusive=True)


def _perform(spec: Spec, ends: Sequence[StepEnd | None], extra: Mapping[str, str]) -> Performing:
    """Perform a step; what is secret in its error is masked, whatever it comes from."""
    context = CURRENT.get()
    try:
        return (yield from _performed(context, spec, ends, extra))
    except Exception as error:  # noqa: BLE001  # it is raised again, when nothing is handled that it would come from
        told = _hidden(error, context.secrets)
    raise told


def _hidden(error: Exception, secrets: Sequence[str]) -> Exception:
    """Return what a step has raised, or something like it, without what is secret in its words."""
    if isinstance(error, RepeatTask):
        error.instead = error.instead and _hidden(error.instead, secrets)
    elif isinstance(error, TaskError):
        error.args = (masked(error.message, secrets),)
    elif not isinstance(error, (SkipTask, WaitForSignal)):  # the words of these are masked where they are made
        text = str(error)
        told = masked(text, secrets)
        error = error if told == text else StepError(told)
    for name in ("__cause__", "__context__") if secrets else ():  # what it comes from has words too
        BaseException.__setattr__(error, name, None)
    return error


def _performed(context: Context, spec: Spec, ends: Sequence[StepEnd | None], extra: Mapping[str, str]) -> Performing:
    step = spec.step
    work = Work(context, spec, ends, extra)
    if spec.is_first and context.workflow.delay_sec and not context.is_resumed:
        yield Await(_delay(context.workflow.delay_sec))
    yield from work.prepare()
    for condition in step.preconditions:
        reason = yield from holds(condition, work.names, work.aside, work.question)
        if reason:
            raise SkipTask(masked(reason, context.secrets))
    failure: StepError | None = None
    returned: Returned | None = None
    try:
        returned = yield from steps.of(step.kind).perform(work)
    except StepError as error:
        failure = error
    except OutputLimitError as error:
        failure = StepError(_WROTE_TOO_MUCH.format(error.limit), step.name, error.code)
    except TaskError as error:
        failure = StepError(error.message, step.name, getattr(error, "code", 1))
    except WorkflowError as error:  # of a workflow that it calls
        failure = StepError(error.message, step.name)
    end = yield from _ended(work, failure, returned)
    wants_more = yield from _repeats(work, end, failure)
    try:
        end = yield from _concluded(work, failure, end)
    except DagridError as error:
        if wants_more:
            raise RepeatTask(end, error) from None
        raise
    if wants_more:
        raise RepeatTask(end)
    return end


def _concluded(work: Work, failure: StepError | None, end: StepEnd) -> Generator[Any, Any, StepEnd]:
    """Return the end of a step that runs no more.

    Raises:
        StepError: it has failed.
        WaitForSignal: a person has to approve.
    """
    if failure is not None:
        return _tolerated(work, failure, end)
    approval = work.step.approval
    if approval is not None:
        prompt = yield from work.text(approval.prompt or f"Shall {work.step.name!r} go on?")
        raise WaitForSignal(masked(prompt, work.context.secrets), end)
    return end


def _delay(seconds: float) -> Any:
    from threading import Timer

    def begin(notify: Any) -> Any:
        timer = Timer(seconds, notify, (None,))
        timer.daemon = True
        timer.start()
        return timer.cancel

    return begin


def _ended(work: Work, failure: StepError | None, returned: Returned | None) -> Generator[Any, Any, StepEnd]:
    """Return what a step left."""
    outputs: dict[str, str] = {}
    step = work.step
    for one in (*step.output, *step.outputs):
        if failure is not None and one.value is not None:
            continue
        try:
            text = yield from _output(work, one, returned)
        except StepError:
            if failure is None:
                raise
            continue  # what it has failed with is why
        outputs[one.name] = masked(text, work.context.secrets)
    value = returned.data if returned is not None else None
    if value is not None and any(secret.encode("utf-8", "surrogatepass") in value for secret in work.context.secrets):
        value = None  # it would stand in the history; its text is masked there
    hidden = tuple(one.name for one in (*step.output, *step.outputs) if one.omit)
    apart = tuple(one.name for one in (*step.output, *step.outputs) if value is not None and not _is_whole(one))
    code = failure.code if failure is not None else 0
    stdout, stderr = work.kept
    written = {stream: work.written(stream).encode() for stream in work.spec.shown}
    return StepEnd(
        code=code,
        outputs=outputs,
        hidden=hidden,
        apart=apart,
        stdout=stdout,
        stderr=stderr,
        value=value,
        written=written,
    )


def _is_whole(output: Output) -> bool:
    """Return whether an output is what a Python function returned, and no part of it, and nothing else."""
    return output.value is None and output.source == "stdout" and not output.select


def _output(work: Work, output: Output, returned: Returned | None) -> Generator[Any, Any, str]:
    """Return the text of an output variable."""
    if output.value is not None:
        return (yield from work.text(output.value))
    most = work.context.workflow.max_output_size
    if output.source == "file":
        path = work.file((yield from work.text(output.path)))
        try:
            with open(path, "rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            raise StepError(
                f"The output {output.name!r} cannot be read from {path!r}: {error.strerror}.", work.step.name
            ) from None
        if len(data) > most:
            raise StepError(
                f"The output {output.name!r} has more than {most} bytes in {path!r}. Let it be smaller, or raise maxOutputSize.",
                work.step.name,
            )
        text = data.decode("utf-8", "replace")
    elif output.source == "stdout" and returned is not None and returned.text is not None:
        text = returned.text
    elif work.size(output.source) > most:  # of a type that writes by itself
        raise StepError(_WROTE_TOO_MUCH.format(most), work.step.name)
    else:
        text = work.written(output.source)
    text = text.strip()
    if output.decode == "text" and not output.select:
        return text
    return _decoded(work, output, text)


def _decoded(work: Work, output: Output, text: str) -> str:
    """Return what is chosen of an output that is JSON or YAML."""
    try:
        if output.decode == "yaml":
            import yaml

            found = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # it is a safe one
        else:
            found = json.loads(text)
    except Exception as error:  # noqa: BLE001  # of either parser
        raise StepError(
            f"The output {output.name!r} is no {output.decode.upper()}: {error}. Let the step print nothing else.",
            work.step.name,
        ) from None
    for key in filter(None, output.select.replace("[", ".").replace("]", "").strip(".").split(".")):
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (LookupError, ValueError, TypeError):
            raise StepError(f"The output {output.name!r} has nothing at {output.select!r}.", work.step.name) from None
    return json_text(found)


def _repeats(work: Work, end: StepEnd, failure: StepError | None) -> Generator[Any, Any, bool]:
    """Return whether the step wants to be run again. A failure is a reason where exit codes are asked for."""
    policy = work.step.repeat_policy
    if policy is None or not policy.repeat or (failure is not None and (policy.condition or not policy.exit_code)):
        return False
    work.outputs.update(end.outputs)
    wanted = policy.repeat == "while"
    if policy.condition:
        condition = Precondition(condition=policy.condition, expected=policy.expected)
        found = not (yield from holds(condition, work.names, work.aside, work.question))
    elif policy.exit_code:
        found = end.code in policy.exit_code
    else:
        found = True
    return found == wanted


def _tolerated(work: Work, failure: StepError, end: StepEnd) -> StepEnd:
    """Return the end of a step whose failure is a success by its settings; raise the failure if it is one."""
    step = work.step
    on = step.continue_on
    failure.left = end
    failure.node = step.name
    retry = step.retry_policy
    if retry is not None and retry.exit_code and failure.code not in retry.exit_code:
        failure.retryable = False
    by_end = failure.code in on.exit_code or _said(work, on.output)
    tries_left = retry is not None and failure.retryable and current().number <= int(retry.limit)
    if by_end and on.mark_success and not tries_left:
        return end
    failure.tolerated = by_end
    raise failure


def _said(work: Work, patterns: Sequence[str]) -> bool:
    """Return whether one of the lines that a step wrote is as a pattern says."""
    if not patterns:
        return False
    lines = (work.written("stdout") + "\n" + work.written("stderr")).splitlines()
    return any(
        matches(line, pattern) if pattern.startswith("re:") else pattern in line
        for line in lines
        for pattern in patterns
    )
