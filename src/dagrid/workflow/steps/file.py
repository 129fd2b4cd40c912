"""Files copied, moved, deleted, made, written, read and listed, without a shell; what could do harm has bounds."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dagrid.errors import StepError, hint, nearest
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps import filing
from dagrid.workflow.steps.settings import Found, Setting, Settings, at, is_late
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

OPERATIONS = {
    "copy": ("source", "destination"),
    "move": ("source", "destination"),
    "delete": ("source",),
    "mkdir": ("source",),
    "write": ("source",),
    "read": ("source",),
    "list": ("source",),
    "stat": ("source",),
}
"""What can be done, and the settings that it needs."""
SETTINGS = Settings(
    "file",
    [
        Setting("operation", "text", "What is done, where `command` does not say it.", choices=tuple(OPERATIONS)),
        Setting(
            "source",
            "texts",
            "The files or folders; globs are understood by all but mkdir and write.",
            aliases=("path",),
        ),
        Setting("destination", "text", "Where copies and moved files go; a folder if it ends in `/` or is one."),
        Setting("content", "text", "What is written; `script` may hold it too."),
        Setting("mode", "text", "The rights of what is written or made, such as 0640."),
        Setting("overwrite", "flag", "What is there already is replaced.", False),
        Setting("append", "flag", "What is written goes to the end of the file.", False),
        Setting("recursive", "flag", "Folders are copied, deleted or listed with all that is in them.", False),
        Setting("create_dirs", "flag", "Folders above the destination are made.", False),
        Setting("missing_ok", "flag", "It is no failure if there is nothing to delete, or to tell of.", False),
        Setting("pattern", "text", "Only paths that match this glob are listed.", ""),
        Setting("include_dirs", "flag", "Folders are listed too.", False),
        Setting("follow_symlinks", "flag", "A link is taken for what it points to, by copy and stat.", False),
        Setting(
            "format",
            "text",
            "What `read` prints: the file as it is, or JSON with its path and size.",
            "raw",
            ("raw", "json"),
        ),
        Setting("max_bytes", "count", "`read` fails for a larger file; 0 is no limit.", 0),
        Setting("limit", "count", "More files than that are neither moved nor deleted; 0 is no limit.", 10_000),
        Setting("dry_run", "flag", "Says what would be done.", False),
    ],
)
"""The settings."""


_ONE_FILE = "`write` writes one file; make a step of each"


class File:
    """A step of type file."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step)
        operation = step.command[0].strip() if step.command else SETTINGS.says(step, "operation")
        if not operation:
            yield place(step), f"a step of type file needs an operation; write command: one of {', '.join(OPERATIONS)}"
        elif step.command and not is_late(operation) and operation not in OPERATIONS:
            question = hint(nearest(operation, OPERATIONS))
            yield (
                place(step, "command"),
                f"there is no operation {operation[:40]!r}.{question} There are: {', '.join(OPERATIONS)}",
            )
        for name in OPERATIONS.get(str(operation), ()):
            if SETTINGS.says(step, name) is None:
                spelled = "path or source" if name == "source" and operation not in ("copy", "move") else name
                yield at(step), f"{operation} needs {spelled}; write {spelled.partition(' ')[0]}: ... in the config"
        source = SETTINGS.says(step, "source")
        if operation == "write" and isinstance(source, list) and len(source) > 1:
            yield at(step), _ONE_FILE
        if operation == "write" and SETTINGS.says(step, "content") is None and not step.script:
            yield at(step), "it is not said what is written; write content: ... in the config, or a script"
        mode = SETTINGS.says(step, "mode")
        if mode is not None and not is_late(mode) and filing.mode_of(str(mode)) is None:
            yield at(step, "mode"), f"'mode' must be rights in octal, such as '0640', not {str(mode)[:20]!r}"

    def perform(self, work: Work) -> Generator[Any, Any, Returned]:
        """Do it."""
        step = work.step
        config = SETTINGS.read((yield from work.config()))
        operation = (yield from work.text(step.command[0])).strip() if step.command else config["operation"]
        for name in OPERATIONS.get(operation or "", ()):
            if not config[name]:
                raise StepError(f"The operation {operation} needs {name!r}.", retryable=False)
        sources = [work.file(path) for path in config["source"] or ()]
        target = config["destination"]
        if target is not None:
            target = work.file(target)
        mode = filing.mode_of(config["mode"]) if config["mode"] else None
        if config["mode"] and mode is None:
            raise StepError(f"'mode' must be rights in octal, such as '0640', not {config['mode']!r}.", retryable=False)
        takes = {
            name: config[name] for name in ("recursive", "overwrite", "create_dirs", "dry_run", "limit", "missing_ok")
        }
        copying = {name: takes[name] for name in ("recursive", "overwrite", "create_dirs", "dry_run")}
        follow = config["follow_symlinks"]
        if operation == "copy":
            return (yield from work.call(filing.copy, sources, target, follow=follow, **copying))
        if operation == "move":
            return (yield from work.call(filing.move, sources, target, limit=takes["limit"], **copying))
        if operation == "delete":
            deleting = {name: takes[name] for name in ("recursive", "missing_ok", "limit", "dry_run")}
            return (yield from work.call(filing.delete, sources, work.folder, **deleting))
        if operation == "mkdir":
            return (yield from work.call(filing.mkdir, sources, mode=mode, dry_run=takes["dry_run"]))
        if operation == "write":
            if len(sources) > 1:
                raise StepError(f"{_ONE_FILE}.", retryable=False)
            content = (yield from work.text(step.script)) if step.script else config["content"] or ""
            return (
                yield from work.call(
                    filing.write,
                    sources[0],
                    content,
                    mode=mode,
                    append=config["append"],
                    **{name: takes[name] for name in ("overwrite", "create_dirs", "dry_run")},
                )
            )
        if operation == "read":
            return (
                yield from work.call(filing.read, sources, most=config["max_bytes"], whole=config["format"] == "json")
            )
        if operation == "list":
            listing = {"recursive": takes["recursive"], "pattern": config["pattern"], "folders": config["include_dirs"]}
            return (yield from work.call(filing.show, sources, **listing))
        if operation == "stat":
            return (yield from work.call(filing.stat, sources, follow=follow, missing_ok=takes["missing_ok"]))
        raise StepError(f"There is no operation {operation!r}. There are: {', '.join(OPERATIONS)}.", retryable=False)
