"""What a workflow says, as plain records; how it is written, checked or run is not known here.

A record's defaults are the defaults of the format. Text that may hold `$NAME` or backticks is kept as it was written. `places`
says where each field stands, for errors that are found later: `place(step, "depends", 1)`; a key that was refused stands there
as `!key`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, Protocol

import msgspec

from dagrid.workflow.problems import Place

Places = dict[str, Place]
Number = int | float | str
"""A number, or text that is one when its `$NAME`s are known."""


class Record(Protocol):
    """Any record below."""

    places: Places


def place(record: Record, field: str = "", index: int | None = None) -> Place:
    """Return where a field of a record stands, or where the record stands if the field was not written.

    Args:
        record: any record of this module.
        field: the name of an attribute; empty means the record itself.
        index: which item of a list.
    """
    if index is not None and f"{field}.{index}" in record.places:
        return record.places[f"{field}.{index}"]
    return record.places.get(field) or record.places.get("", Place())


def said(record: Record, field: str) -> bool:
    """Return whether the text has the field, with whatever value."""
    return field in record.places


class Variable(msgspec.Struct, kw_only=True):
    """A line of `env`: a name, and text to be expanded when those before it are known."""

    name: str
    value: str = ""
    places: Places = {}


class Precondition(msgspec.Struct, kw_only=True):
    """What must hold: without `expected` a command that must succeed, with it text that must be (`re:` match) that."""

    condition: str
    expected: str | None = None
    negate: bool = False
    places: Places = {}


class ContinueOn(msgspec.Struct, kw_only=True):
    """When what depends on a step runs although the step did not succeed."""

    failure: bool = False
    skipped: bool = False
    exit_code: tuple[int, ...] = ()
    output: tuple[str, ...] = ()
    mark_success: bool = False
    places: Places = {}


class RetryPolicy(msgspec.Struct, kw_only=True):
    """How a failed step is tried again. Seconds; `backoff` 0 means that the interval stays the same."""

    limit: Number = 0
    interval_sec: Number = 0
    backoff: float = 0.0
    max_interval_sec: Number = 0
    exit_code: tuple[int, ...] = ()
    places: Places = {}


class RepeatPolicy(msgspec.Struct, kw_only=True):
    """How a step that ran is run again: `while` what is asked holds, or `until` it does. `limit` 0 is no limit."""

    repeat: str = ""
    interval_sec: float = 0
    limit: int = 0
    backoff: float = 0.0
    max_interval_sec: float = 0
    condition: str = ""
    expected: str | None = None
    exit_code: tuple[int, ...] = ()
    places: Places = {}


class Written(msgspec.Struct, frozen=True):
    """A value that is no text, with the text that stands for it in the file, which commands get."""

    value: float | bool | None
    text: str


class Executor(msgspec.Struct, kw_only=True):
    """What performs a step. `config` holds plain values; a type checks its own."""

    type: str = ""
    config: dict[str, Any] = {}
    places: Places = {}


class Exec(msgspec.Struct, kw_only=True):
    """A program and its arguments, without a shell."""

    command: str = ""
    args: tuple[str, ...] = ()
    places: Places = {}


class Output(msgspec.Struct, kw_only=True):
    """A value that a step leaves: its standard output, trimmed, if nothing else is said."""

    name: str = ""
    source: str = "stdout"
    path: str = ""
    decode: str = "text"
    select: str = ""
    value: str | None = None
    key: str = ""
    omit: bool = False
    places: Places = {}


class Parallel(msgspec.Struct, kw_only=True):
    """Over what a sub-workflow is called: items (text, or a dict of plain values), or text that is a list at run time."""

    items: tuple[Any, ...] | str = ()
    max_concurrent: int = 10
    places: Places = {}


class Approval(msgspec.Struct, kw_only=True):
    """What a person is asked; `input` names what they may enter, `required` what they must."""

    prompt: str = ""
    input: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    rewind_to: str = ""
    places: Places = {}


class Param(msgspec.Struct, kw_only=True):
    """One parameter: a name (none if it is positional), its default, and what a value must be."""

    name: str = ""
    value: str | None = None
    type: str = "string"
    required: bool = False
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str = ""
    description: str = ""
    eval: bool = True
    places: Places = {}


class Params(msgspec.Struct, kw_only=True):
    """The parameters in order. `is_closed`: others may not be given. `schema`: a file that says more of them, and is not read."""

    items: tuple[Param, ...] = ()
    is_closed: bool = False
    schema: str = ""
    places: Places = {}


class Cron(msgspec.Struct, kw_only=True):
    """A cron expression of five fields, and the time zone in which it counts (none: that of the scheduler)."""

    expression: str
    timezone: str = ""
    places: Places = {}


class Schedule(msgspec.Struct, kw_only=True):
    """When a workflow is started, stopped and started anew; `at` are moments (RFC 3339) at which it is started once."""

    start: tuple[Cron, ...] = ()
    stop: tuple[Cron, ...] = ()
    restart: tuple[Cron, ...] = ()
    at: tuple[str, ...] = ()
    places: Places = {}


class Secret(msgspec.Struct, kw_only=True):
    """A value that is fetched when the run begins, and masked wherever it is shown."""

    name: str = ""
    provider: str = ""
    key: str = ""
    options: dict[str, Any] = {}
    places: Places = {}


class Smtp(msgspec.Struct, kw_only=True):
    """The server that takes mail."""

    host: str = ""
    port: Number = ""
    username: str = ""
    password: str = ""
    places: Places = {}


class MailOn(msgspec.Struct, kw_only=True):
    """After what a mail is sent."""

    failure: bool = False
    success: bool = False
    wait: bool = False
    places: Places = {}


class Mail(msgspec.Struct, kw_only=True):
    """The mail that is sent."""

    sender: str = ""
    to: tuple[str, ...] = ()
    prefix: str = ""
    attach_logs: bool = False
    places: Places = {}


class Otel(msgspec.Struct, kw_only=True):
    """Where traces go."""

    enabled: bool = False
    endpoint: str = ""
    headers: dict[str, str] = {}
    insecure: bool = False
    timeout: str = ""
    resource: dict[str, Any] = {}
    places: Places = {}


class RunConfig(msgspec.Struct, kw_only=True):
    """What who starts a run may not change."""

    disable_param_edit: bool = False
    disable_run_id_edit: bool = False
    places: Places = {}


class Ssh(msgspec.Struct, kw_only=True):
    """What ssh steps have in common."""

    user: str = ""
    host: str = ""
    port: Number = ""
    key: str = ""
    password: str = ""
    strict_host_key: bool = True
    known_host_file: str = ""
    timeout: str = ""
    shell: tuple[str, ...] = ()
    places: Places = {}


class Container(msgspec.Struct, kw_only=True):
    """The container in which steps run."""

    image: str = ""
    exec: Any = None
    name: str = ""
    pull_policy: str = "missing"
    env: tuple[Variable, ...] = ()
    volumes: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    platform: str = ""
    ports: tuple[str, ...] = ()
    network: str = ""
    startup: str = "keepalive"
    command: tuple[str, ...] = ()
    wait_for: str = "running"
    log_pattern: str = ""
    restart_policy: str = ""
    keep_container: bool = False
    healthcheck: dict[str, Any] = {}
    shell: tuple[str, ...] = ()
    places: Places = {}


class Defaults(msgspec.Struct, kw_only=True):
    """What steps have if they do not say otherwise; `env` and `preconditions` come before a step's own."""

    retry_policy: RetryPolicy | None = None
    continue_on: ContinueOn | None = None
    repeat_policy: RepeatPolicy | None = None
    timeout_sec: float = 0
    mail_on_error: bool = False
    signal_on_stop: str = ""
    on_worker_lost: Literal["requeue", "fail"] = "requeue"
    env: tuple[Variable, ...] = ()
    preconditions: tuple[Precondition, ...] = ()
    places: Places = {}


