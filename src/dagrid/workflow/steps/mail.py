"""Mails as steps: who gets one, what it says, and what comes with it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from dagrid.errors import StepError
from dagrid.workflow.letters import DEFAULT_PORT, Letter, Server, send
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps.settings import Found, Setting, Settings, duration
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

SETTINGS = Settings(
    "mail",
    [
        Setting("from", "text", "The sender."),
        Setting("to", "texts", "Who gets it: one address or a list."),
        Setting("cc", "texts", "Who gets a copy.", ()),
        Setting("bcc", "texts", "Who gets a copy without the others knowing.", ()),
        Setting("subject", "text", "The subject.", ""),
        Setting("message", "text", "What it says; `script` may say it too.", "", aliases=("body",)),
        Setting("html", "flag", "What it says is HTML.", False),
        Setting("attachments", "texts", "Files that come with it.", ()),
        Setting(
            "smtp", "table", "The server: host, port, username, password, timeout; without it that of the workflow."
        ),
    ],
)
"""The settings."""

SMTP = Settings(
    "mail, `smtp`",
    [
        Setting("host", "text", "The server."),
        Setting("port", "port", "Its port; 465 is TLS from the beginning.", DEFAULT_PORT),
        Setting("username", "text", "Who logs in.", ""),
        Setting("password", "text", "The password; take it from a secret.", ""),
        Setting("timeout", "seconds", "How long it may be silent.", 30.0),
    ],
)
"""What `smtp` of a step holds."""


class Mail:
    """A step of type mail."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step, "from", "to")
        yield from SMTP.check_inner(step, "smtp", SETTINGS.says(step, "smtp"))
        if step.script and SETTINGS.says(step, "message") is not None:
            yield place(step, "script"), "what the mail says is in the settings too, as `message`; keep one of the two"
        if step.command:
            yield place(step, "command"), "a step of type mail runs no command; remove it"

    def perform(self, work: Work) -> Generator[Any, Any, Returned]:
        """Send the mail."""
        config = SETTINGS.read((yield from work.config()))
        if not config["from"] or not config["to"]:
            raise StepError("A mail needs a sender and somebody who gets it; write `from` and `to`.", retryable=False)
        server = yield from _server(work, config["smtp"])
        text = (yield from work.text(work.step.script)) if work.step.script else config["message"]
        letter = Letter(
            sender=config["from"],
            to=config["to"],
            cc=config["cc"],
            bcc=config["bcc"],
            subject=config["subject"],
            text=text,
            html=config["html"],
            attachments=[work.file(path) for path in config["attachments"]],
        )
        return (yield from work.call(send, server, letter))


def _server(work: Work, own: Mapping[str, Any] | None) -> Generator[Any, Any, Server]:
    """Return the server that a step, or its workflow, names."""
    said = own
    if said is None:
        smtp = work.context.workflow.smtp
        found = {"host": smtp.host, "port": smtp.port, "username": smtp.username, "password": smtp.password}
        said = yield from work.plain({name: value for name, value in found.items() if value not in ("", None)})
    config = SMTP.read(said)
    if not config["host"]:
        raise StepError(
            "No server takes the mail; write smtp: {host: ..., port: ...} in the workflow, or in the settings of the step.",
            retryable=False,
        )
    timeout = duration(config["timeout"]) or 30.0
    return Server(config["host"], config["port"], config["username"], config["password"], timeout)
