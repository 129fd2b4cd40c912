"""The context of a run, made before it begins: parameters, variables, dotenv files, secrets, what processes find around them.

It reads files and runs the commands in backticks that texts of the workflow ask for, one after the other; it knows no engine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from dagrid.commands import Exit, Launch
from dagrid.config.table import VARIABLES_OF_ONE_CALL
from dagrid.errors import ParameterError, Problem, StepError, WorkflowError
from dagrid.masking import masked, passwords
from dagrid.workflow import parameters
from dagrid.workflow.context import Context, Logs, Selector, StartChild
from dagrid.workflow.dotenv import read_dotenv
from dagrid.workflow.expressions import Reference, evaluate, parse
from dagrid.workflow.files import File
from dagrid.workflow.model import Precondition, Record, Secret, Variable, Workflow, place
from dagrid.workflow.parameters import Argument, compiled
from dagrid.workflow.problems import Place, Problems
from dagrid.workflow.variables import Asking, Names, environment, expanded, fitting, for_program, for_shell

PASSED = frozenset(("PATH", "HOME", "LANG", "TZ", "SHELL", "TERM", "USER", "LOGNAME", "TMPDIR", "TRACEPARENT"))
PASSED_PREFIXES = ("DAGRID_", "DAGU_", "DAG_", "LC_")
"""What of the environment of dagrid itself the processes of steps get; all else only by `env`."""
NOT_PASSED = ("_KEY", "_TOKEN", "_PASSWORD", "_SECRET")
PATIENCE = 60.0
"""How many seconds a command has that runs before the steps."""
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash", "busybox")

_OF_A_PLACE = frozenset({"DAG_RUN_ID", "DAG_RUN_LOG_FILE"})
_T = TypeVar("_T")
_QUOTE_FOR_SHELLS = "'\"'\"'"
"""A single quotation mark in single quotes, as `shlex` writes it."""


def surround(
    file: File,
    workflow: Workflow,
    logs: Logs,
    given: Sequence[str] | str = (),
    *,
    fixed: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    start_child: StartChild | None = None,
    selector: Selector | None = None,
    mask: Sequence[str] = (),
    at_home: Sequence[str] = (),
) -> Context:
    """Return the context of a run.

    Args:
        file: where the workflow stands.
        workflow: the document that runs.
        logs: the folder of the run.
        given: values of parameters, as `dagrid.workflow.parameters.apply` takes them.
        fixed: the values of parameters as an earlier process of the same run found them; they are not found anew.
        labels: those of this machine.
        start_child: starts sub-workflows.
        selector: what whoever called the run wants of workers.
        mask: what is secret beside the secrets of the workflow.
        at_home: the files that no worker gets beside those of the workflow.

    Raises:
        ParameterError: parameters that are missing, unknown or not what they must be.
        WorkflowError: a secret or a dotenv file that cannot be read, a command in backticks that fails.
    """
    maker = _Maker(file, workflow)
    special = {"DAG_NAME": workflow.name, "DAG_RUN_ID": logs.run_id, "DAG_RUN_LOG_FILE": os.fspath(logs.log)}
    secrets = dict(maker.secrets())
    system = os.environ
    handed = passed(system)
    own = {one for value in secrets.values() for one in _parts(value)}
    hidden = tuple(sorted(own.union(handed_secrets(handed), mask), key=len, reverse=True))
    maker.mask = hidden
    dotenv = maker.dotenv([special, secrets, system])
    arguments = parameters.apply(workflow.params, given)
    literal = {one.name: one.value for one in arguments if one.is_literal}
    known = maker.values(maker.before_env(arguments), [special, secrets, dotenv, system], fixed or {})
    variables = maker.env(workflow.env, [known, special, secrets, dotenv, system])
    values = maker.values(arguments, [special, secrets, variables, dotenv, system], {**(fixed or {}), **known})
    maker.check([one for one in arguments if one.name not in (fixed or {})], values)
    everything = {**dotenv, **variables, **secrets, **values}
    folder = maker.folder(Names([special, everything, system]))
    return Context(
        file=file,
        workflow=workflow,
        logs=logs,
        given=literal,
        variables={**everything, **special},
        environment=environment(special, everything, handed),
        secrets=hidden,
        at_home=tuple({*at_home, *maker.at_home()}),
        folder=folder,
        shell=workflow.shell or default_shell(system),
        labels=labels or {},
        start_child=start_child,
        selector=selector or {},
        is_resumed=fixed is not None,
    )


def passed(system: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment the processes of steps get."""
    return {
        name: system[name]
        for name in system
        if name in PASSED
        or (name.startswith(PASSED_PREFIXES) and not name.endswith(NOT_PASSED) and name not in VARIABLES_OF_ONE_CALL)
    }


