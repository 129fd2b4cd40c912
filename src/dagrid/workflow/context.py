"""What the steps of one run share, and what each leaves: in memory only, so that nothing secret is ever recorded with a run.

The context of a run is found through a context variable by whatever performs its steps. It knows no engine and starts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

import msgspec

from dagrid.commands import Server
from dagrid.workflow.files import File
from dagrid.workflow.model import Step, Workflow


class StepEnd(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value of a step's node: how it ended and what it left. Texts are masked.

    Args:
        code: its exit code; None if it has none.
        outputs: its output variables.
        hidden: the names of those that are not among the outputs of the run.
        apart: the names of those that say something else than `value`: a part of it, or what a person has entered.
        stdout: the file that has its standard output.
        stderr: the file that has its standard error.
        value: what a Python function returned, pickled; None if the step has no such value.
        written: what is in the files of its output, "stdout" or "stderr", that steps on other machines look into.
    """

    code: int | None = 0
    outputs: dict[str, str] = {}
    hidden: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    stdout: str = ""
    stderr: str = ""
    value: bytes | None = None
    written: dict[str, bytes] = {}

    def __reduce__(self) -> tuple[Callable[[bytes], StepEnd], tuple[bytes]]:
        """A worker is sent all ends before a step with it, for which this is several times quicker."""
        return _end_of, (_ENCODER.encode(self),)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[StepEnd] = msgspec.msgpack.Decoder(StepEnd)


def _end_of(data: bytes) -> StepEnd:
    return _DECODER.decode(data)


Selector = dict[str, str] | str
"""Labels that a worker must have, or "local" for what must run where its run is."""


class Spec(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the task of a step's node is called with, before the ends of other steps.

    Args:
        step: as the file has it.
        reads: the names of the steps whose ends it may need, in the order in which they come.
        ids: the names of steps by their ids, for those among them that have one.
        values: those among them that it waits for directly, whose Python values it may take by their names.
        selector: the labels that its worker must have, for the steps of a workflow that it calls; "local" is where the run is.
        is_first: whether nothing comes before it.
        is_read: whether other steps look into the files of its output.
        shown: those files, where these steps are on other machines.
        is_watched: whether it names them itself, so that they must be there before it has written anything.
    """

    step: Step
    reads: tuple[str, ...] = ()
    ids: dict[str, str] = {}
    values: tuple[str, ...] = ()
    selector: Selector = {}
    is_first: bool = False
    is_read: bool = False
    shown: tuple[str, ...] = ()
    is_watched: bool = False


class Logs(Protocol):
    """The folder of a run, as far as steps are concerned."""

    @property
    def run_id(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def files(self, step: str) -> tuple[str, str]:
        """Return the files of what a step writes to its standard output and to its standard error."""
        ...


Traceparents = Callable[[str, int], str]
"""Returns the traceparent of an attempt (from 1) of a step, for what it starts; it can be pickled."""


class Child(msgspec.Struct, frozen=True):
    """A sub-workflow that a step runs.

    Args:
        call: its name.
        params: the values of its parameters.
        run_id: its id.
        traceparent: that of the step.
        selector: what the step wants of workers, which goes for all that it calls.
        waited: whether the step goes on after a person was asked in it, so that its end counts, whatever it is.
    """

    call: str
    params: tuple[str, ...]
    run_id: str
    traceparent: str = ""
    selector: Selector = {}
    waited: bool = False


class Running(Protocol):
    """A sub-workflow under way."""

    def wait(self) -> ChildEnd:
        """Wait for its end, or until nothing can happen in it before a person answers: then it is let go of."""
        ...

    def cancel(self) -> None:
        """Stop it."""
        ...


StartChild = Callable[[Child], Running]
"""Starts a sub-workflow, or goes on with it where an earlier process of the same run had begun it."""


class Question(msgspec.Struct, frozen=True):
    """A step of a run that waits for a person, and what it says."""

    run: str
    step: str
    prompt: str = ""


class Asked(msgspec.Struct, frozen=True):
    """What a step leaves that waits for a person who is asked in what it has called."""

    questions: tuple[Question, ...]


class ChildEnd(msgspec.Struct, frozen=True):
    """What became of a sub-workflow; `params` are those that it ran with, `reason` says why it did not succeed.

    One that is "waiting" has not ended; `questions` say for what.
    """

    name: str
    run_id: str
    status: str
    params: str = ""
    outputs: dict[str, str] = {}
    reason: str = ""
    questions: tuple[Question, ...] = ()


class Context(msgspec.Struct, kw_only=True):
    """What the steps of a run share.

    Args:
        file: where the workflow stands.
        workflow: the document that runs.
        logs: the folder of the run.
        kept: where those logs are found afterwards, if that is elsewhere.
        given: values of parameters that whoever started the run gave; nothing goes before them.
        variables: all other variables of the run: its parameters, its `env`, its dotenv files, its secrets.
        environment: what the processes of all steps have in their environment, the variables included.
        secrets: texts that are masked wherever they would be shown.
        at_home: the files with secrets and variables, also those of what called the run, which no worker gets.
        folder: where steps run.
        shell: the words that are called with `-c` and a command, without the `-c`.
        labels: those of this machine.
        start_child: starts a sub-workflow.
        servers: what its warm processes are started with, by their folders, once one is.
        asked: what all that is asked of these has alike, once one was.
        selector: the labels that whatever called the run wants of the workers of all steps, see `Spec`.
        traceparent: None in a run without traces.
        note: writes what is no event of the run into its log.
        begun: the files of steps, without their endings, that may be there: those that were when the first step began here, and
            those of all steps that have begun since.
    """

    file: File
    workflow: Workflow
    logs: Logs
    given: Mapping[str, str] = {}
    variables: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()
    at_home: tuple[str, ...] = ()
    folder: str = ""
    shell: tuple[str, ...] = ("/bin/sh",)
    labels: Mapping[str, str] = {}
    start_child: StartChild | None = None
    servers: dict[str, Server] = {}
    asked: bytes | None = None
    selector: Selector = {}
    traceparent: Traceparents | None = None
    note: Callable[[str], object] = logging.getLogger("dagrid").warning
    is_resumed: bool = False
    kept: Logs | None = None
    begun: set[str] | None = None

    @property
    def name(self) -> str:
        """What the workflow is called."""
        return self.workflow.name


CURRENT: ContextVar[Context] = ContextVar("dagrid_workflow")
"""The context of the run whose steps are performed here."""
