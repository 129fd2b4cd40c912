"""What a workflow in YAML costs beyond its processes: the whole command, from prompt to prompt, beside those of others.

Each figure is a whole process that reads a file and runs what it says. The figures of the reference engine were recorded
once, with the same workflows on a machine like ours; they stand in the table and are not measured here.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.commands import AT_ONCE, bare
from benchmarks.measure import Figure, interleaved, timed

Contenders = dict[str, Callable[[], float]]

US = "dagrid start"
NEW = "dagrid start, another text each time"
REFERENCE = "reference engine, as recorded"
SHELL = "sh -c true, in a loop"
NOTHING = "python -c pass"
DOIT = "doit"
MAKE = "make"
START = "one step"
MANY = f"500, {AT_ONCE} at once"
PYTHON = "1,000 Python steps"
LENGTHS = {100: 400.0, 500: 1_500.0, 1_000: 3_000.0}
RECORDED = {START: 27.0, "chain of 100": 810.0, "chain of 500": 6_400.0, "chain of 1,000": 24_000.0, MANY: 6_400.0}
LINES = 8_000


def workflows(quick: bool) -> Figure:
    """One step, chains, many at once, and steps in Python, each as a whole command."""
    figure = Figure("workflows", "a workflow of steps that do nothing, the whole command", "ms", US)
    program = Path(sys.executable).with_name("dagrid")
    if not program.exists():
        figure.missing = "there is no dagrid beside this Python; install the extra workflow"
        return figure
    with TemporaryDirectory() as name:
        folder = Path(name)
        with _surroundings(folder):
            _measure(figure, folder, [str(program), "start"], quick)
    for column, recorded in RECORDED.items():
        if column in figure.columns:
            figure.put(REFERENCE, column, [recorded])
    _hold(figure)
    figure.notes.append(f"{REFERENCE}: on a quiet machine; loaded, 66 ms for one step, 10.7 s for the chain of 500")
    figure.notes.append(f"{NEW}: what was read of a text is kept for its next start, which is no help then")
    figure.notes.append(f"{SHELL}: subprocess.run from a Python that runs already; {AT_ONCE} at once in threads")
    figure.notes.append(
        f"{DOIT}: tasks with one command and `task_dep`, state in a file; at once: -n {AT_ONCE} -P thread"
    )
    figure.notes.append(f"{MAKE}: phony targets, no history; at once: -j {AT_ONCE}; it starts `true` without a shell")
    return figure


def loading(quick: bool) -> Figure:
    """Reading and checking a long file, beside parsers that check nothing."""
    import yaml

    from dagrid.workflow import loads, running

    rounds = 3 if quick else 7
    lines = LINES // 10 if quick else LINES
    text = long_file(lines)
    figure = Figure("workflow-load", f"a file of {lines:,} lines (medians of {rounds})", "ms", "dagrid, checked")
    contenders: Contenders = {
        "dagrid, checked": partial(timed, partial(loads, text, name="long.yaml")),
        "dagrid, the graph of what was checked": lambda: timed(running.dry, loads(text, name="long.yaml")),
        "PyYAML, parsed only, in C": partial(timed, partial(yaml.load, text, yaml.CSafeLoader)),
        "PyYAML, parsed only": partial(timed, partial(yaml.load, text, yaml.SafeLoader)),
    }
    if find_spec("ruamel.yaml") is not None:
        from ruamel.yaml import YAML

        contenders["ruamel, parsed only"] = lambda: timed(YAML(typ="safe", pure=True).load, text)
        contenders["ruamel, round trip"] = lambda: timed(YAML(typ="rt").load, text)
    slow = [name for name in contenders if name.startswith(("ruamel", "PyYAML, parsed only"))]
    for name, samples in interleaved(contenders, rounds, slow=slow).items():
        figure.put(name, f"{lines:,} lines", [seconds * 1e3 for seconds in samples])
    figure.hold("loaded and validated", figure.value("dagrid, checked", f"{lines:,} lines"), 300.0 * lines / LINES)
    return figure


def chain(length: int) -> str:
    """Return a workflow of so many steps, one after the other."""
    return "steps:\n" + "  - command: 'true'\n" * length


def at_once(count: int) -> str:
    """Return a workflow of so many steps of which some run at once."""
    return f"maxActiveSteps: {AT_ONCE}\nsteps:\n  -\n" + "    - command: 'true'\n" * count


def python_chain(length: int) -> str:
    """Return a workflow of so many Python steps that return a number."""
    return "steps:\n" + "  - {python: 'operator:index', args: [1]}\n" * length


def long_file(lines: int) -> str:
    """Return a workflow of so many lines: steps of eight lines that use much of the format."""
    step = """\
  - name: step_{number}
    description: The step with the number {number}
    command: process --input "${{SOURCE}}" --part {number} | tee "$TARGET/{number}.txt"
    depends: [{before}]
    env:
      - TARGET: ${{HOME}}/target
    retryPolicy: {{limit: 3, intervalSec: 5, backoff: true}}
    continueOn: {{failure: true}}
