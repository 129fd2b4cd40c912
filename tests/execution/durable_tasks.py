"""Graphs and scripts for runs that die: their tasks write a line to a file, so that others can count how often they ran."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dagrid import DAG, Node, Patch, Rule, View
from dagrid.execution.recording import Checkpoint
from dagrid.stores import is_postgres, open_artifacts, open_postgres, open_store


def note(log: str, word: str) -> None:
    """Append a line, in one write that survives the death of the process."""
    with open(log, "ab", buffering=0) as file:
        file.write(f"{word}\n".encode())


def noted(log: str) -> list[str]:
    """Return the lines so far."""
    path = Path(log)
    return path.read_text().split() if path.exists() else []


def die(log: str, name: str, times: int = 1, **_: Any) -> str:
    """Kill this process, as long as the task has begun no more than so many times."""
    note(log, name)
    if noted(log).count(name) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def join(log: str, name: str, /, **before: Any) -> int:
    note(log, name)
    return 1 + sum(before.values())


class Unpicklable:
    """A value that stays in its process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        raise TypeError("it holds a socket")


def made(log: str, first: int) -> Unpicklable:
    note(log, "second")
    return Unpicklable(first)


def read(log: str, second: Unpicklable, dying: str) -> tuple[int, str]:
    note(log, "last")
    return second.number, dying


def with_lost_value(log: str) -> DAG:
    """first > second (cannot be pickled) > last, which also waits for the one that dies."""
    return DAG(
        [
            Node("first", partial(join, log, "first")),
            Node("second", partial(made, log), ["first"]),
            Node("dying", partial(die, log, "dying"), ["second"]),
            Node("last", partial(read, log), ["second", "dying"]),
        ]
    )


def spread(log: str, view: View) -> Patch:
    """Add three parts, one of which dies, and their sum."""
    note(log, "spread")
    count = view.result("count")
    parts = [Node(f"part{n}", partial(join, log, f"part{n}"), kind="part") for n in range(count)]
    fatal = Node("fatal", partial(die, log, "fatal"), [part.id for part in parts])
    total = Node("total", partial(join, log, "total"), [part.id for part in parts])
    return Patch([*parts, fatal, total], [Rule(partial(ready, "fatal"), partial(finish, log), name="finish")])


def ready(name: str, view: View) -> bool:
    return view.succeeded(name)


def finish(log: str, view: View) -> Patch:
    note(log, "finish")
    return Patch([Node("end", partial(join, log, "end"), ["total"])])


def growing(log: str) -> tuple[DAG, list[Rule]]:
    dag = DAG([Node("count", partial(three, log))])
    return dag, [Rule(partial(ready, "count"), partial(spread, log), name="spread")]


def three(log: str) -> int:
    note(log, "count")
    return 3


def checkpoint_of(place: str, first_snapshot: int) -> Checkpoint:
    """Return what a folder or a URL means, with snapshots after so many facts; whoever asks closes its store."""
    if is_postgres(place):
        return Checkpoint(*open_postgres(place), first_snapshot)
    return Checkpoint(open_store(f"{place}/journal.db"), open_artifacts(f"{place}/values"), first_snapshot)


def main() -> None:
    """Start a run that will die: the graph, the log, the folder or URL, the backend, and the facts before a snapshot."""
    graph, log, folder, backend, first_snapshot = sys.argv[1:]
    checkpoint = checkpoint_of(folder, int(first_snapshot))
    settings: dict[str, Any] = {"checkpoint": checkpoint, "backend": backend, "run_id": "the-run"}
    if graph == "growing":
        dag, rules = growing(log)
        dag.run(rules=rules, **settings)
    else:
        with_lost_value(log).run(**settings)


if __name__ == "__main__":
    main()
