"""One step while it is performed: its texts with their values, its environment, its logs, the processes that it may start.

Types of steps get a `Work` and ask it; it knows none of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import msgspec

from dagrid.attempt import current
from dagrid.commands import Exit, Launch
from dagrid.errors import StepError
from dagrid.workflow.context import Context, Logs, Spec, StepEnd
from dagrid.workflow.model import Record, Step, said
from dagrid.workflow.references import words
from dagrid.workflow.surroundings import for_backticks, for_reader, is_shell, shell_argv, strict
from dagrid.workflow.variables import (
    HELD,
    Expanding,
    Names,
    environment,
    expanded,
    fitting,
    for_program,
    with_arguments,
)
from dagrid.workflow.warm import Returned, call

CAPTURED = 1 << 20

CUT = b"[cut here: what was written before this try]\n"
"""With what a log begins that earlier tries had filled."""


class Work:
    """A step that is being performed.

    Attributes:
        step: as the file has it.
        context: what the steps of the run share.
        names: what names mean to it.
        folder: where they run.
        stdout: the file that gets its standard output, as `DAG_RUN_STEP_STDOUT_FILE`.
        stderr: the file that gets its standard error; the same one where both are one log.
        outs: all files that get its standard output: where both are one log and the output is read, also one without the errors.
        kept: where these two are found afterwards.
        ends: the ends of the steps that it may read, by name; those that did not end well are left out.
        stop_signal: what its processes get when it is stopped.
        values: those of steps that it waits for directly, by name, for the parameters of Python functions.
    """

    __slots__ = (
        "_begun",
        "_env",
        "context",
        "ends",
        "folder",
        "kept",
        "names",
        "outputs",
        "outs",
        "own",
        "shell",
        "spec",
        "stderr",
        "stdout",
        "step",
        "stop_signal",
        "values",
    )

    def __init__(self, context: Context, spec: Spec, ends: Sequence[StepEnd | None], extra: Mapping[str, str]) -> None:
        """Take a step.

        Args:
            context: of its run.
            spec: of the step.
            ends: of the steps that `spec.reads` names, in that order.
            extra: variables beside all others, such as DAG_RUN_STATUS.
        """
        self.context = context
        self.spec = spec
        self.step: Step = spec.step
        self.ends = {name: end for name, end in zip(spec.reads, ends, strict=True) if end is not None}
        self.values = {name: self.ends[name] for name in spec.values if name in self.ends}
        self.stdout, self.stderr = _files(context, context.logs, self.step.name)
        kept = context.kept
        if kept is not None:
            self.stdout, self.stderr = _unfilled(self.stdout, self.stderr, context.workflow.max_output_size)
        self.kept = (self.stdout, self.stderr) if kept is None else _files(context, kept, self.step.name)
        is_apart = self.stdout == self.stderr and bool(self.step.output or self.step.outputs)
        self.outs = [self.stdout, *([f"{self.stdout.removesuffix('.out')}.only"] if is_apart else ())]
        self._begun = (0, 0)
        if kept is not None or _may_be_there(context, self.stdout):
            limit = context.workflow.max_output_size
            begun = {path: _begun(path, limit) for path in {*self.outs, self.stderr}}
            self._begun = begun[self.outs[-1]], begun[self.stderr]
        self.outputs: dict[str, str] = {}
        for end in self.ends.values():
            self.outputs.update(end.outputs)
        special = {
            "DAG_RUN_STEP_NAME": self.step.name,
            "DAG_RUN_STEP_STDOUT_FILE": self.stdout,
            "DAG_RUN_STEP_STDERR_FILE": self.stderr,
            **extra,
        }
        if context.traceparent is not None:
            attempt = current()
            special["TRACEPARENT"] = context.traceparent(attempt.node, attempt.number)
        self.own: dict[str, str] = {}
        steps = {one: self.ends.get(name) or _unended(context, name) for one, name in spec.ids.items()}
        self.names = Names([special, context.given, self.own, self.outputs, context.variables, os.environ], steps)
        self._env: dict[str, str] | None = None
        self.shell: Sequence[str] = self.step.shell or context.shell
        self.folder = context.folder
        self.stop_signal: int = signal.SIGTERM

    @property
    def env(self) -> dict[str, str]:
        """The environment of its processes."""
        if self._env is None:
            self._env = environment(*self._layers, self.context.environment)
        return self._env

    @property
    def changes(self) -> dict[str, str | None]:
        """What its processes have in their environment in place of what those of all steps have; None, for what they have not."""
        said: dict[str, str | None] = dict.fromkeys(chain(*self._layers))
        said.update(environment(*self._layers))
        return said

    @property
    def _layers(self) -> Sequence[Mapping[str, str]]:
        """Its own layers of variables, of which the first that has a name wins; behind them come those of the run."""
        return self.names.layers[:4]

    def prepare(self) -> Generator[Launch, Exit, None]:
        """Find out the variables of the step, its folder, its shell, and what stops it."""
        for variable in self.step.env:
            self.own[variable.name] = yield from self.text(variable.value)
        if self.own:
            self._env = None
        if self.step.working_dir:
            said_folder = os.path.expanduser((yield from self.text(self.step.working_dir)))
            self.folder = os.path.normpath(os.path.join(self.context.folder, said_folder))
        if self.step.shell or self.context.workflow.shell:
            self.shell = yield from self.texts(self.shell)
        if self.step.signal_on_stop:
            self.stop_signal = _signal((yield from self.text(self.step.signal_on_stop)))

    def text(self, text: str) -> Expanding:
        """Return a text with all that it says: `yield from work.text(...)`."""
        return expanded(text, self.names, self.aside)

    def texts(self, texts: Sequence[str]) -> Generator[Launch, Exit, list[str]]:
        """Return several texts with all that they say."""
        found = []
        for text in texts:
            found.append((yield from self.text(text)))
        return found

    def plain(self, value: Any) -> Generator[Launch, Exit, Any]:
        """Return a plain value, such as a mapping of settings, with all that its texts say."""
        if isinstance(value, str):
            return (yield from self.text(value))
        if isinstance(value, Mapping):
            made = {}
            for name, one in value.items():
                made[name] = yield from self.plain(one)
            return made
        if isinstance(value, (list, tuple)):
            items = []
            for one in value:
                items.append((yield from self.plain(one)))
            return items
        return value

    def config(self) -> Generator[Launch, Exit, dict[str, Any]]:
        """Return the settings of the step's type, with all that their texts say."""
        found: dict[str, Any] = yield from self.plain(self.step.executor.config)
        return found

    def file(self, path: str) -> str:
        """Return the path of a file that the step names, from its folder."""
        return os.path.join(self.folder, os.path.expanduser(path))

    def aside(self, text: str, held: Mapping[str, str]) -> Launch:
        """Return a process for a text and variables that it needs beside those of the step, whose output is not the step's."""
        argv = shell_argv(for_backticks(self.shell), text)
        return Launch(
            argv,
            env=self._fitting(argv, {**self.env, **held}),
            cwd=self.folder,
            capture=CAPTURED,
            mask=self.context.secrets,
            grace=self.context.workflow.max_clean_up_time_sec,
        )

    def question(self, text: str) -> Launch:
        """Return a process for a command that is a condition."""
        written, held = for_reader(self.shell, text, self.names)
        argv = shell_argv(self.shell, written)
        return Launch(
            argv,
            env=self._fitting(argv, {**self.env, **held}),
            cwd=self.folder,
            mask=self.context.secrets,
            grace=self.context.workflow.max_clean_up_time_sec,
        )

    @property
    def program_shell(self) -> Sequence[str]:
        """The shell that reads commands and scripts: one that the step does not name itself ends where one of them fails."""
        return self.shell if self.step.shell else strict(self.shell)

    def shell_launch(self, text: str, words: Sequence[str] = ()) -> Generator[Launch, Exit, Launch]:
        """Return the process for a command of the step, which its shell reads, with words behind it that are as they are."""
        written, held = for_reader(self.shell, text, self.names)
        launch = yield from self.launch(self._called_with(written, words), env={**self.env, **held} if held else None)
        return launch if written == text else msgspec.structs.replace(launch, said=self._called_with(text, words))

    def _called_with(self, command: str, words: Sequence[str]) -> list[str]:
        if is_shell(self.shell):
            return shell_argv(self.program_shell, with_arguments(command, words))
        return [*shell_argv(self.program_shell, command), *words]

    def program_text(self, text: str) -> str:
        """Return a text for an interpreter that is no shell: what stands in `${...}` and is known is put in."""
        return for_program(text, self.names)

    def launch(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        done: Callable[[Exit], Any] | None = None,
    ) -> Generator[Launch, Exit, Launch]:
        """Return a process that is the work of the step: `yield from work.launch([...])`; yield that to start it.

        Args:
            argv: the program and its arguments.
            env: another environment than `work.env`.
            stdin: what it reads.
            done: makes what is sent in place of the `Exit`.
        """
        step, workflow = self.step, self.context.workflow
        named_out = yield from self.beside(step.stdout)
        named_err = yield from self.beside(step.stderr)
        out, err = [*self.outs, *named_out], [self.stderr, *named_err]
        return Launch(
            argv,
            env=self._fitting(argv, self.env if env is None else env),
            cwd=self.folder,
            stdin=stdin,
            stdout=out,
            stderr=err,
            merge=out == err,
            max_output=workflow.max_output_size,
            whole=[*named_out, *named_err],
            late=[] if self.spec.is_watched else [*self.outs, self.stderr],
            strict=self.is_strict,
            mask=self.context.secrets,
            stop_signal=self.stop_signal,
            grace=workflow.max_clean_up_time_sec,
            done=done,
        )

    def beside(self, said: str) -> Generator[Launch, Exit, list[str]]:
        """Return the file beside the log that gets an output too, if the step says one."""
        return [self.file((yield from self.text(said)))] if said else []

    def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Generator[Any, Any, Returned]:
        """Call an importable function in a warm Python process: `returned = yield from work.call(...)`.

        What the function prints goes to the logs of the step; what it raises fails the step: a `StepError` as it is, any other
        exception with its traceback in the log.
        """
        return call(self, fn, args, kwargs)

    @property
    def is_strict(self) -> bool:
        """Whether the step fails when it writes more than may be kept, for somebody relies on all of it."""
        reader: Record = self.context.workflow
        return bool(self.step.output or self.step.outputs or self.spec.is_read) or said(reader, "max_output_size")

    def _fitting(self, argv: Sequence[str], env: Mapping[str, str]) -> Mapping[str, str]:
        """Return an environment that a process of the step can have, with all that the step names in it."""
        return fitting(env, argv, lambda: words(self.step) | {name for name in env if name.startswith(HELD)})

    def _file_of(self, stream: str) -> tuple[str, int]:
        """Return the file of a stream, and where in it this attempt begins."""
        return (self.outs[-1], self._begun[0]) if stream == "stdout" else (self.stderr, self._begun[1])

    def size(self, stream: str = "stdout") -> int:
        """Return how many bytes the step has written by now, in this attempt."""
        path, begun = self._file_of(stream)
        return _size(path) - begun

    def written(self, stream: str = "stdout") -> str:
        """Return what the step has written by now, in this attempt."""
        path, begun = self._file_of(stream)
        try:
            with open(path, "rb") as file:
                file.seek(begun)
                return file.read(self.context.workflow.max_output_size + CAPTURED).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""


