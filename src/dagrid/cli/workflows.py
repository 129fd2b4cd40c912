"""Which workflow, or which graph of Python's, a text on the command line means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Coroutine, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagrid.config.kinds import is_text
from dagrid.errors import (
    DagridError,
    InvalidSettingError,
    Problem,
    WorkflowError,
    WorkflowNotFoundError,
    hint,
    nearest,
)

if TYPE_CHECKING:
    from dagrid.cli.calls import Call
    from dagrid.graph.dag import DAG
    from dagrid.history import About
    from dagrid.workflow import File

_GRAPH = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")


def is_graph(target: str) -> bool:
    """Whether a text means a graph in a module, as `package.module:name`, and no file."""
    return bool(_GRAPH.fullmatch(target)) and not os.path.exists(target)


def load_workflow(call: Call, target: str) -> File:
    """Return the workflow of a file, or of a name: beside the current folder also in that of the settings.

    Raises:
        WorkflowNotFoundError: there is none.
        WorkflowError: all that is wrong with it, or it is Python.
    """
    from dagrid.workflow import compiled, find

    path = Path(target)
    if is_graph(target) or (path.suffix == ".py" and path.is_file()):
        graph = target if is_graph(target) else f"{path.stem}:NAME"
        message = (
            f"this is Python and no workflow; a graph runs with dagrid start {graph}, and dagrid graph {graph} shows it"
        )
        raise WorkflowError([Problem(target, 0, 0, message)])
    is_there = path.exists()
    if find(target, ".") is None and (not is_there or path.is_dir()) and path.name == target:
        known = find(target, call.dags)
        if known is None and not is_there:
            raise _not_found(target, call.dags)
        path = known or path
    return compiled.load(path, call.config.home)


def warn(call: Call, file: File, params: Sequence[str] = ()) -> None:
    """Say what is not wrong with a workflow and what it is given, but surely not meant.

    Raises:
        ParameterError: it cannot be given that.
    """
    from dagrid.workflow.parameters import apply

    for warning in file.warnings:
        call.out.say(f"{warning} (warning)")
    known = [one.name for one in file.main.params.items if one.name]
    for one in apply(file.main.params, params):
        near = nearest(one.name, known) if one.param is None else None
        if near is not None:
            call.out.say(f"{file.name} has no parameter {one.name!r}, which is one more now.{hint(near)} (warning)")


def load_graph(call: Call, target: str, params: Sequence[str] = ()) -> tuple[DAG, dict[str, Any]]:
    """Return the graph that `package.module:name` means, and what it says of its runs. Whatever is printed from here on is talk.

    Args:
        call: the command.
        target: a graph, a builder, a function of `@dag`, or a function that returns one of these.
        params: arguments, as NAME=value or by position, for a function.

    Raises:
        InvalidSettingError: there is none, or it cannot be made.
    """
    call.out.keep_apart()
    module_name, _, path = target.partition(":")
    found = _attribute(_module(module_name, target), path, target)
    from dagrid.cli.arguments import arguments
    from dagrid.graph.authoring import Flow
    from dagrid.graph.builder import DAGBuilder
    from dagrid.graph.dag import DAG

    settings: dict[str, Any] = {}
    try:
        if isinstance(found, Flow):
            args, kwargs = arguments(found.fn, params)
            settings = dict(found.settings)
            found = found.build(*args, **kwargs)
            params = ()
        elif callable(found) and not isinstance(found, (DAG, DAGBuilder)):
            args, kwargs = arguments(found, params)
            found = found(*args, **kwargs)
            params = ()
        if isinstance(found, DAGBuilder):
            found = found.build()
    except DagridError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidSettingError(f"{target} cannot be made: {said(error)}") from error
    if isinstance(found, Coroutine):
        found.close()  # else Python says by itself that nobody awaits it
    if not isinstance(found, DAG):
        raise InvalidSettingError(
            f"{target} is no graph but {type(found).__name__}. Name a DAG, a builder, a function of @dag, or a function that "
            f"returns one."
        )
    if params:
        raise InvalidSettingError(f"{target} is a graph and takes no parameters, such as {params[0]!r}.")
    return found, settings


def importable(call: Call, about: About) -> None:
    """Let the functions of a graph be found where it was started, also from another folder, or here; what they print is talk."""
    if about.kind == "graph":
        call.out.keep_apart()
        sys.path[:0] = [folder for folder in (about.more.get("folder"), os.getcwd()) if folder]


def given(call: Call, rest: Sequence[str]) -> list[str]:
    """Return the parameters of a call: those of `--params`, which are split, and those behind `--`, which are not.

    Raises:
        InvalidSettingError: a quote is not closed, or a word is no text.
    """
    from dagrid.workflow.parameters import open_quote, split

    setting = call.config.value("params")
    for text in setting.value:
        if rest_of_it := open_quote(text):
            raise InvalidSettingError(
                f"{setting.named} has a quote that is not closed: {rest_of_it}. Close it, or write NAME=value behind --."
            )
    said = [f"{name}={value}" if name else value for text in setting.value for name, value in split(text)]
    return checked_texts([*said, *rest])


def checked_texts(words: Sequence[str]) -> list[str]:
    """Return words of the command line that are text.

    Raises:
        InvalidSettingError: one has bytes that are no UTF-8.
    """
    for word in words:
        if not is_text(word):
            raise InvalidSettingError(f"{word!r} is no text in UTF-8. Put such bytes into a file, and name that.")
    return list(words)


def _module(name: str, target: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise InvalidSettingError(
                f"{target}: there is no module {error.name!r}, here or installed. Name it as in an import statement."
            ) from error
        raise InvalidSettingError(f"{target}: {said(error)}") from error
    except (Exception, SystemExit) as error:
        raise InvalidSettingError(f"{target} cannot be imported: {said(error)}") from error


def _attribute(module: Any, path: str, target: str) -> Any:
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            near = nearest(part, [name for name in dir(found) if not name.startswith("_")])
            raise InvalidSettingError(f"{target}: there is no {part!r} in {found.__name__}.{hint(near)}")
        found = getattr(found, part)
    return found


def said(error: BaseException) -> str:
    """Return what happened in the user's code, and where; what dagrid says itself needs no place."""
    if isinstance(error, DagridError):
        return str(error)
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(__file__)
    last = next((one for one in reversed(frames) if not one.filename.startswith((ours, "<frozen"))), None)
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
    else:
        where = f" ({last.filename}:{last.lineno})" if last is not None else ""
    return f"{type(error).__name__}: {error}{where}"


def _not_found(name: str, folder: Path) -> WorkflowNotFoundError:
    found = []
    for place in (Path(), folder):
        if place.is_dir():
            found += [one.name for one in place.iterdir() if one.suffix in (".yaml", ".yml") and one.is_file()]
    near = nearest(name, [*found, *(Path(one).stem for one in found)])
    message = f"there is no such workflow, neither here nor in {folder}.{hint(near)}"
    return WorkflowNotFoundError([Problem(name, 0, 0, message)])