class Step(msgspec.Struct, kw_only=True):
    """One step. `kind` is the canonical name of its type, filled in when the file is loaded.

    `depends` is what the text says (None: nothing, empty: explicitly nothing); what a step waits for in the end is in
    `dependencies(workflow)`. `group` is the number of the parallel group in which the step stands, or -1.
    """

    name: str = ""
    id: str = ""
    description: str = ""
    kind: str = ""
    command: tuple[str, ...] = ()
    args: tuple[Any, ...] | dict[str, Any] = ()
    script: str = ""
    exec: Exec | None = None
    python: str = ""
    shell: tuple[str, ...] = ()
    shell_packages: tuple[str, ...] = ()
    working_dir: str = ""
    executor: Executor = msgspec.field(default_factory=Executor)
    type: str = ""
    config: dict[str, Any] = {}
    stdout: str = ""
    stderr: str = ""
    output: tuple[Output, ...] = ()
    outputs: tuple[Output, ...] = ()
    depends: tuple[str, ...] | None = None
    continue_on: ContinueOn = msgspec.field(default_factory=ContinueOn)
    retry_policy: RetryPolicy | None = None
    repeat_policy: RepeatPolicy | None = None
    preconditions: tuple[Precondition, ...] = ()
    env: tuple[Variable, ...] = ()
    mail_on_error: bool = False
    signal_on_stop: str = ""
    timeout_sec: float = 0
    call: str = ""
    params: Params = msgspec.field(default_factory=Params)
    parallel: Parallel | None = None
    worker_selector: dict[str, str] | str = {}
    on_worker_lost: Literal["requeue", "fail"] = "requeue"
    exclusive: bool = False
    container: Container | None = None
    approval: Approval | None = None
    priority: int = 0
    resources: dict[str, float] = {}
    group: int = -1
    places: Places = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Be kept, and travel, with what is not as the format has it by default: of most steps that is little."""
        return Step, (), (None, {name: value for name, by in _defaults() if (value := getattr(self, name)) != by})


@cache
def _defaults() -> tuple[tuple[str, Any], ...]:
    step = Step()
    return tuple((name, getattr(step, name)) for name in step.__struct_fields__)


class Handlers(msgspec.Struct, kw_only=True):
    """Steps that run before the others, and after them according to how the run ended."""

    init: Step | None = None
    success: Step | None = None
    failure: Step | None = None
    cancel: Step | None = None
    exit: Step | None = None
    wait: Step | None = None
    places: Places = {}


class Workflow(msgspec.Struct, kw_only=True):
    """One document. Seconds and days; 0 means no limit, where nothing else is said."""

    name: str = ""
    group: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    type: str = "chain"
    schedule: Schedule = msgspec.field(default_factory=Schedule)
    skip_if_successful: bool = False
    catchup_window: str = ""
    overlap_policy: str = "skip"
    restart_wait_sec: float = 0
    env: tuple[Variable, ...] = ()
    dotenv: tuple[str, ...] = (".env",)
    params: Params = msgspec.field(default_factory=Params)
    preconditions: tuple[Precondition, ...] = ()
    handler_on: Handlers = msgspec.field(default_factory=Handlers)
    command: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    max_active_steps: int = 0
    max_active_runs: int = 1
    queue: str = ""
    timeout_sec: float = 0
    delay_sec: float = 0
    max_clean_up_time_sec: float = 5
    max_output_size: int = 1_048_576
    hist_retention_days: int = 30
    hist_retention_runs: int = 0
    log_dir: str = ""
    log_output: str = "separate"
    worker_selector: dict[str, str] | str = {}
    files: tuple[str, ...] = ()
    smtp: Smtp = msgspec.field(default_factory=Smtp)
    mail_on: MailOn = msgspec.field(default_factory=MailOn)
    error_mail: Mail = msgspec.field(default_factory=Mail)
    info_mail: Mail = msgspec.field(default_factory=Mail)
    wait_mail: Mail = msgspec.field(default_factory=Mail)
    shell: tuple[str, ...] = ()
    working_dir: str = ""
    secrets: tuple[Secret, ...] = ()
    defaults: Defaults = msgspec.field(default_factory=Defaults)
    retry_policy: RetryPolicy | None = None
    otel: Otel = msgspec.field(default_factory=Otel)
    run_config: RunConfig = msgspec.field(default_factory=RunConfig)
    container: Container | None = None
    ssh: Ssh | None = None
    places: Places = {}


def handlers(workflow: Workflow) -> Iterator[tuple[str, Step]]:
    """Yield the handlers that there are, with what they are for."""
    for role in ("init", "success", "failure", "cancel", "exit", "wait"):
        step = getattr(workflow.handler_on, role)
        if step is not None:
            yield role, step
