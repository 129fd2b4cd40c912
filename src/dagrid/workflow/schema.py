"""THE table of the format: every field of a workflow and of a step, with its kind and meaning; defaults stand in the records.

From it follow what is checked, what is suggested, how records are made, and the JSON schema for editors. Rules between fields are
in `checks`.
"""

from __future__ import annotations

from typing import Any

from dagrid.workflow import source
from dagrid.workflow.fields import (
    COUNT,
    COUNT_LATER,
    POSITIVE,
    SECONDS,
    SECONDS_LATER,
    WRONG,
    AnyMapping,
    Anything,
    Choice,
    Field,
    Flag,
    Form,
    Many,
    Number,
    RecordOf,
    Schema,
    Table,
    Text,
    camel,
    wrong,
)
from dagrid.workflow.forms import (
    ARGS,
    BACKOFF,
    ENV,
    ITEMS,
    OUTPUTS,
    REPEAT,
    SCHEDULE,
    SELECTOR,
    SIZE,
    TAGS,
    WORDS,
    at,
    items_without_mapping,
)
from dagrid.workflow.hints import ROOT_HINTS, STEP_HINTS, STEP_TYPES
from dagrid.workflow.model import (
    Approval,
    Container,
    ContinueOn,
    Defaults,
    Exec,
    Executor,
    Handlers,
    Mail,
    MailOn,
    Otel,
    Parallel,
    Precondition,
    RepeatPolicy,
    RetryPolicy,
    RunConfig,
    Secret,
    Smtp,
    Ssh,
    Step,
    Workflow,
)
from dagrid.workflow.param_forms import PARAMS
from dagrid.workflow.problems import Place, Problems
from dagrid.workflow.source import Entry, Mapping, Node, Scalar, Sequence

TEXT = Text()
FLAG = Flag()
TEXTS = Many(TEXT)
NAME = Text(r"[A-Za-z0-9_.-]+", "a name of letters, digits, '_', '.' and '-'", 40)
STEP_NAME = Text(r"[^\x00-\x1f]*[^\x00-\x1f\s][^\x00-\x1f]*", "a name: text on one line", 255)
ID = Text(r"[A-Za-z][A-Za-z0-9_]*", "an id: a letter, then letters, digits and '_'", 255)
CODES = Many(Number(0, 255, whole=True, wanted="an exit code from 0 to 255"))
SPAN = Text(r"\s*(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhdw]))+\s*", "a span of time such as 12h or 1h30m")
CONFIG = AnyMapping()
ON_WORKER_LOST = Choice(("requeue", "fail"))


PRECONDITION = RecordOf(
    Precondition,
    "precondition",
    [
        Field("condition", TEXT, "A command that must succeed or, with `expected`, text that must be that."),
        Field("expected", TEXT, "What the condition must be; `re:` begins a regular expression."),
        Field("negate", FLAG, "Whether the condition must not hold."),
    ],
    "What must hold.",
    shorthand="condition",
    required=("condition",),
)
PRECONDITIONS = Many(PRECONDITION)

_CONTINUE_ON = RecordOf(
    ContinueOn,
    "continueOn",
    [
        Field("failure", FLAG, "Go on after a failure.", aliases=("failed",)),
        Field("skipped", FLAG, "Go on when the step was skipped."),
        Field("exit_code", CODES, "Go on after these exit codes."),
        Field("output", TEXTS, "Go on when the output has one of these; `re:` begins a regular expression."),
        Field("mark_success", FLAG, "Count the step as succeeded then."),
    ],
    "When what depends on the step runs although it did not succeed.",
)


