"""What workers lack: labels that steps wait for, and nobody has, or any worker at all. Each is said once, whoever waits for it.

It knows no stream and no log: what is to be said is for whoever says it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.ports import Lacking, PushHost

Selector = tuple[tuple[str, str], ...]
"""Labels with their values, in the order in which they were written."""


def _wanted(selector: Selector) -> str:
    shown = ", ".join(f"{label}={value}" for label, value in selector)
    return f"a worker with the labels {shown}" if shown else "a worker, and there is none"


class Lacks:
    """What one run waits for, that no worker has.

    Args:
        host: of the run; one that does not tell lacks nothing.
    """

    def __init__(self, host: PushHost) -> None:
        self._host = host if isinstance(host, Lacking) else None
        self._found: Mapping[Selector, str] = {}

    def look(self) -> list[str] | None:
        """Look again, and return in words what it did not lack before; None if all is as it was."""
        before, self._found = self._found, {} if self._host is None else self._host.lacks()
        if self._found.keys() == before.keys():
            return None
        return [
            f"step {node!r} waits for {_wanted(selector)}"
            for selector, node in self._found.items()
            if selector not in before
        ]

    def said(self) -> list[pb.Lack]:
        """Return what was found last, for the coordinator."""
        return [pb.Lack(labels=dict(selector), node=node) for selector, node in self._found.items()]


class AllLacks:
    """What the runs of a coordinator wait for, that no worker has.

    Args:
        say: gets a line for what an operator should know.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._runs: dict[str, set[Selector]] = {}
        self._told: set[Selector] = set()

    def hear(self, run: str, name: str, lacks: Iterable[pb.Lack], workers: Collection[Mapping[str, str]]) -> None:
        """Take all that a run says that it lacks, each time anew, while there are workers with these labels."""
        said = {tuple(sorted(lack.labels.items())): lack.node for lack in lacks}
        self._runs[run] = set(said)
        for selector in said.keys() - self._told:
            if not any(_has(labels, selector) for labels in workers):  # else one has come meanwhile
                self._told.add(selector)
                self._say(
                    f"step {said[selector]!r} of {name} waits for {_wanted(selector)}: run {run.partition(':')[0]}"
                )
        self._settle()

    def come(self, worker: str, labels: Mapping[str, str]) -> None:
        """A worker with these labels has come."""
        for selector in [each for each in self._told if _has(labels, each)]:
            self._told.remove(selector)
            self._say(f"Worker {worker} is {_wanted(selector).partition(', and')[0]}: runs that waited for one go on")

    def forget(self, run: str) -> None:
        """A run has ended; what it alone lacked is said again of the next one."""
        if self._runs.pop(run, None):
            self._settle()

    def _settle(self) -> None:
        """Let go of what nobody lacks any more."""
        self._told &= set().union(*self._runs.values())


def _has(labels: Mapping[str, str], selector: Selector) -> bool:
    return all(labels.get(label) == value for label, value in selector)
