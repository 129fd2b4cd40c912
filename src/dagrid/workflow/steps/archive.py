"""Archives made, taken apart and listed: zip, tar, and tar compressed; nothing is written outside of the folder that is said."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from typing import Any

from dagrid.errors import StepError, hint, nearest
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps.archiving import FORMATS, create, extract, format_of, show
from dagrid.workflow.steps.settings import Found, Setting, Settings, at, is_late
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

OPERATIONS = ("create", "extract", "list")
SETTINGS = Settings(
    "archive",
    [
        Setting("operation", "text", "create, extract or list, where `command` does not say it.", choices=OPERATIONS),
        Setting("source", "texts", "What is packed (files, folders, globs), or the archive."),
        Setting("destination", "text", "The archive that is made, or the folder for what is in it.", ""),
        Setting("format", "text", "The format; by default the ending of the file says it.", "", choices=tuple(FORMATS)),
        Setting("compression_level", "number", "From 0 to 9 (zst: 19); -1 is the usual one.", -1),
        Setting(
            "overwrite", "flag", "Files that are there already are replaced when an archive is taken apart.", False
        ),
        Setting("strip_components", "count", "How many folders are taken off the paths.", 0),
        Setting("preserve_paths", "flag", "`false` leaves only the names of the files.", True),
        Setting("include", "texts", "Only paths that match one of these globs.", ()),
        Setting("exclude", "texts", "No paths that match one of these globs.", ()),
        Setting("follow_symlinks", "flag", "What links point to is packed in their place.", False),
        Setting("password", "text", "Opens a zip.", ""),
        Setting("verify_integrity", "flag", "The whole archive is read first.", False),
        Setting("continue_on_error", "flag", "An entry that cannot be had is said and left out.", False),
        Setting("dry_run", "flag", "Says what would be done.", False),
        Setting("verbose", "flag", "Each path is said on the standard error.", False),
    ],
)
"""The settings."""


class Archive:
    """A step of type archive."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step, "source")
        operation = step.command[0].strip() if step.command else SETTINGS.says(step, "operation")
        if not operation:
            yield place(step), "a step of type archive does one of create, extract and list; write command: extract"
        elif step.command and not is_late(operation) and operation not in OPERATIONS:
            yield (
                place(step, "command"),
                f"there is no operation {operation[:40]!r}.{hint(nearest(operation, OPERATIONS))} "
                f"There are: {', '.join(OPERATIONS)}",
            )
        destination = SETTINGS.says(step, "destination")
        if operation == "create":
            if not destination:
                yield at(step), "an archive that is made needs a name; write destination: FILE in the config"
            elif not SETTINGS.says(step, "format") and not is_late(destination) and not format_of(str(destination)):
                yield (
                    at(step, "destination"),
                    f"the ending of {destination!r} is no format; there are: {', '.join(FORMATS)}",
                )
            if SETTINGS.says(step, "password"):
                yield at(step, "password"), "archives are made without passwords; `password` opens a zip"

    def perform(self, work: Work) -> Generator[Any, Any, Returned]:
        """Do it."""
        config: Mapping[str, Any] = SETTINGS.read((yield from work.config()))
        operation = (yield from work.text(work.step.command[0])).strip() if work.step.command else config["operation"]
        sources = [os.path.expanduser(path) for path in config["source"] or ()]
        destination = os.path.expanduser(config["destination"])
        if operation not in OPERATIONS or not sources:
            raise StepError(
                f"An archive needs one of {', '.join(OPERATIONS)}, and a `source`; this is {operation!r}.",
                retryable=False,
            )
        common = {
            name: config[name]
            for name in ("include", "exclude", "strip_components", "preserve_paths", "verbose", "dry_run")
        }
        if operation == "create":
            return (
                yield from work.call(
                    create,
                    sources,
                    destination,
                    format=config["format"] or format_of(destination),
                    level=config["compression_level"],
                    follow=config["follow_symlinks"],
                    tolerant=config["continue_on_error"],
                    **common,
                )
            )
        if len(sources) > 1:
            raise StepError("`source` is one archive when it is taken apart or listed.", retryable=False)
        read = {"format": config["format"], "password": config["password"], "verify": config["verify_integrity"]}
        if operation == "list":
            return (
                yield from work.call(show, sources[0], include=config["include"], exclude=config["exclude"], **read)
            )
        return (
            yield from work.call(
                extract,
                sources[0],
                destination or ".",
                overwrite=config["overwrite"],
                tolerant=config["continue_on_error"],
                **common,
                **read,
            )
        )
