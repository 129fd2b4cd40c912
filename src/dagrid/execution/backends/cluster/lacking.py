"""What workers lack: labels that steps wait for, and nobody has, or any worker at all. Each is said once, whoever waits for it.

It knows no stream and no log: what is to be said is for whoever says it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.posts import id_of
from dagrid.execution.backends.cluster.sayings import Sayings, in_one_line
from dagrid.machine.plan import Labels, Lack
from dagrid.ports import PushHost

AGAIN = 3600.0
"""Seconds after which it is said again what run after run lacks."""


def _worker(selector: Labels) -> str:
    shown = ", ".join(f"{label}={value}" for label, value in selector)
    return f"a worker with the labels {shown}" if shown else "a worker"


def _wanted(want: Lack) -> str:
    selector, why = want
    return _worker(selector) + (f": {why}" if why else "" if selector else ", and there is none")


class Lacks:
    """What one run waits for, that no worker has.

    Args:
        host: of the run; one that does not tell lacks nothing.
    """

    def __init__(self, host: PushHost) -> None:
        self._lacks: Callable[[], Mapping[Lack, str]] = getattr(host, "lacks", dict)  # `ports.Lacking`
        self._found: Mapping[Lack, str] = {}

    def look(self) -> list[str] | None:
        """Look again, and return in words what it did not lack before; None if all is as it was."""
        before, self._found = self._found, self._lacks()
        if self._found.keys() == before.keys():
            return None
        return [f"step {node!r} waits for {_wanted(want)}" for want, node in self._found.items() if want not in before]

    def said(self) -> list[pb.Lack]:
        """Return what was found last, for the coordinator."""
        return [pb.Lack(labels=dict(selector), why=why, node=node) for (selector, why), node in self._found.items()]


class AllLacks:
    """What the runs of a coordinator wait for, that no worker has.

    Args:
        say: gets a line for what an operator should know.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._runs: dict[str, set[Lack]] = {}
        self._told: set[Lack] = set()
        self._sayings = Sayings(AGAIN)

    def hear(self, run: str, name: str, lacks: Iterable[pb.Lack], workers: Collection[Mapping[str, str]]) -> None:
        """Take all that a run says that it lacks, each time anew, while there are workers with these labels."""
        said = {(tuple(sorted(lack.labels.items())), lack.why): lack.node for lack in lacks}
        self._runs[run] = set(said)
        for want in said.keys() - self._told:
            selector, why = want
            if why or not any(_has(labels, selector) for labels in workers):  # else one has come meanwhile
                self._told.add(want)
                if not self._sayings.due(want):
                    continue
                line = f"step {said[want]!r} of {name} waits for {_wanted(want)}: run {id_of(run)}"
                self._say(in_one_line(line))
        self._settle()

    def come(self, worker: str, labels: Mapping[str, str]) -> None:
        """A worker with these labels has come."""
        for selector in [selector for selector, why in self._told if not why and _has(labels, selector)]:
            self._told.remove((selector, ""))
            self._sayings.forget((selector, ""))
            self._say(in_one_line(f"Worker {worker} is {_worker(selector)}: runs that waited for one go on"))

    def forget(self, run: str) -> None:
        """A run has ended."""
        if self._runs.pop(run, None):
            self._settle()

    def _settle(self) -> None:
        """Let go of what nobody lacks any more."""
        if self._told:
            self._told &= set().union(*self._runs.values())


def _has(labels: Mapping[str, str], selector: Labels) -> bool:
    return all(labels.get(label) == value for label, value in selector)
