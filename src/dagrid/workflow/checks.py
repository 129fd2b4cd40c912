"""What needs more than one field: names, order, cycles, types of steps, sub-workflows; and what is filled in when all is read.

Whether another workflow exists is asked through a function; nothing is opened here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from dagrid.graph.structure import find_cycle
from dagrid.workflow.expressions import SPECIAL_VARIABLES
from dagrid.workflow.forms import is_regex
from dagrid.workflow.hints import STEP_TYPES, converted_command
from dagrid.workflow.model import (
    ContinueOn,
    Defaults,
    Executor,
    Precondition,
    RepeatPolicy,
    RetryPolicy,
    Secret,
    Step,
    Workflow,
    handlers,
    place,
    said,
)
from dagrid.workflow.order import cycles, dependencies, names_of
from dagrid.workflow.problems import Place, Problems
from dagrid.workflow.references import asked, texts, variables

Exists = Callable[[str], bool]
"""Whether there is a workflow of that name outside of the file."""
Inspect = Callable[[Step], Iterable[tuple[Place, str]]]
"""What is wrong with the settings of a step, by its type; not asked of types that there are not."""

SIGNALS = frozenset(
    f"SIG{name}"
    for name in (
        *(
            "ABRT",
            "ALRM",
            "BUS",
            "CHLD",
            "CONT",
            "FPE",
            "HUP",
            "ILL",
            "INT",
            "KILL",
            "PIPE",
            "PROF",
            "QUIT",
            "SEGV",
            "STOP",
            "SYS",
        ),
        *("TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ"),
    )
)
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_WORKFLOW_NAME = re.compile(r"[^\s|&;<>(){}'\"]+")
_NOT_DONE = {
    "schedule": "nothing is started by a schedule yet; let cron call `dagrid start --quiet`",
    "retry_policy": "a whole run is not tried again; give `retryPolicy` to steps, or under `defaults`",
}
"""Fields that are read and have no effect, with what to do instead."""
_WORK = ("command", "script", "exec", "python", "call")
_READ = {"shell": ("command", "script", "exec"), "python": ("python",), "dag": ("call",), "approval": ()}
"""What steps of a type do, where that is not a command or a script of a language of its own."""
_READ_BY_OTHERS = ("command", "script")

_DEFAULTED = (
    "retry_policy",
    "continue_on",
    "repeat_policy",
    "timeout_sec",
    "mail_on_error",
    "signal_on_stop",
    "on_worker_lost",
)


def complete(workflow: Workflow, problems: Problems) -> None:
    """Fill in what follows from other fields: the step of a root command, names, types, defaults, what is repeated."""
    _root_command(workflow, problems)
    defaults = workflow.defaults
    defaulted = [field for field in _DEFAULTED if said(defaults, field) and not said(defaults, f"!{field}")]
    taken = {step.name for step in workflow.steps}
    for number, step in enumerate(workflow.steps, 1):
        _complete_step(step, defaults, defaulted, problems)
        if not step.name:
            step.name = _free_name(step, number, taken)
            taken.add(step.name)
    for role, step in handlers(workflow):
        _complete_step(step, defaults, defaulted, problems)
        step.name = step.name or f"on{role.capitalize()}"
        if role == "init":  # one that has no need to run keeps nobody from it
            step.continue_on = msgspec.structs.replace(step.continue_on, skipped=True)


def check(
    workflow: Workflow,
    local: Collection[str],
    exists: Exists,
    types: Collection[str],
    problems: Problems,
    inspect: Inspect | None = None,
) -> None:
    """Note all that is wrong between the fields of one document.

    Args:
        workflow: completed.
        local: the names of the other documents of the file.
        exists: knows the workflows outside of the file.
        types: the types of steps that there are beside those of the format.
        problems: gets what is wrong.
        inspect: knows what the types want of their steps.
    """
    if not workflow.steps and not said(workflow, "steps"):
        problems.add(place(workflow), "the workflow has no steps; write `steps:` with a list of steps")
    elif not workflow.steps and not problems.found:
        problems.add(place(workflow, "steps"), "`steps` is empty; a workflow needs at least one step")
    if said(workflow, "hist_retention_days") and said(workflow, "hist_retention_runs"):
        problems.add(
            place(workflow, "hist_retention_runs"), "runs are kept by days or by number, not by both; keep one"
        )
    for field, remedy in _NOT_DONE.items():
        if said(workflow, field):
            problems.warn(place(workflow, field), remedy)
    if workflow.handler_on.wait is not None:
        problems.warn(
            place(workflow.handler_on, "wait"),
            "a `wait` handler is not run; a mail tells a person: mailOn: {wait: true}",
        )
    if workflow.params.schema:
        problems.warn(
            place(workflow.params, "schema"),
            "a schema in a file is not read, and no value is held against it; write it here: schema: {properties: ...}",
        )
    secrets: dict[str, Secret] = {}
    for secret in workflow.secrets:
        first = secrets.setdefault(secret.name, secret)
        if first is not secret:
            line = place(first, "name").line
            problems.add(
                place(secret, "name"), f"there is a secret {secret.name!r} in line {line} already; keep one of the two"
            )
        if said(secret, "options"):
            problems.warn(place(secret, "options"), "neither env nor file has options; remove them")
    _check_mails(workflow, problems)
    _check_names(workflow, problems)
    _check_depends(workflow, problems)
    _check_conditions(workflow.preconditions, problems)
    _check_conditions(workflow.defaults.preconditions, problems)
    for step in workflow.steps:
        _check_step(step, local, exists, types, problems, inspect)
    _check_references(workflow, problems)
    for role, step in handlers(workflow):
        _check_step(step, local, exists, types, problems, inspect)
        if step.depends:
            problems.add(
                place(step, "depends"),
                f"the {role} handler waits for no step: when it runs follows from how the run ended; remove `depends`",
            )


def _check_mails(workflow: Workflow, problems: Problems) -> None:
    """Warn of mails that are to be sent and cannot be, for only the log of the run tells then."""
    on = workflow.mail_on
    every = (*workflow.steps, *(step for _, step in handlers(workflow)))
    for is_wanted, where, field, mail in (
        (on.failure, place(on, "failure"), "errorMail", workflow.error_mail),
        (on.success, place(on, "success"), "infoMail", workflow.info_mail),
        (on.wait, place(on, "wait"), "waitMail", workflow.wait_mail),
        *((True, place(one, "mail_on_error"), "errorMail", workflow.error_mail) for one in every if one.mail_on_error),
    ):
        if is_wanted and not (mail.sender and mail.to):
            problems.warn(where, f"no mail can be sent; write {field}: {{from: ..., to: ...}}")
        if is_wanted and not workflow.smtp.host:
            problems.warn(where, "no mail can be sent; write smtp: {host: ..., port: ...}")


def check_calls(workflows: Mapping[str, Workflow], problems: Problems) -> None:
    """Note documents of a file that call each other in a circle, with nothing on the way that could end it."""
    names = list(workflows)
    index = {name: number for number, name in enumerate(names)}
    callers: list[list[int]] = [[] for _ in names]
    calls: dict[tuple[int, int], Step] = {}
    for name, workflow in workflows.items():
        if workflow.preconditions:
            continue
        for step in workflow.steps:
            if step.call in index and not step.preconditions:
                callers[index[step.call]].append(index[name])
                calls.setdefault((index[name], index[step.call]), step)
    cycle = find_cycle(callers)
    if cycle:
        shown = " -> ".join(names[one] for one in cycle)
        step = calls[cycle[0], cycle[1]]
        problems.add(
            place(step, "call"), f"the workflows call each other without end: {shown}; give one of them preconditions"
        )


# Filling in -----------------------------------------------------------------------------------------------------------


def _root_command(workflow: Workflow, problems: Problems) -> None:
    if not workflow.command:
        return
    if said(workflow, "steps"):
        problems.warn(place(workflow, "command"), "the workflow has `steps` as well, and they count; remove `command`")
        return
    places = {field: where for field, where in workflow.places.items() if field.partition(".")[0] == "command"}
    step = Step(command=workflow.command, places={"": place(workflow, "command"), **places})
    workflow.steps = (step,)
    workflow.places["steps"] = place(workflow, "command")


def _complete_step(step: Step, defaults: Defaults, defaulted: Sequence[str], problems: Problems) -> None:
    for field in defaulted:
        if not said(step, field):
            setattr(step, field, getattr(defaults, field))
            step.places[field] = place(defaults, field)
    step.env = defaults.env + step.env
    step.preconditions = defaults.preconditions + step.preconditions
    if step.repeat_policy is not None:
        _complete_repeat(step.repeat_policy)
    if said(step, "type") and said(step, "executor"):
        problems.add(place(step, "type"), "the type of the step is in `executor` too; keep one of the two")
    elif said(step, "type"):
        where = {"": place(step, "type"), "type": place(step, "type"), **_places(step.places, "config")}
        step.executor = Executor(type=step.type, config=step.config, places=where)
    elif said(step, "config") and said(step, "executor") and not step.executor.config:
        step.executor.config = step.config
        step.executor.places.update(_places(step.places, "config"))
    elif said(step, "config") and not said(step, "!action"):
        problems.add(place(step, "config"), "settings without a type; write executor: {type: ..., config: ...}")
    step.kind = _kind(step)


def _places(places: Mapping[str, Place], field: str) -> dict[str, Place]:
    """Return where a field stands, and what is in it."""
    return {name: where for name, where in places.items() if name.partition(".")[0] == field}


def _complete_repeat(policy: RepeatPolicy) -> None:
    """Without `repeat` the condition says what is meant: with `expected` until it holds, else while it does."""
    if policy.repeat == "always":
        policy.repeat = "while"
    elif policy.repeat == "never":
        policy.repeat = ""
    elif not policy.repeat and not said(policy, "repeat") and (policy.condition or policy.exit_code):
        policy.repeat = "until" if policy.condition and policy.expected is not None else "while"


def _kind(step: Step) -> str:
    if step.executor.type:
        return STEP_TYPES.get(step.executor.type, step.executor.type)
    if step.call:
        return "dag"
    if step.python:
        return "python"
    if step.container is not None:
        return "docker"
    if step.approval is not None and not any(said(step, field) for field in _WORK):
        return "approval"
    return "shell"


def _free_name(step: Step, number: int, taken: Collection[str]) -> str:
    kind = step.kind
    if kind == "shell":
        kind = "script" if step.script and not step.command else "cmd"
    while f"{kind}_{number}" in taken:
        number += 1
    return f"{kind}_{number}"


# Names and order ------------------------------------------------------------------------------------------------------


def _check_names(workflow: Workflow, problems: Problems) -> None:
    names: dict[str, Step] = {}
    ids: dict[str, Step] = {}
    for step in workflow.steps:
        first = names.setdefault(step.name, step)
        if first is not step:
            line = place(first, "name").line
            problems.add(
                place(step, "name"),
                f"there is a step {_short(step.name)} in line {line} already; give this one another name",
            )
        if step.id:
            first = ids.setdefault(step.id, step)
            if first is not step:
                line = place(first, "id").line
                problems.add(
                    place(step, "id"), f"the id {step.id!r} is taken in line {line} already; give this step another one"
                )
    for taken, step in ids.items():
        other = names.get(taken)
        if other is not None and other is not step:
            problems.add(
                place(step, "id"),
                f"the id {taken!r} is the name of the step in line {place(other, 'name').line}; choose another one",
            )


def _check_depends(workflow: Workflow, problems: Problems) -> None:
    known = names_of(workflow)
    sound = True
    for step in workflow.steps:
        for index, name in enumerate(step.depends or ()):
            if name not in known:
                own = (step.name, step.id)
                question = problems.suggest(name, (one for one in known if one not in own))
                problems.add(
                    place(step, "depends", index),
                    f"step {_short(step.name)} depends on {_short(name)}, and there is no such step.{question}",
                )
            elif known[name] == step.name:
                sound = False
                problems.add(
                    place(step, "depends", index),
                    f"step {_short(step.name)} depends on itself; remove it from `depends`",
                )
    if len({step.name for step in workflow.steps}) < len(workflow.steps) or not sound:
        return
    by_name = {step.name: step for step in workflow.steps}
    for path, closing in cycles(workflow):
        shown = path if len(path) <= 12 else [*path[:6], "...", *path[-5:]]
        in_chain = " (in a chain each step also follows on the one before it)" if workflow.type == "chain" else ""
        problems.add(
            place(by_name[closing], "depends"),
            f"the steps wait for each other in a circle: {' -> '.join(shown)}{in_chain}; remove one of these dependencies",
        )


def _check_references(workflow: Workflow, problems: Problems) -> None:
    """Warn of `${id.stdout}` where no step has the id, or where the step may not have run yet, or leaves no such thing."""
    by_id = {step.id: step for step in workflow.steps if step.id}
    waits: dict[str, tuple[str, ...]] | None = None
    given: frozenset[str] = frozenset()
    last = [step for role, step in handlers(workflow) if role != "init"]
    for step in (*workflow.steps, *last):
        for field, name, what in asked(texts(step)):
            if waits is None:
                waits, given = dependencies(workflow), variables(workflow)
            if name in by_id:
                other = by_id[name]
                if step not in last and other is not step and not _is_behind(step.name, other.name, waits):
                    problems.warn(
                        place(step, field),
                        f"${{{name}.{what}}} asks a step that may not have run yet; add {_short(other.name)} to `depends`",
                    )
                if what == "output" and not (other.output or other.outputs or other.approval):
                    problems.warn(
                        place(step, field),
                        f"${{{name}.{what}}} is empty, for step {_short(other.name)} has no output; give it `output: NAME`",
                    )
            elif name in waits:
                problems.warn(
                    place(step, field), f"${{{name}.{what}}} asks a step by its id; give step {name!r} `id: {name}`"
                )
            elif name not in given and name not in SPECIAL_VARIABLES:
                question = problems.suggest(name, by_id)
                problems.warn(place(step, field), f"${{{name}.{what}}}: no step has the id {name!r}.{question}")


def _is_behind(name: str, other: str, waits: dict[str, tuple[str, ...]]) -> bool:
    """Return whether a step waits for another one, directly or not."""
    seen = {name}
    rest = [name]
    while rest:
        for before in waits[rest.pop()]:
            if before == other:
                return True
            if before not in seen:
                seen.add(before)
                rest.append(before)
    return False


# One step -------------------------------------------------------------------------------------------------------------


def _check_step(
    step: Step,
    local: Collection[str],
    exists: Exists,
    types: Collection[str],
    problems: Problems,
    inspect: Inspect | None,
) -> None:
    if said(step, "!action"):
        return  # another dialect: the rest would be noise
    kind = step.executor.type
    if kind and kind not in STEP_TYPES and kind not in types:
        where = place(step.executor, "type")
        question = problems.suggest(kind, [*STEP_TYPES, *types])
        there = ", ".join(sorted({*STEP_TYPES.values(), *types}))
        problems.add(where, f"there is no step type {_short(kind)}.{question or ' There are: ' + there + '.'}")
    elif inspect is not None:
        for where, message in inspect(step):
            problems.add(where, message)
    _check_work(step, problems)
    if step.script and step.kind in ("shell", "docker"):
        _check_interpreter(step, problems)
    if step.call:
        _check_call(step, local, exists, problems)
    if step.python and not _FUNCTION.fullmatch(step.python):
        problems.add(
            place(step, "python"), f"python names a function as package.module:function, not {_short(step.python)}"
        )
    if step.signal_on_stop and step.signal_on_stop not in SIGNALS and "$" not in step.signal_on_stop:
        question = problems.suggest(step.signal_on_stop.upper(), SIGNALS)
        problems.add(
            place(step, "signal_on_stop"),
            f"there is no signal {_short(step.signal_on_stop)}; write one such as SIGTERM.{question}",
        )
    if said(step, "shell_packages"):
        problems.warn(
            place(step, "shell_packages"), "packages of nix are not installed here; see to it that they are there"
        )
    if step.approval is not None and step.approval.rewind_to:
        problems.warn(
            place(step.approval, "rewind_to"),
            "nothing is rewound; who refuses lets the run be taken up by dagrid retry",
        )
    _check_conditions(step.preconditions, problems)
    _check_policies(step.continue_on, step.retry_policy, step.repeat_policy, problems)


def _check_interpreter(step: Step, problems: Problems) -> None:
    """Note where the words of what reads a script cannot be told apart."""
    first = step.script.partition("\n")[0]
    field, line = ("script", first[2:]) if first.startswith("#!") else ("command", "".join(step.command[:1]))
    try:
        shlex.split(line)
    except ValueError:
        problems.add(place(step, field), f"{_short(line)} has a quote that is not closed; close it")


def _check_work(step: Step, problems: Problems) -> None:
    work = [field for field in _WORK if field in step.places]
    if (
        not work
        and not any(field.startswith("!") for field in step.places)
        and not step.executor.type
        and step.approval is None
        and step.container is None
        and not said(step, "parallel")
    ):
        name = f"step {_short(step.name)}" if said(step, "name") else "this step"
        problems.add(place(step), f"{name} has nothing to do; give it `command:`, `script:`, `python:` or `call:`")
    if work and all(not said(step, f"!{field}") and _is_empty(step, field) for field in work):
        problems.add(place(step, work[0]), f"`{work[0]}` is empty; write what is to be done, or remove it")
    _check_read(step, work, problems)
    for field in ("call", "python", "exec"):
        others = [f"`{other}`" for other in work if other != field]
        if field in work and others:
            problems.add(
                place(step, field),
                f"a step with `{field}` cannot also have {' and '.join(others)}; make two steps of it",
            )
            break
    if said(step, "parallel") and not said(step, "call"):
        problems.add(
            place(step, "parallel"), "`parallel` runs another workflow once for each item; say which with `call:`"
        )
    if said(step, "params") and not said(step, "call"):
        problems.warn(
            place(step, "params"), "`params` of a step are for the workflow that it calls, and it calls none; use `env`"
        )
    if said(step, "output") and said(step, "outputs"):
        names = {one.name for one in step.output}
        for one in step.outputs:
            if one.name and one.name in names:
                problems.add(place(one), f"{one.name!r} stands in `output` already; keep one of the two")


def _is_empty(step: Step, field: str) -> bool:
    """Return whether a field that says what a step does has nothing in it."""
    found = step.exec.command if field == "exec" and step.exec is not None else getattr(step, field)
    return not any(text.strip() for text in ([found] if isinstance(found, str) else found))


def _check_read(step: Step, work: Collection[str], problems: Problems) -> None:
    """Note what a step says that its type does not read, and a type without that which it reads."""
    kind = step.executor.type or step.kind
    if kind not in STEP_TYPES or not (step.executor.type or step.container):
        return
    read = _READ.get(step.kind, _READ_BY_OTHERS)
    if step.executor.config and step.kind in ("shell", "python", "dag"):
        problems.warn(place(step.executor, "config"), f"a step of type {kind} has no settings; remove them")
    unread = [field for field in work if field not in read]
    if step.container is not None and step.kind != "docker":
        unread.append("container")
    if unread:
        problems.add(
            place(step, unread[0]),
            f"a step of type {kind} does nothing with `{unread[0]}`; remove it, or make two steps of it",
        )
    elif not work and step.kind in ("shell", "python", "dag"):
        shown = " or ".join(f"`{field}:`" for field in read)
        problems.add(place(step), f"a step of type {kind} has nothing to do; give it {shown}")


def _check_call(step: Step, local: Collection[str], exists: Exists, problems: Problems) -> None:
    name = step.call
    if name in local or ("$" in name and not re.search(r"\s", name)):
        return
    where = place(step, "call")
    if not _WORKFLOW_NAME.fullmatch(name):
        problems.add(
            where, f"`run:` and `call:` name a workflow, and this is a shell command; write `{converted_command(name)}`"
        )
    elif not exists(name):
        question = problems.suggest(name, local)
        problems.add(
            where,
            f"there is no workflow {_short(name)}: no document of this file and no file has that name.{question} "
            f"To run a shell command write `{converted_command(name)}`",
        )


def _check_policies(on: ContinueOn, retry: RetryPolicy | None, repeat: RepeatPolicy | None, problems: Problems) -> None:
    for index, pattern in enumerate(on.output):
        if pattern.startswith("re:"):
            is_regex(pattern[3:], place(on, "output", index), "continueOn.output", problems)
    if retry is not None and retry.backoff and said(retry, "interval_sec") and retry.interval_sec == 0:
        problems.warn(place(retry, "backoff"), "a backoff of an interval of 0 seconds is 0 seconds; give intervalSec")
    if repeat is None:
        return
    if repeat.expected is not None and not repeat.condition:
        problems.add(
            place(repeat, "expected"), "`expected` says what `condition` must be; write `condition:` beside it"
        )
    elif repeat.repeat == "until" and not repeat.condition and not repeat.exit_code:
        problems.add(
            place(repeat, "repeat"), "`repeat: until` needs something to wait for; write `condition:` or `exitCode:`"
        )
    if repeat.expected is not None and repeat.expected.startswith("re:"):
        is_regex(repeat.expected[3:], place(repeat, "expected"), "repeatPolicy.expected", problems)


def _check_conditions(conditions: Collection[Precondition], problems: Problems) -> None:
    for one in conditions:
        if one.expected is not None and one.expected.startswith("re:"):
            is_regex(one.expected[3:], place(one, "expected"), "expected", problems)


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
