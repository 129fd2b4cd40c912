"""THE table of settings: what each is called as a flag, as a variable and as a key, what it may be, and what it is for.

From it follow the flags of the commands, what `dagrid config` shows, the schema of `config.yaml`, and the page of documentation.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from dagrid.config.kinds import (
    AMOUNTS,
    COUNT,
    COUNTS,
    DATABASE,
    DURATION,
    FLAG,
    HOST,
    LABELS,
    MOMENT,
    NAME,
    PAIRS,
    PATH,
    PATHS,
    PORT,
    TEXT,
    TEXTS,
    WHOLE,
    WORKER,
    Kind,
    one_of,
)
from dagrid.leases import LEASE

PREFIX = "DAGRID_"
RUNS = ("queued", "running", "waiting", "interrupted", "succeeded", "failed", "aborted", "partially_succeeded")


class Setting(NamedTuple):
    """One setting.

    Args:
        name: as the code calls it; a dot stands before what belongs to one command or one room.
        kind: what it may be.
        doc: what it is for, in one sentence.
        default: its value if nobody says anything.
        flags: as the command line calls it.
        commands: those that take it; none named is all of them.
        shown: what a page says of the default, where it is made at run time.
        secret: whether it may hold a password.
        letters: those of its commands that know its flags of one letter; none named is all of them.
    """

    name: str
    kind: Kind
    doc: str
    default: Any = None
    flags: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    shown: str = ""
    secret: bool = False
    letters: tuple[str, ...] = ()

    def flags_of(self, command: str) -> tuple[str, ...]:
        """Return its flags for a command."""
        knows = not self.letters or command in self.letters
        return tuple(flag for flag in self.flags if knows or flag.startswith("--"))

    @property
    def key(self) -> str:
        """What it is called in a file."""
        return ".".join(re.sub(r"_([a-z])", lambda found: found[1].upper(), part) for part in self.name.split("."))

    @property
    def variable(self) -> str:
        """What it is called in the environment."""
        return PREFIX + self.name.replace(".", "_").upper()


STARTS = ("start", "enqueue", "dry")
SERVERS = ("coordinator", "start-all")
CLIENTS = ("start", "restart", "retry", "approve", "reject", "exec")
OF_A_RUN = ("stop", "restart", "retry", "approve", "reject", "status", "logs", "explain")
SETTINGS = (
    Setting(
        "home",
        PATH,
        "The folder with runs, values, logs and config.yaml.",
        None,
        ("--dagrid-home",),
        (),
        "the data folder of XDG, /dagrid",
    ),
    Setting("config", PATH, "The file of settings.", None, ("--config", "-c"), (), "config.yaml in the home"),
    Setting(
        "store",
        DATABASE,
        "A PostgreSQL database, as postgresql://user@host/database, that keeps runs and values in place of the home.",
        None,
        ("--store",),
        secret=True,
    ),
    Setting("quiet", FLAG, "Say nothing but data and errors.", False, ("--quiet", "-q")),
    Setting("json", FLAG, "Write data as JSON.", False, ("--json",)),
    Setting("debug", FLAG, "When dagrid has a fault, show all of it.", False, ("--debug",)),
    Setting(
        "tz",
        TEXT,
        "The time zone of the times that are shown and given, such as Europe/Zurich.",
        None,
        ("--tz",),
        (),
        "this machine's",
    ),
    Setting(
        "paths.dags_dir",
        PATH,
        "Where a workflow is looked for by its name, after the current folder.",
        None,
        ("--dags",),
        ("start", "enqueue", "dry", "validate", "graph"),
        "dags in the home",
    ),
    Setting(
        "backend",
        TEXT,
        "Where the nodes of a Python graph run: a name, or a URL such as dask://host:8786.",
        None,
        ("--backend",),
        ("start", "restart", "retry"),
        "thread",
    ),
    Setting(
        "settings",
        PATH,
        "A file with settings of the nodes of a Python graph, in YAML, TOML or JSON.",
        None,
        ("--settings",),
        ("start", "restart", "graph"),
    ),
    Setting(
        "resources",
        AMOUNTS,
        "How much there is of what steps or nodes ask for with `resources`, such as gpu=2.",
        (),
        ("--resources",),
        ("start", "restart"),
    ),
    Setting(
        "worker.labels",
        LABELS,
        "The labels of this machine, which `workerSelector` must match, such as zone=a,gpu=yes.",
        (),
        ("--worker.labels", "-l"),
        ("start", "restart", "exec", "dry", "worker"),
        letters=("worker",),
    ),
    Setting(
        "params",
        TEXTS,
        "Parameters, as NAME=value or by position; several in one text are separated by spaces.",
        (),
        ("--params", "-p"),
        STARTS,
    ),
    Setting(
        "name",
        NAME,
        "The name of the run in the history; by default that of the workflow.",
        None,
        ("--name", "-N"),
        (*STARTS, "exec"),
    ),
    Setting(
        "run_id",
        TEXT,
        "The id of the run; for a new run one is made by default.",
        None,
        ("--run-id", "-r"),
        ("start", "enqueue", "exec", *OF_A_RUN, "history"),
    ),
    Setting(
        "from_run_id", TEXT, "Start what that run was of, with its parameters.", None, ("--from-run-id",), ("start",)
    ),
    Setting(
        "trigger_type",
        TEXT,
        "What began the run, for the history.",
        "manual",
        ("--trigger-type",),
        ("start", "enqueue", "restart", "exec"),
    ),
    Setting("next", TEXT, "Start the run that is the next one in this queue.", None, ("--next",), ("start",)),
    Setting(
        "queue",
        TEXT,
        "The queue in which the run waits; by default that of the workflow, or its name.",
        None,
        ("--queue", "-u"),
        ("enqueue",),
    ),
    Setting(
        "priority", WHOLE, "Of the runs in a queue, those with a higher one go first.", 0, ("--priority",), ("enqueue",)
    ),
    Setting(
        "dag_run",
        TEXT,
        "Which run leaves the queue, as NAME:ID or ID; by default the next one.",
        None,
        ("--dag-run", "-d"),
        ("dequeue",),
    ),
    Setting(
        "step",
        TEXTS,
        "Run this step and all behind it anew, as well as those that did not complete.",
        (),
        ("--from", "--step"),
        ("retry",),
    ),
    Setting(
        "take_over",
        FLAG,
        "Take the run although another machine seems to perform it, or workers of a coordinator may.",
        False,
        ("--take-over",),
        ("restart", "retry", "approve", "reject"),
    ),
    Setting("input", PAIRS, "What the person who approves says, for the steps behind.", (), ("--input",), ("approve",)),
    Setting("reason", TEXT, "Why it is not approved.", "", ("--reason",), ("reject",)),
    Setting("history.from", MOMENT, "Runs since then.", None, ("--from",), ("history",)),
    Setting("history.to", MOMENT, "Runs until then.", None, ("--to",), ("history",)),
    Setting("history.last", DURATION, "Runs of the last so long, such as 12h or 7d.", None, ("--last",), ("history",)),
    Setting("history.status", one_of(*RUNS, many=True), "Runs with this status.", (), ("--status",), ("history",)),
    Setting(
        "history.format",
        one_of("table", "json", "csv"),
        "How they are written.",
        "table",
        ("--format", "-f"),
        ("history",),
    ),
    Setting("history.limit", COUNT, "At most so many runs; 0 is all.", 100, ("--limit", "-l"), ("history",)),
    Setting(
        "history.children", FLAG, "The runs too that other runs have called.", False, ("--children",), ("history",)
    ),
    Setting(
        "logs.follow",
        FLAG,
        "Go on with what is written, until the run has ended.",
        False,
        ("--follow", "-f"),
        ("logs",),
    ),
    Setting("logs.stderr", FLAG, "Only standard error of the step.", False, ("--stderr",), ("logs",)),
    Setting("logs.stdout", FLAG, "Only standard output of the step.", False, ("--stdout",), ("logs",)),
    Setting("logs.lines", COUNT, "Only so many lines from the end.", None, ("--lines", "-n"), ("logs",)),
    Setting(
        "graph.format",
        one_of("text", "mermaid", "svg", "dot", "json"),
        "In which form.",
        "text",
        ("--format", "-f"),
        ("graph",),
    ),
    Setting(
        "graph.output", PATH, "The file to write to; its ending says the form.", None, ("--output", "-o"), ("graph",)
    ),
    Setting(
        "exec.worker_label",
        LABELS,
        "A label that the worker of the command must have, where a coordinator is named.",
        (),
        ("--worker-label",),
        ("exec",),
    ),
    Setting("exec.env", PAIRS, "A variable for the command.", (), ("--env", "-E"), ("exec",)),
    Setting("exec.dotenv", PATHS, "A file with variables for the command.", (), ("--dotenv",), ("exec",)),
    Setting(
        "exec.workdir", PATH, "The folder where the command runs.", None, ("--workdir",), ("exec",), "the current one"
    ),
    Setting(
        "exec.shell", TEXT, "The shell for the command; without one it is run as it is.", None, ("--shell",), ("exec",)
    ),
    Setting(
        "cleanup.retention_days",
        COUNT,
        "Remove runs that ended longer ago than so many days; 0 is all.",
        0,
        ("--retention-days",),
        ("cleanup",),
    ),
    Setting(
        "cleanup.keep",
        COUNT,
        "Remove all but the newest so many of each workflow, in place of days.",
        None,
        ("--keep",),
        ("cleanup",),
    ),
    Setting("cleanup.dry_run", FLAG, "Only say what would be removed.", False, ("--dry-run",), ("cleanup",)),
    Setting("cleanup.yes", FLAG, "Do not ask.", False, ("--yes", "-y"), ("cleanup",)),
    Setting(
        "coordinator.host",
        HOST,
        "The address where the coordinator listens; for other commands, where it is: then its workers perform the steps.",
        None,
        ("--coordinator.host", "-H"),
        (*SERVERS, *CLIENTS),
        "127.0.0.1",
        letters=SERVERS,
    ),
    Setting(
        "coordinator.port",
        PORT,
        "Its port.",
        50_055,
        ("--coordinator.port", "-P"),
        (*SERVERS, *CLIENTS),
        letters=SERVERS,
    ),
    Setting(
        "coordinator.signing_key",
        TEXT,
        "What coordinator and workers prove to each other that they know; better in the environment or in a file.",
        None,
        ("--coordinator.signing-key",),
        (*SERVERS, "worker", *CLIENTS),
        secret=True,
    ),
    Setting(
        "coordinator.signing_key_file",
        PATH,
        "A file with the signing key.",
        None,
        ("--coordinator.signing-key-file",),
        (*SERVERS, "worker", *CLIENTS),
    ),
    Setting("coordinator.tls.cert_file", PATH, "Its certificate.", None, ("--coordinator.tls-cert",), SERVERS),
    Setting("coordinator.tls.key_file", PATH, "The key of that.", None, ("--coordinator.tls-key",), SERVERS),
    Setting(
        "coordinator.tls.ca_file",
        PATH,
        "Who certifies workers: those without a certificate of theirs are refused then.",
        None,
        ("--coordinator.tls-ca",),
        SERVERS,
    ),
    Setting(
        "coordinator.tls.claims_file",
        PATH,
        "A file that says, by a name in a certificate, which ids and labels its holder may have: all others are refused then.",
        None,
        ("--coordinator.tls-claims",),
        SERVERS,
    ),
    Setting(
        "coordinator.lease",
        DURATION,
        "How long a worker may be silent before its steps are given to others; 1 s at least.",
        LEASE,
        ("--coordinator.lease",),
        SERVERS,
    ),
    Setting(
        "queues.config",
        COUNTS,
        "How many runs of a queue are performed at once, such as slow=2; else `maxActiveRuns` of the workflow counts.",
        (),
        ("--queues.config",),
        SERVERS,
    ),
    Setting(
        "host",
        HOST,
        "The address where the API listens, and the coordinator, unless that has its own.",
        "127.0.0.1",
        ("--host", "-s"),
        ("start-all",),
    ),
    Setting("port", PORT, "The port of the API.", 8080, ("--port", "-p"), ("start-all",)),
    Setting(
        "auth.token",
        TEXT,
        "What who asks the API sends as a bearer token; without any it answers on its own machine only.",
        None,
        (),
        ("start-all",),
        secret=True,
    ),
    Setting(
        "auth.token_file", PATH, "A file with such tokens, one on a line.", None, ("--auth.token-file",), ("start-all",)
    ),
    Setting(
        "worker.id", WORKER, "What the worker is called.", None, ("--worker.id", "-w"), ("worker",), "hostname@PID"
    ),
    Setting(
        "worker.max_active_runs",
        COUNT,
        "How many runs it performs at once; 0 is any number.",
        0,
        ("--worker.max-active-runs", "-m"),
        ("worker",),
    ),
    Setting(
        "worker.slots",
        COUNT,
        "How many steps and calls it performs at once.",
        None,
        ("--worker.slots",),
        ("worker",),
        "one for each core",
    ),
    Setting(
        "worker.coordinator_host",
        HOST,
        "Where its coordinator is.",
        "127.0.0.1",
        ("--worker.coordinator-host",),
        ("worker",),
    ),
    Setting("worker.coordinator_port", PORT, "The port of that.", 50_055, ("--worker.coordinator-port",), ("worker",)),
    Setting(
        "worker.insecure",
        FLAG,
        "Whether the coordinator is called without TLS; by default it is, unless a file for TLS is named.",
        None,
        ("--worker.insecure",),
        ("worker", *CLIENTS),
    ),
    Setting(
        "worker.tls.cert_file",
        PATH,
        "The certificate that is shown to the coordinator.",
        None,
        ("--worker.tls-cert",),
        ("worker", *CLIENTS),
    ),
    Setting("worker.tls.key_file", PATH, "The key of that.", None, ("--worker.tls-key",), ("worker", *CLIENTS)),
    Setting(
        "worker.tls.ca_file", PATH, "Who certifies the coordinator.", None, ("--worker.tls-ca",), ("worker", *CLIENTS)
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
BY_KEY = {setting.key: setting for setting in SETTINGS}
_OF_ONE_CALL = (
    *("params", "name", "run_id", "from_run_id", "trigger_type", "next", "queue", "priority", "dag_run", "step"),
    *("take_over", "input", "reason", "history.", "logs.", "graph.", "exec.", "cleanup."),
)
VARIABLES_OF_ONE_CALL = frozenset(
    one.variable for one in SETTINGS if one.name in _OF_ONE_CALL or f"{one.name.partition('.')[0]}." in _OF_ONE_CALL
)
"""Those that say what one call is to do, and nothing of where: a call within a run is told none of them."""


def settings_of(command: str) -> list[Setting]:
    """Return the settings that a command takes, its own ones first."""
    own = [setting for setting in SETTINGS if command in setting.commands]
    return own + [setting for setting in SETTINGS if not setting.commands]


def schema() -> dict[str, Any]:
    """Return the JSON schema of `config.yaml`."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of dagrid",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }
    for setting in SETTINGS:
        *rooms, last = setting.key.split(".")
        at = root
        for room in rooms:
            at = at["properties"].setdefault(room, {"type": "object", "additionalProperties": False, "properties": {}})
        said: dict[str, Any] = {"description": setting.doc, **setting.kind.schema}
        if setting.default not in (None, (), ""):
            said["default"] = setting.default
        at["properties"][last] = said
    return root