def _continue_on(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Scalar:
        if node.text in ("failed", "failure"):
            return ContinueOn(failure=True, places={"": at(node)})
        if node.text == "skipped":
            return ContinueOn(skipped=True, places={"": at(node)})
        return wrong(node, label, "a mapping, or one of failed and skipped", problems, "continueOn: {failure: true}")
    return _CONTINUE_ON.read(node, label, problems)


CONTINUE_ON = Form(
    _continue_on, lambda known: {"anyOf": [{"enum": ["failed", "failure", "skipped"]}, _CONTINUE_ON.schema(known)]}
)
RETRY_POLICY = RecordOf(
    RetryPolicy,
    "retryPolicy",
    [
        Field("limit", COUNT_LATER, "How often the step is tried again."),
        Field("interval_sec", SECONDS_LATER, "Seconds before a retry."),
        Field("backoff", BACKOFF, "By what each interval is longer than the last one; true is 2."),
        Field("max_interval_sec", SECONDS_LATER, "No interval is longer."),
        Field("exit_code", CODES, "Only these exit codes are worth a retry."),
    ],
    "How a failed step is tried again.",
    required=("limit",),
)
REPEAT_POLICY = RecordOf(
    RepeatPolicy,
    "repeatPolicy",
    [
        Field("repeat", REPEAT, "`while` or `until` the condition holds; true repeats as long as the step succeeds."),
        Field("interval_sec", SECONDS, "Seconds before each repetition."),
        Field("limit", COUNT, "How often the step runs at most; 0 is no limit."),
        Field("backoff", BACKOFF, "By what each interval is longer than the last one; true is 2."),
        Field("max_interval_sec", SECONDS, "No interval is longer."),
        Field("condition", TEXT, "A command or, with `expected`, text."),
        Field("expected", TEXT, "What the condition must be; `re:` begins a regular expression."),
        Field("exit_code", CODES, "Exit codes that count as the condition."),
    ],
    "How a step is run again.",
)
EXECUTOR = RecordOf(
    Executor,
    "executor",
    [
        Field(
            "type", TEXT, "What performs the step: shell, python, http, jq, ssh, docker, mail, archive, file, sql, ..."
        ),
        Field("config", CONFIG, "The settings of that type.", aliases=("with",)),
    ],
    "What performs a step.",
    shorthand="type",
    required=("type",),
)
EXEC = RecordOf(
    Exec,
    "exec",
    [
        Field("command", TEXT, "The program."),
        Field("args", Many(TEXT), "Its arguments."),
    ],
    "A program and its arguments, without a shell.",
    required=("command",),
)
_PARALLEL = RecordOf(
    Parallel,
    "parallel",
    [
        Field("items", ITEMS, "A list, or text such as ${LIST} that is one at run time."),
        Field("max_concurrent", POSITIVE, "How many run at once."),
    ],
    "Over what a sub-workflow is called.",
    required=("items",),
)


def _parallel(node: Node, label: str, problems: Problems) -> Any:
    if type(node) is Mapping:
        return _PARALLEL.read(node, label, problems)
    return items_without_mapping(node, label, problems)


PARALLEL = Form(_parallel, lambda known: {"anyOf": [ITEMS.schema(known), _PARALLEL.schema(known)]})
APPROVAL = RecordOf(
    Approval,
    "approval",
    [
        Field("prompt", TEXT, "What the person reads."),
        Field("input", TEXTS, "Variables that the person may fill in."),
        Field("required", TEXTS, "Those that must be filled in."),
        Field("rewind_to", TEXT, "Nothing is rewound."),
    ],
    "What a person is asked.",
    shorthand="prompt",
)
CONTAINER = RecordOf(
    Container,
    "container",
    [
        Field("image", TEXT, "The image."),
        Field("exec", Anything(), "A container that runs already: its name, or a mapping."),
        Field("name", TEXT, "The name of the new container.", aliases=("container_name",)),
        Field("pull_policy", Choice(("always", "missing", "never")), "When the image is fetched."),
        Field("env", ENV, "Its variables."),
        Field("volumes", TEXTS, "Volumes, as SOURCE:TARGET[:ro]."),
        Field("user", TEXT, "The user in it."),
        Field("working_dir", TEXT, "The folder in it."),
        Field("platform", TEXT, "Such as linux/amd64."),
        Field("ports", TEXTS, "Ports, as HOST:CONTAINER."),
        Field("network", TEXT, "The network that it joins."),
        Field("startup", Choice(("keepalive", "entrypoint", "command")), "What it runs."),
        Field("command", TEXTS, "The command for startup: command."),
        Field("wait_for", Choice(("running", "healthy")), "What is waited for before the first step."),
        Field("log_pattern", TEXT, "A regular expression in its log that says that it is ready."),
        Field("restart_policy", TEXT, "When it is started again."),
        Field("keep_container", FLAG, "Whether it stays when the run is over."),
        Field("healthcheck", CONFIG, "How its health is seen."),
        Field("shell", WORDS, "The shell of the steps in it."),
    ],
    "The container in which steps run.",
    shorthand="image",
)
SMTP = RecordOf(
    Smtp,
    "smtp",
    [
        Field("host", TEXT, "The server."),
        Field("port", Number(1, 65_535, whole=True, expandable=True, wanted="a port from 1 to 65535"), "Its port."),
        Field("username", TEXT, "Who logs in."),
        Field("password", TEXT, "The password; take it from a secret."),
    ],
    "The server that takes mail.",
)
MAIL_ON = RecordOf(
    MailOn,
    "mailOn",
    [
        Field("failure", FLAG, "Send errorMail when the run failed."),
        Field("success", FLAG, "Send infoMail when it succeeded."),
        Field("wait", FLAG, "Send waitMail when it waits for a person."),
    ],
    "After what a mail is sent.",
)
MAIL = RecordOf(
    Mail,
    "mail",
    [
        Field("from", TEXT, "The sender.", attribute="sender"),
        Field("to", TEXTS, "Who gets it."),
        Field("prefix", TEXT, "What the subject begins with."),
        Field("attach_logs", FLAG, "Whether the logs come with it."),
    ],
    "A mail that is sent.",
)
SECRET = RecordOf(
    Secret,
    "secret",
    [
        Field("name", Text(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable"), "The variable that gets the value."),
        Field("provider", Choice(("env", "file")), "Where it comes from: a variable, or a file."),
        Field("key", Text(r"[^\x00]+", "the name of a variable or a file"), "Its name there."),
        Field("options", CONFIG, "Neither provider has any."),
    ],
    "A value that is fetched at the start and masked everywhere.",
    required=("name", "provider", "key"),
)
OTEL = RecordOf(
    Otel,
    "otel",
    [
        Field("enabled", FLAG, "Whether traces are sent."),
        Field("endpoint", TEXT, "Where to."),
        Field("headers", Table(TEXT), "Headers that go with them."),
        Field("insecure", FLAG, "Whether TLS is left out."),
        Field("timeout", TEXT, "Such as 30s."),
        Field("resource", CONFIG, "Attributes of this program."),
    ],
    "Where traces go.",
)
RUN_CONFIG = RecordOf(
    RunConfig,
    "runConfig",
    [
        Field("disable_param_edit", FLAG, "Parameters may not be changed at the start."),
        Field("disable_run_id_edit", FLAG, "The id of the run may not be chosen."),
    ],
    "What who starts a run may not change.",
)
SSH = RecordOf(
    Ssh,
    "ssh",
    [
        Field("user", TEXT, "Who logs in."),
        Field("host", TEXT, "Where."),
        Field("port", Number(1, 65_535, whole=True, expandable=True, wanted="a port from 1 to 65535"), "The port."),
        Field("key", TEXT, "The file of the private key."),
        Field("password", TEXT, "The password, where there is no key."),
        Field("strict_host_key", FLAG, "Whether the host must be known."),
        Field("known_host_file", TEXT, "The file of known hosts."),
        Field("timeout", TEXT, "Such as 30s."),
        Field("shell", WORDS, "The shell there."),
    ],
    "What ssh steps have in common.",
)
DEFAULTS = RecordOf(
    Defaults,
    "defaults",
    [
        Field("retry_policy", RETRY_POLICY, "For steps without one."),
        Field("continue_on", CONTINUE_ON, "For steps without one."),
        Field("repeat_policy", REPEAT_POLICY, "For steps without one."),
        Field("timeout_sec", SECONDS, "For steps without one."),
        Field("mail_on_error", FLAG, "For steps that do not say."),
        Field("signal_on_stop", TEXT, "For steps that do not say."),
        Field("on_worker_lost", ON_WORKER_LOST, "For steps that do not say."),
        Field("env", ENV, "Before the env of each step."),
        Field("preconditions", PRECONDITIONS, "Before the preconditions of each step.", aliases=("precondition",)),
    ],
    "What steps have if they do not say otherwise.",
)


class _Steps(RecordOf):
    """Steps. The settings of one whose type is to wait for a person are what `approval` says of others."""

    def values(self, node: Mapping, label: str, problems: Problems) -> tuple[dict[str, Any], dict[str, Place]]:
        values, places = RecordOf.values(self, node, label, problems)
        kind = values.get("type") or values.get("executor", Executor()).type
        if STEP_TYPES.get(kind) != "approval":
            return values, places
        settings = _settings(node)
        asked = values.setdefault("approval", Approval())
        if settings is not None and "approval" in places:
            problems.add(settings.key, "what the person is asked stands in `approval` too; keep one of the two")
        elif settings is not None and type(settings.value) is Mapping:
            asked = APPROVAL.read(settings.value, settings.key.text, problems)
        return {**values, "approval": Approval() if asked is WRONG else asked}, places


def _settings(node: Mapping) -> Entry | None:
    """Return what a step says of the settings of its type."""
    executor = node.entries.get("executor")
    for around in (node, executor.value if executor is not None else None):
        entries = around.entries if type(around) is Mapping else {}
        for key in ("config", "with"):
            found = entries.get(key)
            if found is not None and not (type(found.value) is Scalar and found.value.value is None):
                return found
    return None


STEP = _Steps(
    Step,
    "step",
    [
        Field("name", STEP_NAME, "The name of the step; without one it gets one such as cmd_1."),
        Field("id", ID, "What ${id.stdout} and its kin call the step."),
        Field("description", TEXT, "What it is for."),
        Field("command", TEXTS, "A command for the shell; several run in order, until one fails."),
        Field("args", ARGS, "Arguments: of the command, or of the Python function."),
        Field(
            "script", TEXT, "A script; its first line may name an interpreter, else `command` or the shell reads it."
        ),
        Field("exec", EXEC, "A program and its arguments, without a shell."),
        Field("python", TEXT, "A Python function, as package.module:function."),
        Field("shell", WORDS, "The shell for the commands."),
        Field("shell_packages", TEXTS, "Not installed: they must be there (nix)."),
        Field("working_dir", TEXT, "The folder where it runs.", aliases=("dir",)),
        Field("executor", EXECUTOR, "What performs the step, with its settings."),
        Field("type", TEXT, "What performs the step; short for executor.type."),
        Field("config", CONFIG, "Settings of the type; short for executor.config.", aliases=("with",)),
        Field("stdout", TEXT, "A file that also gets the standard output."),
        Field("stderr", TEXT, "A file that also gets the standard error."),
        Field("output", OUTPUTS, "The variable that gets the standard output."),
        Field("outputs", OUTPUTS, "Several outputs, by name."),
        Field("depends", TEXTS, "The steps that come before; [] cuts the chain."),
        Field("continue_on", CONTINUE_ON, "When what depends on it runs although it did not succeed."),
        Field("retry_policy", RETRY_POLICY, "How it is tried again when it failed."),
        Field("repeat_policy", REPEAT_POLICY, "How it is run again."),
        Field("preconditions", PRECONDITIONS, "If one does not hold, it is skipped.", aliases=("precondition",)),
        Field("env", ENV, "Its variables, over those of the workflow."),
        Field("mail_on_error", FLAG, "Whether its failure sends a mail."),
        Field("signal_on_stop", TEXT, "The signal that stops it."),
        Field("timeout_sec", SECONDS, "After that many seconds it is stopped and has failed; 0 is never."),
        Field("call", TEXT, "The workflow that it runs: a document of this file, or a file.", aliases=("run",)),
        Field("params", PARAMS, "What that workflow is given."),
        Field("parallel", PARALLEL, "Runs that workflow once for each item, as ${ITEM}."),
        Field(
            "worker_selector",
            SELECTOR,
            "Labels that its worker must have, all of them and those of the workflow; `local` is where the run is.",
        ),
        Field(
            "on_worker_lost", ON_WORKER_LOST, "Whether it is sent to another worker, or fails, when its own is lost."
        ),
        Field("exclusive", FLAG, "Whether it is killed when its worker has lost the coordinator for a lease."),
        Field("container", CONTAINER, "The container in which it runs."),
        Field("approval", APPROVAL, "A person must approve before the run goes on."),
        Field("priority", Number(-1_000_000, 1_000_000, whole=True, wanted="a whole number"), "Higher goes first."),
        Field(
            "resources",
            Table(Number(1e-9, 1e12, wanted="an amount greater than 0")),
            "What it takes while it runs; of what `--resources` gives no capacity there is one, of `cpu` one for each core.",
        ),
    ],
    "One step.",
    shorthand="command",
    hints=STEP_HINTS,
)


def _steps(node: Node, label: str, problems: Problems) -> Any:
    found: list[Step] = []
    if type(node) is Mapping:
        for name, (key, value) in node.entries.items():
            step = _step(value, f"{label}.{name}", -1, problems, found)
            if step is not None:
                _name_by_key(step, name, key, problems)
        return tuple(found)
    if type(node) is not Sequence:
        return wrong(node, label, "a list of steps, or a mapping of names to steps", problems, "- command: echo hello")
    group = 0
    for item in node.items:
        if type(item) is not Sequence:
            _step(item, "", -1, problems, found)
            continue
        for one in item.items:
            if type(one) is Sequence:
                problems.add(one, "a list of parallel steps holds steps, not a list; one level is enough")
            else:
                _step(one, "", group, problems, found)
        group += 1
    return tuple(found)


def _step(node: Node, label: str, group: int, problems: Problems, found: list[Step]) -> Step | None:
    if type(node) is Scalar and node.value is None:
        problems.add(node, "an empty step has nothing to do; write `command:`, or remove it")
        return None
    step = STEP.read(node, label, problems)
    if step is WRONG:
        return None
    made: Step = step
    made.group = group
    found.append(made)
    return made


def _name_by_key(step: Step, name: str, key: source.Scalar, problems: Problems) -> None:
    if step.name and step.name != name:
        where = step.places.get("name", Place())
        problems.add(
            where, f"the step stands under the key {name!r} and calls itself {step.name!r}; keep one of the names"
        )
    if STEP_NAME.read(key, "the name of a step", problems) is not WRONG:
        step.name = name
        step.places["name"] = at(key)


def _steps_schema(known: Schema) -> Schema:
    step = STEP.schema(known)
    items = {"anyOf": [step, {"type": "array", "items": step}]}
    return {"anyOf": [{"type": "array", "items": items}, {"type": "object", "additionalProperties": step}]}


HANDLERS = RecordOf(
    Handlers,
    "handlerOn",
    [
        Field("init", STEP, "Before the first step."),
        Field("success", STEP, "When the run succeeded."),
        Field("failure", STEP, "When it failed."),
        Field("cancel", STEP, "When it was stopped.", aliases=("abort",)),
        Field("exit", STEP, "At the end, however it ended."),
        Field("wait", STEP, "Not run; `mailOn: {wait: true}` tells a person."),
    ],
    "Steps that run before and after the others.",
)

WORKFLOW = RecordOf(
    Workflow,
    "workflow",
    [
        Field("name", NAME, "The name; the first document of a file is called as the file if it says nothing."),
        Field("group", TEXT, "The group in which it is shown."),
        Field("description", TEXT, "What it is for."),
        Field("tags", TAGS, "Words by which it is found.", aliases=("labels",)),
        Field(
            "type",
            Choice(("chain", "graph")),
            "chain: each step follows on the one before; graph: only `depends` counts.",
        ),
        Field(
            "schedule",
            SCHEDULE,
            "When it is to be started (not yet): cron expressions, or a mapping with start, stop and restart.",
        ),
        Field("skip_if_successful", FLAG, "A scheduled run is left out if the last one succeeded by hand."),
        Field("catchup_window", SPAN, "How far back missed runs are made up for, as in 12h."),
        Field("overlap_policy", Choice(("skip", "all", "latest")), "Which missed runs are made up for."),
        Field("restart_wait_sec", SECONDS, "Seconds between the stop and the start of a restart."),
        Field("env", ENV, "Variables, in order: a later one may use an earlier one."),
        Field("dotenv", TEXTS, "Files with variables; a later one wins, [] reads none."),
        Field("params", PARAMS, "Parameters, named and positional, with their defaults."),
        Field("preconditions", PRECONDITIONS, "If one does not hold, nothing runs.", aliases=("precondition",)),
        Field("handler_on", HANDLERS, "Steps that run before and after the others."),
        Field("command", TEXTS, "The only step, where there are no `steps`."),
        Field(
            "steps",
            Form(_steps, _steps_schema),
            "The steps: a list (a list in it runs in parallel), or a mapping by name.",
        ),
        Field("max_active_steps", COUNT, "How many steps run at once; 0 is any number."),
        Field(
            "max_active_runs",
            Number(-1, 1_000_000, whole=True, wanted="a whole number, -1 or more"),
            "How many runs at once; -1 is no queue.",
        ),
        Field("queue", TEXT, "The queue in which runs wait."),
        Field("timeout_sec", SECONDS, "After that many seconds the run has failed; 0 is never."),
        Field("delay_sec", SECONDS, "Seconds before the first step."),
        Field(
            "max_clean_up_time_sec",
            SECONDS,
            "Seconds between asking a step to stop and killing it.",
            aliases=("max_cleanup_time_sec",),
        ),
        Field("max_output_size", SIZE, "Bytes that a step may write; more fails it."),
        Field("hist_retention_days", COUNT, "Days for which runs are kept."),
        Field("hist_retention_runs", COUNT, "How many runs are kept; in place of days."),
        Field("log_dir", TEXT, "The folder of the logs."),
        Field("log_output", Choice(("separate", "merged")), "Standard output and error in two files or in one."),
        Field("worker_selector", SELECTOR, "Labels that the workers of its steps must have, all of them."),
        Field("files", TEXTS, "What workers get of the folder of the file: names and patterns; all of it by default."),
        Field("smtp", SMTP, "The server that takes mail."),
        Field("mail_on", MAIL_ON, "After what a mail is sent."),
        Field("error_mail", MAIL, "The mail after a failure."),
        Field("info_mail", MAIL, "The mail after a success."),
        Field("wait_mail", MAIL, "The mail when a person is waited for."),
        Field("shell", WORDS, "The shell of all steps."),
        Field("working_dir", TEXT, "The folder where steps run; the file's own if nothing is said."),
        Field("secrets", Many(SECRET, single=False), "Values that are fetched at the start and masked everywhere."),
        Field("defaults", DEFAULTS, "What steps have if they do not say otherwise."),
        Field("retry_policy", RETRY_POLICY, "Not done: give it to steps, or under `defaults`."),
        Field("otel", OTEL, "Where traces go."),
        Field("run_config", RUN_CONFIG, "What who starts a run may not change."),
        Field("container", CONTAINER, "The container in which all steps run."),
        Field("ssh", SSH, "What ssh steps have in common."),
    ],
    "A workflow: steps, what starts them, and what they have in common.",
    hints=ROOT_HINTS,
)


def json_schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of a document, for editors; the rules between fields are not in it."""
    known: Schema = {}
    reference = WORKFLOW.schema(known)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dagrid workflow",
        **reference,
        "$defs": dict(sorted(known.items())),
    }


def described(table: RecordOf) -> str:
    """Return a table of fields as Markdown, for the page that lists them."""
    defaults = table.defaults()
    lines = ["| field | default | meaning |", "| --- | --- | --- |"]
    for row in table.fields:
        first, *others = [camel(name) for name in (row.name, *row.aliases)]
        names = f"`{first}`" + "".join(f", `{other}`" for other in others)
        default = defaults.get(row.target)
        shown = "" if default in (None, False) else f"`{default}`"
        lines.append(f"| {names} | {shown} | {row.doc} |")
    return "\n".join(lines) + "\n"