def handed_secrets(handed: Mapping[str, str]) -> set[str]:
    """Return what is secret in an environment although it is passed on: the passwords in URLs, such as that of a store."""
    return {one for value in handed.values() for password in passwords(value) for one in _parts(password)}


def default_shell(system: Mapping[str, str]) -> tuple[str, ...]:
    """Return the user's shell if it is one that understands what is written for sh, else sh."""
    found = system.get("SHELL", "")
    return (found,) if found.rpartition("/")[2] in SHELLS else ("/bin/sh",)


def shell_argv(shell: Sequence[str], text: str) -> list[str]:
    """Return what a process is started with, so that a shell reads a text; `-c` may stand among its words already."""
    return [*shell, text] if shell[-1] == "-c" else [*shell, "-c", text]


def strict(words: Sequence[str]) -> Sequence[str]:
    """Return the words of a shell that ends with the first of its commands that fails; what is no shell stays as it is."""
    if words[0].rpartition("/")[2] not in SHELLS or "-e" in words:
        return words
    return [*words[:-1], "-e", "-c"] if words[-1] == "-c" else [*words, "-e"]


def is_shell(words: Sequence[str]) -> bool:
    """Return whether a shell is among the words that are called with a command, such as `nice bash -c`."""
    return any(word.rpartition("/")[2] in SHELLS for word in words)


def for_backticks(words: Sequence[str]) -> Sequence[str]:
    """Return the words of a shell for what is in backticks: those that are called with commands, unless they are no shell."""
    return words if is_shell(words) else default_shell(os.environ)


def for_reader(words: Sequence[str], text: str, names: Names) -> tuple[str, dict[str, str]]:
    """Return a command for what is called with it, a shell or another interpreter, and what that needs beside the variables."""
    return for_shell(text, names) if is_shell(words) else (for_program(text, names), {})


def holds(
    condition: Precondition, names: Names, launch: Asking, command: Callable[[str], Launch]
) -> Generator[Launch, Exit, str]:
    """Return why a condition does not hold, empty if it does; as a generator, see `variables`.

    Args:
        condition: of a workflow or a step.
        names: what names mean.
        launch: makes a process of a command in backticks.
        command: makes one of a condition that is a command.

    Raises:
        StepError: it cannot be known.
    """
    if condition.expected is None:
        shown = condition.condition
        end = yield command(shown)
        found = end.code == 0
        why = f"{_short(shown)} exited with code {end.code}"
    else:
        value = (yield from expanded(condition.condition, names, launch)).strip()
        wanted = yield from expanded(condition.expected, names, launch)
        found = _matches(value, wanted)
        why = f"{_short(condition.condition)} is {_short(value)}, not {_short(condition.expected)}"
    if found != condition.negate:
        return ""
    return f"{_short(condition.condition)} holds, and must not" if condition.negate else why


def matches(value: str, wanted: str) -> bool:
    """Return whether a value is what is wanted: the same text, or, behind `re:`, somewhere in it the regular expression."""
    if wanted.startswith("re:"):
        return compiled(wanted[3:]).search(value) is not None
    return value == wanted


def _matches(value: str, wanted: str) -> bool:
    """See `matches`; what is wanted may have been made of variables."""
    try:
        return matches(value, wanted)
    except (re.error, RecursionError, OverflowError) as error:
        raise StepError(f"{_short(wanted)} is no regular expression: {error}.", retryable=False) from None


def unmet(context: Context) -> str:
    """Return why the run shall not begin, empty if it shall: the first precondition of its workflow that does not hold.

    Raises:
        WorkflowError: whether one holds cannot be known.
    """
    names = Names([context.given, context.variables, os.environ])
    around = context.environment, context.folder
    launch = _launcher(*around, for_backticks(context.shell), context.secrets)

    def command(text: str) -> Launch:
        shell = [driven(expanded(word, names, launch)) for word in context.shell]
        return _launcher(*around, shell, context.secrets)(*for_reader(shell, text, names))

    for condition in context.workflow.preconditions:
        try:
            reason = driven(holds(condition, names, launch, command))
        except StepError as error:
            message = masked(error.message, context.secrets)
            raise WorkflowError([context.file.problem(place(condition), message)]) from None
        if reason:
            return masked(reason, context.secrets)
    return ""