def _files(context: Context, logs: Logs, step: str) -> tuple[str, str]:
    """Return the files of what a step writes."""
    out, err = logs.files(step)
    return out, out if context.workflow.log_output == "merged" else err


def _signal(name: str) -> int:
    try:
        return signal.Signals[name]
    except KeyError:
        raise StepError(f"There is no signal {name!r}; write one such as SIGTERM.", retryable=False) from None


def _unended(context: Context, step: str) -> StepEnd:
    """Return what is known of a step that has left nothing: it did not run, was stopped, or is under way.

    On a worker its files are none of those that are there.
    """
    stdout, stderr = _files(context, context.logs, step) if context.kept is None else (os.devnull, os.devnull)
    return StepEnd(code=None, stdout=stdout, stderr=stderr)


def _may_be_there(context: Context, out: str) -> bool:
    """Return whether the files of a step may be there when it begins; nobody has to look for those of most."""
    folder, _, name = out.rpartition(os.sep)
    if context.begun is None:
        context.begun = {file.rpartition(".")[0] for file in _names_in(folder)}
    file = name.removesuffix(".out")
    if file in context.begun:
        return True
    context.begun.add(file)
    return False


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _begun(path: str, limit: int) -> int:
    """Return how much is in a log; one that earlier tries have filled is emptied, for tries without end would fill the disk."""
    size = _size(path)
    if size < limit:
        return size
    with suppress(OSError), open(path, "wb") as file:  # who cannot write it is told when the step does
        return file.write(CUT)
    return size


def _unfilled(out: str, err: str, limit: int) -> tuple[str, str]:
    """Return the files of a try on a worker: others than those that earlier tries have filled, for what is in these was sent.

    They stand in folders 1, 2, ... below. The history takes them for what somebody else writes of the step, and begins its log
    anew.
    """
    above, name = os.path.split(out)
    other, number = os.path.basename(err), 0
    while _size(out) >= limit or _size(err) >= limit:
        number += 1
        folder = os.path.join(above, str(number))
        os.makedirs(folder, exist_ok=True)
        out, err = os.path.join(folder, name), os.path.join(folder, other)
    return out, err


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
