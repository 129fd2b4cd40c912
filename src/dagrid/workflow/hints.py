"""What to say to keys that come from other dialects and other tools: the line converted, or that dagrid has no such thing."""

from __future__ import annotations

from typing import Final

from dagrid.workflow import source
from dagrid.workflow.fields import Hint
from dagrid.workflow.problems import Problems
from dagrid.workflow.source import Entry, Scalar

STEP_TYPES: Final = {
    "shell": "shell",
    "command": "shell",
    "python": "python",
    "dag": "dag",
    "subworkflow": "dag",
    "parallel": "dag",
    "http": "http",
    "jq": "jq",
    "ssh": "ssh",
    "docker": "docker",
    "container": "docker",
    "mail": "mail",
    "archive": "archive",
    "file": "file",
    "sql": "sql",
    "duckdb": "sql",
    "sqlite": "sql",
    "postgres": "sql",
    "approval": "approval",
    "hitl": "approval",
}
"""The types of steps that the format knows, with the canonical name of each."""

_CONVERTED = {
    "http": "type: http",
    "ssh": "type: ssh",
    "docker": "type: docker",
    "jq": "type: jq",
    "mail": "type: mail",
    "archive": "type: archive",
    "file": "type: file",
    "postgres": "type: postgres",
    "sqlite": "type: sqlite",
    "exec": "exec: {command: PROGRAM, args: [...]}",
    "dag": "call: WORKFLOW",
    "human": "approval: {prompt: TEXT}",
    "python": "python: package.module:function",
    "shell": "command: ...",
}


def _action(entry: Entry, around: source.Mapping, problems: Problems) -> str:  # noqa: ARG001
    said = entry.value.text if type(entry.value) is Scalar else "..."
    converted = _CONVERTED.get(said.partition(".")[0])
    if converted is None:
        return f"`action: {said[:60]}` is a newer spelling, and dagrid has no step of that type; there are: {', '.join(types())}"
    both = "; `with:` may stay" if converted.startswith("type") and "with" in around.entries else ""
    return f"`action: {said[:60]}` is a newer spelling that is not read here; write `{converted}`{both}"


def _with_consts(entry: Entry, around: source.Mapping, problems: Problems) -> str:  # noqa: ARG001
    return "`consts:` is a newer spelling that is not read here; write `env:` with the same lines"


def _none(what: str, instead: str = "remove it") -> Hint:
    def say(entry: Entry, around: source.Mapping, problems: Problems) -> str:  # noqa: ARG001
        return f"`{entry.key.text}:` means nothing here, for dagrid has no {what}; {instead}"

    return say


def _called(instead: str) -> Hint:
    def say(entry: Entry, around: source.Mapping, problems: Problems) -> str:  # noqa: ARG001
        return f"`{entry.key.text}:` is another tool's word; write `{instead}`"

    return say


def _capacities(entry: Entry, around: source.Mapping, problems: Problems) -> str:  # noqa: ARG001
    return "how much there is of what steps take is said at the start; write `dagrid start --resources NAME=NUMBER`"


def converted_command(text: str) -> str:
    """Return the line that a shell command is written as."""
    first = text.strip().split("\n", 1)[0][:80]
    if "\n" in text.strip():
        return f"command: | (and the lines below it, from {first!r})"
    needs_quotes = ": " in first or " #" in first or first[:1] in "'\"[]{}>|*&!%@`#?-,"
    return f"command: {first!r}" if needs_quotes else f"command: {first}"


def types() -> list[str]:
    """Return the canonical names of the types of steps."""
    return sorted(set(STEP_TYPES.values()))


_ROUTES = _none("routers", "give the steps preconditions")
_MODELS = _none("steps for language models")
_REGISTRY = _none("credentials for registries", "log in with `docker login` where the step runs")

STEP_HINTS: Final[dict[str, Hint]] = {
    "action": _action,
    "value": _ROUTES,
    "routes": _ROUTES,
    **dict.fromkeys(("llm", "messages", "agent", "tools", "harness"), _MODELS),
    **dict.fromkeys(("retry", "retries"), _called("retryPolicy: {limit: 3, intervalSec: 10}")),
    **dict.fromkeys(("if", "when"), _called("preconditions: [COMMAND]")),
}
ROOT_HINTS: Final[dict[str, Hint]] = {
    "consts": _with_consts,
    "resources": _capacities,
    **dict.fromkeys(("llm", "agent", "harness", "harnesses"), _MODELS),
    **dict.fromkeys(("registryAuths", "registry_auths"), _REGISTRY),
    **dict.fromkeys(
        ("actions", "stepTypes", "step_types"), _none("step types written in YAML", "install a package that adds one")
    ),
    **dict.fromkeys(("s3", "redis", "kubernetes"), _none("such steps")),
    **dict.fromkeys(("webhook", "artifacts"), _none("such field")),
}
