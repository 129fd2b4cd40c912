"""Mails about a run, after its end, as the workflow asks for them: by `mailOn`, and by `mailOnError` of steps that failed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagrid.errors import StepError
from dagrid.execution.results import ExecutionResult, NodeResult, NodeStatus, RunStatus
from dagrid.masking import masked
from dagrid.workflow.context import Context
from dagrid.workflow.expressions import evaluate, parse
from dagrid.workflow.lowering import steps_of
from dagrid.workflow.model import Mail
from dagrid.workflow.variables import Names

if TYPE_CHECKING:
    from dagrid.workflow.letters import Letter, Server

FAILED = (NodeStatus.FAILED, NodeStatus.TIMED_OUT, NodeStatus.LOST)
MOST_OF_A_LOG = 256 * 1024
"""How many bytes of a log come with a mail, from its end."""
MOST_OF_ALL_LOGS = 8 << 20


def send_mails(context: Context, result: ExecutionResult) -> None:
    """Send what is to be sent after a run; a mail that cannot be sent is said in the log of the run and changes nothing.

    Args:
        context: of the run.
        result: how it ended.
    """
    workflow = context.workflow
    nodes = result.node_results
    status = result.status
    told = False
    if workflow.mail_on.failure and status in (RunStatus.FAILED, RunStatus.PARTIALLY_SUCCEEDED):
        told = True
        _send(context, workflow.error_mail, status.value, list(_lines(context, nodes)))
    if workflow.mail_on.success and status is RunStatus.SUCCEEDED:
        _send(context, workflow.info_mail, status.value, list(_lines(context, nodes)))
    if not told:
        for name, step in steps_of(workflow).items():
            if step.mail_on_error and nodes[name].status in FAILED:
                _send(context, workflow.error_mail, f"step {name} failed", [_line(nodes[name])], [name])


def send_waiting_mail(context: Context, prompts: Mapping[str, str]) -> None:
    """Send what is to be sent when a run waits for a person, in the same way.

    Args:
        context: of the run.
        prompts: what the person is asked, by the names of the steps.
    """
    if context.workflow.mail_on.wait:
        lines = [f"{name}: {prompt}" for name, prompt in prompts.items()]
        _send(context, context.workflow.wait_mail, "waiting", lines, list(prompts))


def _send(context: Context, mail: Mail, what: str, lines: Sequence[str], logs: Sequence[str] | None = None) -> None:
    try:
        from dagrid.workflow.letters import send  # MIME and sockets: few runs send a mail

        letter = _letter(context, mail, what, lines, logs)
        send(_server(context), letter)
    except StepError as error:
        context.note(f"no mail was sent ({what}): {error.message}")
    except Exception as error:  # noqa: BLE001  # the run has ended; whatever a mail comes to is no harm to it
        context.note(f"no mail was sent ({what}): {type(error).__name__}: {error}")
    else:
        context.note(f"a mail was sent to {', '.join(letter.to)} ({what})")


def _letter(context: Context, mail: Mail, what: str, lines: Sequence[str], logs: Sequence[str] | None) -> Letter:
    from dagrid.workflow.letters import Letter

    names = Names([context.given, context.variables, os.environ])
    to = [address.strip() for text in mail.to for address in _value(text, names).split(",") if address.strip()]
    sender = _value(mail.sender, names)
    if not to or not sender:
        raise StepError("it is not said who it is from and who gets it; write both: {from: ..., to: ...}")
    prefix = _value(mail.prefix, names)
    secrets = context.secrets
    text = [f"{context.name}: {what}", f"Run {context.logs.run_id}", "", *lines, "", f"Log: {context.logs.log}"]
    return Letter(
        sender=sender,
        to=to,
        subject=masked(f"{prefix} {context.name}: {what}".strip(), secrets),
        text=masked("\n".join(text) + "\n", secrets),
        texts=_logs(context, logs) if mail.attach_logs else {},
    )


def _server(context: Context) -> Server:
    from dagrid.workflow.letters import DEFAULT_PORT, Server

    smtp = context.workflow.smtp
    names = Names([context.given, context.variables, os.environ])
    host = _value(smtp.host, names)
    port = _value(str(smtp.port), names).strip() or str(DEFAULT_PORT)
    if not host:
        raise StepError("no server is named; write smtp: {host: ..., port: ...}")
    if not port.isdigit():
        raise StepError(f"the port of smtp is {port!r}; write a number")
    return Server(host, int(port), _value(smtp.username, names), _value(smtp.password, names))


def _value(text: str, names: Names) -> str:
    return evaluate(parse(text, backticks=False), names)


def _lines(context: Context, nodes: Mapping[str, NodeResult]) -> Iterator[str]:
    for name in steps_of(context.workflow):
        yield _line(nodes[name])


def _line(node: NodeResult) -> str:
    status = "succeeded" if node.status is NodeStatus.COMPLETED else node.status.value.replace("_", " ")
    why = str(node.error) if node.error is not None else node.reason
    said = f": {' '.join(why.split())}" if why and node.status is not NodeStatus.COMPLETED else ""
    return f"{node.name}: {status} ({node.duration_seconds:.1f} s){said}"


def _logs(context: Context, chosen: Sequence[str] | None) -> dict[str, str]:
    """Return the logs of steps by the names of their files, the ends of long ones."""
    found: dict[str, str] = {}
    left = MOST_OF_ALL_LOGS
    for name in steps_of(context.workflow) if chosen is None else chosen:
        for path in map(Path, dict.fromkeys(context.logs.files(name))):
            text = _end(path, min(left, MOST_OF_A_LOG))
            if text:
                found[path.name] = masked(text, context.secrets)
                left -= len(text)
    return found


def _end(path: Path, most: int) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            data = file.read(most)
    except OSError:
        return ""
    cut = f"[the last {most} of {size} bytes]\n" if size > most else ""
    return cut + data.decode("utf-8", "replace")