def before(context: Context, record: Record, field: str, names: Names) -> str:
    """Return what a setting says before any step runs.

    Args:
        context: of the run.
        record: that has the setting.
        field: of the setting.
        names: what names mean.

    Raises:
        WorkflowError: a command in backticks fails.
    """
    launch = _launcher(context.environment, context.folder, for_backticks(context.shell), context.secrets)
    try:
        return driven(expanded(getattr(record, field), names, launch))
    except StepError as error:
        message = masked(error.message, context.secrets)
        raise WorkflowError([context.file.problem(place(record, field), message)]) from None


def logs_folder(file: File, workflow: Workflow, params: Sequence[str], mask: Sequence[str] = ()) -> Path | None:
    """Return the folder of all logs that a workflow names, None if it names none.

    Args:
        file: where the workflow stands.
        workflow: the document that is to run.
        params: as they were given.
        mask: what is secret beside the secrets of the workflow.

    Raises:
        WorkflowError, ParameterError: it cannot be known before the run has a place, or no folder is called so.
    """
    where = place(workflow, "log_dir")
    said = workflow.log_dir
    if "$" in said or "`" in said:
        context = surround(file, workflow, NOWHERE, params, mask=mask)
        variables = {name: value for name, value in context.variables.items() if name not in _OF_A_PLACE}
        names = Names([context.given, variables, os.environ])
        for part in parse(said).walk():
            if type(part) is Reference and part.word is None and names.variable(part.name) is None:
                message = f"{part.written} is not known before the run begins; name what `params`, `env` or the environment has"
                raise WorkflowError([file.problem(where, message)])
        said = before(context, workflow, "log_dir", names)
        if masked(said, context.secrets) != said:
            raise WorkflowError([file.problem(where, "no folder is called as a secret")])
    if "\0" in said:
        raise WorkflowError([file.problem(where, "a folder is a text without NUL")])
    return Path(file.folder, os.path.expanduser(said)) if said else None