"""
    steps = [
        step.format(number=number, before=f"step_{number - 1}" if number else "") for number in range((lines - 8) // 8)
    ]
    head = "name: long\ntype: graph\nparams:\n  - SOURCE: /data\nenv:\n  - A: 1\n  - B: ${A}\nsteps:\n"
    return head + "".join(steps)


def _measure(figure: Figure, folder: Path, start: Sequence[str], quick: bool) -> None:
    rounds = 1 if quick else 5
    others: Contenders = {
        NEW: _changing(folder, start, chain(1)),
        NOTHING: partial(_process, [sys.executable, "-c", "pass"]),
        SHELL: partial(timed, _shell, 1, 1),
    }
    contenders = _contenders(folder, start, "one", chain(1), 1, chained=True)
    _column(figure, START, 1 if quick else 11, {**contenders, **others})
    for length in [20] if quick else LENGTHS:
        shell = {SHELL: partial(timed, _shell, length, 1)}
        contenders = _contenders(folder, start, f"chain{length}", chain(length), length, chained=True)
        _column(figure, f"chain of {length:,}", rounds, {**contenders, **shell})
    count = 40 if quick else 500
    shell = {SHELL: partial(timed, _shell, count, AT_ONCE)}
    contenders = _contenders(folder, start, "many", at_once(count), count, chained=False)
    _column(figure, MANY if count == 500 else f"{count}, {AT_ONCE} at once", rounds, {**contenders, **shell})
    length = 20 if quick else 1_000
    text = python_chain(length)
    ours: Contenders = {
        US: partial(_process, [*start, _write(folder, "python", text)]),
        NEW: _changing(folder, start, text),
    }
    _column(figure, f"{length:,} Python steps", rounds, ours)


def _column(figure: Figure, column: str, rounds: int, contenders: Contenders) -> None:
    for contend in contenders.values():
        contend()  # what is compiled or made at the first start is no part of any other
    slow = [DOIT]
    for name, samples in interleaved(contenders, rounds, slow=slow).items():
        figure.put(name, column, [seconds * 1e3 for seconds in samples])


def _contenders(folder: Path, start: Sequence[str], name: str, text: str, count: int, *, chained: bool) -> Contenders:
    """Return ways of running the same steps: ours, and those of neighbours that are there."""
    contenders: Contenders = {US: partial(_process, [*start, _write(folder, name, text)])}
    if find_spec("doit") is not None:
        many = [] if chained else ["-n", str(AT_ONCE), "-P", "thread"]
        base = [sys.executable, "-m", "doit", "run", "-f", _dodo(folder, name, count, chained)]
        contenders[DOIT] = partial(_process, [*base, "--db-file", str(folder / f"{name}.db"), "-v", "0", *many])
    if shutil.which("make"):
        many = [] if chained else ["-j", str(AT_ONCE)]
        contenders[MAKE] = partial(_process, ["make", "--silent", "-f", _makefile(folder, name, count, chained), *many])
    return contenders


def _changing(folder: Path, start: Sequence[str], text: str) -> Callable[[], float]:
    """Return what runs a workflow whose text is never what it was, so that it has to be read."""
    numbers = itertools.count()

    def contend() -> float:
        return _process([*start, _write(folder, "changing", f"# {next(numbers)}\n{text}")])

    return contend


def _write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _dodo(folder: Path, name: str, count: int, chained: bool) -> str:
    path = folder / f"{name}_dodo.py"
    before = "[f'step:{number - 1}'] if number else []" if chained else "[]"
    path.write_text(
        "def task_step():\n"
        f"    for number in range({count}):\n"
        f"        yield {{'name': str(number), 'actions': ['true'], 'task_dep': {before}}}\n",
        encoding="utf-8",
    )
    return str(path)


def _makefile(folder: Path, name: str, count: int, chained: bool) -> str:
    path = folder / f"{name}.mk"
    steps = [f"step{number}" for number in range(count)]
    rules = [
        f"{step}:{f' step{number - 1}' if chained and number else ''}\n\t@true\n" for number, step in enumerate(steps)
    ]
    path.write_text(f"all: {' '.join(steps)}\n.PHONY: all {' '.join(steps)}\n{''.join(rules)}", encoding="utf-8")
    return str(path)


def _process(argv: Sequence[str]) -> float:
    began = perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    return took


def _shell(count: int, together: int) -> None:
    bare(count, together, ["/bin/sh", "-c", "true"])


@contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """Let runs be kept in a folder of their own, modules be compiled once in any case, and the shell be sh."""
    before = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    ours = {"DAGRID_HOME": folder / "home", "PYTHONPYCACHEPREFIX": folder / "compiled", "SHELL": "/bin/sh"}
    os.environ.update({name: str(value) for name, value in ours.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _hold(figure: Figure) -> None:
    chains = {f"chain of {length:,}": (length, limit) for length, limit in LENGTHS.items()}
    limits = {START: 150.0, **{column: limit for column, (_, limit) in chains.items()}, MANY: 1_000.0, PYTHON: 500.0}
    for column, limit in limits.items():
        if column in figure.columns:
            figure.hold(column, figure.value(US, column), limit)
    for column, (length, _) in chains.items():
        ours, shell, start = figure.value(US, column), figure.value(SHELL, column), figure.value(US, START)
        if ours is not None and shell is not None and start is not None:
            figure.hold(f"{column}, a step beyond start and process", (ours - start - shell) / length, 1.0, "ms")
