"""What the steps of a workflow find around them on a worker: their context, made there of what only the run knows.

What is the worker's own (its PATH and HOME, its labels, its folders) is taken from there. Secrets are in the kit, which is never
kept with the run, and in no file on its way.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from dagrid.commands import Server
from dagrid.errors import InvalidSettingError, TransferError, WorkflowError
from dagrid.history import step_files
from dagrid.service.parcels import Packer, Parcel, unpack
from dagrid.service.worker.folders import FILES, LOGS
from dagrid.workflow import File
from dagrid.workflow.context import CURRENT, Context, Spec, StepEnd, Traceparents
from dagrid.workflow.known import Known
from dagrid.workflow.model import Handlers, Workflow, place, said
from dagrid.workflow.surroundings import default_shell, handed_secrets, passed
from dagrid.workflow.variables import environment

SEEN = "seen"
LOG_FILE = "DAG_RUN_LOG_FILE"
TRACEPARENT = "TRACEPARENT"
KEPT = 32
"""So many documents are known as bytes, and as they were read."""

_known: Known[bytes] = Known(KEPT)


@dataclass(frozen=True, slots=True)
class LogFolder:
    """Where the logs of a run are, see `dagrid.workflow.context.Logs`."""

    run_id: str
    folder: str
    log: Path

    def files(self, step: str) -> tuple[str, str]:
        return step_files(self.folder, step)


@dataclass(frozen=True, slots=True, repr=False)
class WorkflowKit:
    """Makes the context of a run on a worker, see `dagrid.ports.Kit`.

    Args:
        workflow: the document, without its steps, pickled once for all its runs.
        name: of its file.
        kept: where the logs are in the end.
        parcel: the SHA-256 of the list of files that it comes with.
        contents: what must be there.
        folder: where steps run, from the folder of the files; an absolute one is one of the worker's.
        given, variables, secrets, traceparent, is_resumed: as in the context.
        caller: the traceparent of all that is no step's.
    """

    workflow: bytes
    name: str
    kept: LogFolder
    parcel: bytes
    contents: tuple[bytes, ...]
    folder: str
    given: Mapping[str, str]
    variables: Mapping[str, str]
    secrets: tuple[str, ...]
    traceparent: Traceparents | None
    is_resumed: bool
    caller: str

    def arrive(self, folder: Path, content: Callable[[bytes], Path], labels: Mapping[str, str]) -> Around:
        """Make the context on a worker, with the files in place."""
        workflow = _loaded(self.workflow)
        files = folder / FILES
        unpack(files, self.parcel, content)
        own = LogFolder(self.kept.run_id, os.fspath(folder / LOGS), folder / "run.log")
        variables = {**self.variables, LOG_FILE: os.fspath(own.log)}
        caller = {TRACEPARENT: self.caller} if self.caller else {}
        base = os.fspath(files)
        handed = passed(os.environ)
        return Around(
            Context(
                file=File(name=self.name, folder=base, text="", main=workflow, locals={}),
                workflow=workflow,
                logs=own,
                kept=self.kept,
                given=self.given,
                variables=variables,
                environment=environment(caller, variables, handed),
                secrets=(*self.secrets, *handed_secrets(handed)),
                folder=os.path.normpath(os.path.join(base, self.folder)),
                shell=workflow.shell or default_shell(os.environ),
                labels=labels,
                traceparent=self.traceparent,
                is_resumed=self.is_resumed,
            )
        )


class Around:
    """A run on a worker, see `dagrid.ports.Surroundings`."""

    def __init__(self, context: Context) -> None:
        self.context = context

    @property
    def path(self) -> tuple[str, ...]:
        """Functions of steps are found by the processes that run them."""
        return ()

    @property
    def folder(self) -> str:
        """Each step says where it runs."""
        return ""

    @property
    def servers(self) -> Collection[Server]:
        """What the warm processes of the run were started with here."""
        return self.context.servers.values()

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls one in the context of the run."""
        return partial(_called, self.context, fn)

    def close(self) -> None:
        """Remove the container that all steps of the run have here, if they have one."""
        if self.context.workflow.container is not None:
            from dagrid.workflow.steps.docker import remove  # few workflows have a container

            remove(self.context)


def kit_of(context: Context, packer: Packer, without: tuple[str, ...] = ()) -> tuple[WorkflowKit, Parcel]:
    """Return the kit of a run, and what it needs to be there before.

    Args:
        context: of the run.
        packer: packs the files.
        without: paths that do not travel, beside those that hold secrets.

    Raises:
        WorkflowError: there are too many files, one cannot be read, or one that is named is not there.
    """
    workflow, file = context.workflow, context.file
    base = file.folder
    try:
        parcel = packer.packed(base, workflow.files if said(workflow, "files") else None, {*context.at_home, *without})
    except (InvalidSettingError, TransferError) as error:
        raise WorkflowError([file.problem(place(workflow, "files"), str(error))]) from error
    above = base or os.getcwd()  # a text has no folder, and its steps run where its run is
    inside = context.folder == above or context.folder.startswith(above + os.sep)
    logs = context.logs
    kit = WorkflowKit(
        workflow=_dumped(workflow),
        name=file.name,
        kept=LogFolder(logs.run_id, os.path.dirname(logs.log), logs.log),
        parcel=parcel.list,
        contents=parcel.contents,
        folder=os.path.relpath(context.folder, above) if inside else context.folder,
        given=context.given,
        variables=context.variables,
        secrets=context.secrets,
        traceparent=context.traceparent,
        is_resumed=context.is_resumed,
        caller=context.environment.get(TRACEPARENT, ""),
    )
    return kit, parcel


def _dumped(workflow: Workflow) -> bytes:
    """Return a document without its steps as bytes."""
    known = _known.get(workflow)
    if known is not None:
        return known
    bare = msgspec.structs.replace(workflow, steps=(), handler_on=Handlers())
    return _known.keep(pickle.dumps(bare, pickle.HIGHEST_PROTOCOL), workflow)


@lru_cache(KEPT)
def _loaded(data: bytes) -> Workflow:
    workflow: Workflow = pickle.loads(data)
    return workflow


def _called(context: Context, fn: Callable[..., Any], spec: Spec, *ends: StepEnd | None, **more: Any) -> Any:
    CURRENT.set(context)  # who calls has a context of its own for each attempt
    return fn(spec, *[_here(context, end) for end in ends], **more)


def _here(context: Context, end: StepEnd | None) -> StepEnd | None:
    """Return the end of a step with the files of its output, where another step looks into them, on this machine."""
    if end is None or not end.written:
        return end
    paths = {}
    for stream, data in end.written.items():
        folder = context.logs.log.with_name(SEEN) / sha256(data).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / os.path.basename(end.stdout if stream == "stdout" else end.stderr)
        path.write_bytes(data)
        paths[stream] = os.fspath(path)
    return msgspec.structs.replace(end, **paths)