def driven(steps: Generator[Launch, Exit, _T]) -> _T:
    """Perform a generator of launches here and now, and return what it returns."""
    try:
        launch = next(steps)
        while True:
            launch = steps.send(run_now(launch))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def run_now(launch: Launch) -> Exit:
    """Start a process and wait for its end, at most a minute; its output is captured whole.

    Raises:
        StepError: it cannot be started, or takes longer.
    """
    try:
        done = subprocess.run(
            [os.fspath(word) for word in launch.argv],
            env=launch.env,
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"{launch.shown} has not ended after {PATIENCE:g} s. Let a step do what takes long.") from None
    except FileNotFoundError:
        missing = launch.argv[0] if os.path.isdir(launch.cwd or ".") else launch.cwd
        raise StepError(f"{launch.shown} cannot be started: there is no {missing!r}.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StepError(f"{launch.shown} cannot be started: {why}.") from None
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Exit(launch.shown, code, stdout=done.stdout, stderr=done.stderr)


class _Nowhere:
    """The folder of a run that is not run."""

    run_id = "dry"
    log = Path(os.devnull)

    def files(self, step: str) -> tuple[str, str]:  # noqa: ARG002
        return os.devnull, os.devnull


NOWHERE = _Nowhere()
"""For contexts that no run has."""


class _Maker:
    """Makes the layers of variables of one run; errors say where in the file they come from."""

    def __init__(self, file: File, workflow: Workflow) -> None:
        self.file = file
        self.workflow = workflow
        self.mask: tuple[str, ...] = ()
        self.dotenv_files: list[Path] = []
        self.base = file.folder or os.getcwd()

    def refuse(self, where: Place, message: str) -> WorkflowError:
        return WorkflowError([self.file.problem(where, masked(message, self.mask))])

    def secrets(self) -> Iterator[tuple[str, str]]:
        """Yield the secrets by name."""
        for secret in self.workflow.secrets:
            yield secret.name, self._secret(secret)

    def _secret(self, secret: Secret) -> str:
        where = place(secret, "key")
        if secret.provider == "env":
            found = os.environ.get(secret.key)
            if found is None:
                raise self.refuse(
                    where,
                    f"the secret {secret.name!r} is to come from the variable {secret.key}, which is not set; set it",
                )
            return found
        path = self._secret_file(secret)
        try:
            return path.read_text("utf-8").rstrip("\n")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise self.refuse(where, f"the secret {secret.name!r} cannot be read from {str(path)!r}: {why}") from None

    def _secret_file(self, secret: Secret) -> Path:
        return Path(self.base, os.path.expanduser(secret.key))

    def at_home(self) -> set[str]:
        """Return the files that no worker gets: those with secrets, of any document of the file, and those of dotenv."""
        secrets = [one for document in (self.file.main, *self.file.locals.values()) for one in document.secrets]
        files = [*self.dotenv_files, *[self._secret_file(one) for one in secrets if one.provider == "file"]]
        return {os.path.normpath(one) for one in files}

    def dotenv(self, layers: list[Mapping[str, str]]) -> dict[str, str]:
        """Return what the dotenv files say, a later one over an earlier one; a file that is not there says nothing."""
        found: dict[str, str] = {}
        names = Names([found, *layers])
        folder = self.folder(names)
        where = place(self.workflow, "dotenv")
        self.dotenv_files = [Path(folder, self._value(one, names, where)) for one in self.workflow.dotenv]
        for path in self.dotenv_files:
            try:
                text = path.read_text("utf-8")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                raise self.refuse(where, f"{str(path)!r} cannot be read: {why}") from None
            problems = Problems(str(path))
            assignments = read_dotenv(text, problems)
            problems.refuse()
            for one in assignments:
                found[one.name] = evaluate(one.value, names)
        return found

    def env(self, variables: Sequence[Variable], layers: list[Mapping[str, str]]) -> dict[str, str]:
        """Return the variables of `env`, in order: a later one may use those before it."""
        found: dict[str, str] = {}
        names = Names([found, *layers])
        for one in variables:
            found[one.name] = self._value(one.value, names, place(one, "value"))
        return found

    def before_env(self, arguments: Sequence[Argument]) -> list[Argument]:
        """Return the parameters that `env` may use: those in which no variable of `env` stands, in none that they use either."""
        late = {one.name for one in self.workflow.env}
        found = []
        for one in arguments:
            if _is_as_written(one) or late.isdisjoint(parse(one.value).names()):
                found.append(one)
            else:
                late.add(one.name)
        return found

    def values(
        self, arguments: Sequence[Argument], layers: list[Mapping[str, str]], fixed: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the values of parameters, those that stand in others filled in."""
        found: dict[str, str] = {}
        names = Names([found, *layers])
        for one in arguments:
            if one.name in fixed:
                found[one.name] = fixed[one.name]
                continue
            where = place(one.param, "value") if one.param is not None else Place()
            found[one.name] = one.value if _is_as_written(one) else self._value(one.value, names, where)
        return found

    def check(self, arguments: Sequence[Argument], values: Mapping[str, str]) -> None:
        """Hold the values of parameters against what they must be."""
        found = [parameters.check(one.param, values[one.name]) for one in arguments if one.param is not None]
        problems = [Problem(parameters.PLACE, 0, 0, masked(wrong, self.mask)) for wrong in found if wrong is not None]
        if problems:
            raise ParameterError(problems)

    def folder(self, names: Names) -> str:
        """Return the folder where steps run."""
        where = place(self.workflow, "working_dir")
        said = self._value(self.workflow.working_dir, names, where)
        if "\0" in said:
            raise self.refuse(where, "a folder is a text without NUL")
        return os.path.normpath(os.path.join(self.base, os.path.expanduser(said))) if said else self.base

    def _value(self, text: str, names: Names, where: Place) -> str:
        def launch(command: str, held: Mapping[str, str]) -> Launch:  # few texts have one
            env = environment(*names.layers[:-1], passed(os.environ))
            return _launcher(env, self.base, default_shell(os.environ), self.mask)(command, held)

        try:
            return driven(expanded(text, names, launch))
        except StepError as error:
            raise self.refuse(where, error.message) from None


def _is_as_written(argument: Argument) -> bool:
    """Return whether nothing in the value of a parameter is expanded."""
    return argument.is_literal or (argument.param is not None and not argument.param.eval)


def _launcher(env: Mapping[str, str], folder: str, shell: Sequence[str], mask: tuple[str, ...]) -> Asking:
    def launch(text: str, held: Mapping[str, str]) -> Launch:
        argv = shell_argv(shell, text)
        return Launch(argv, env=fitting({**env, **held}, argv, held.keys), cwd=folder, mask=mask)

    return launch


def _parts(secret: str) -> Iterator[str]:
    """Yield what is masked of a secret: itself and its lines, as a log shows them, and as JSON, Python and shells write them."""
    for one in (secret, *secret.splitlines()):
        if len(one.strip()) > 1:
            yield from (one, json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1], repr(one)[1:-1])
            yield one.replace("'", _QUOTE_FOR_SHELLS)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")
