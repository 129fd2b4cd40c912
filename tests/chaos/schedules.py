"""A schedule: workflows and faults, all drawn from one seed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count

from dagrid.errors import RunStateError
from tests.chaos.rig import LEASE, NAMES, Flow, Rig, Step

LOSSES = 2
"""At most so many workers are lost in a schedule: what is lost with three is poisonous."""
LOSING = ("kill", "kill the group", "stop for a lease", "away for a lease")
HARMLESS = (
    "coordinator",
    "coordinator",
    "pause",
    "slow",
    "cut",
    "cut in the middle",
    "double",
    "delay",
    "halve",
    "stall",
    "away",
    "cancel",
    "cancel",
)


def draw_flow(draw: random.Random) -> Flow:
    """Return a workflow of a few steps."""
    steps: list[Step] = []
    for number in range(draw.randint(2, 7)):
        known = [step.name for step in steps]
        steps.append(
            Step(
                f"s{number}",
                draw.randint(1, 100),
                draw.choice([0, 0, 0.05, 0.3, 0.8]),
                "flaky" if draw.random() < 0.15 else "plain",
                draw.choice(NAMES) if draw.random() < 0.3 else "",
                draw.sample(known, min(len(known), draw.choice([0, 1, 1, 2]))),
            )
        )
    return Flow(steps, calls=draw.random() < 0.25)


class Schedule:
    """What a seed says: `perform` it, and see what it has come to."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.flows = [draw_flow(self.draw) for _ in range(self.draw.randint(2, 5))]
        losing = self.draw.sample(LOSING, self.draw.randint(0, LOSSES))
        harmless = [self.draw.choice(HARMLESS) for _ in range(self.draw.randint(1, 4))]
        names = losing + harmless
        self.draw.shuffle(names)
        self.faults = [(self.draw.uniform(0.0, 1.5), name, self.draw.choice(NAMES)) for name in names]
        self.stopped: set[str] = set()
        self.runs: dict[str, Flow] = {}
        self._order = count()
        self._due: list[tuple[float, int, Callable[[], object]]] = []

    def perform(self, rig: Rig) -> None:
        """Submit the workflows, let the faults happen, and then leave all in peace until the runs have ended."""
        self.runs = {rig.submit(flow): flow for flow in self.flows}
        for moment, name, target in self.faults:
            self._at(moment, partial(self._strike, rig, name, target))
        try:
            while self._due:
                moment, _, action = heappop(self._due)
                time.sleep(max(moment - time.monotonic(), 0.0))  # a moment of its own, which the seed says
                action()
        finally:
            for proxy in rig.proxies.values():
                proxy.peace()
        for run in self.runs:
            rig.ended(run)

    def _at(self, seconds: float, action: Callable[[], object]) -> None:
        heappush(self._due, (time.monotonic() + seconds, next(self._order), action))

    def _strike(self, rig: Rig, name: str, target: str) -> None:
        process, proxy = rig.workers[target].process, rig.proxies[target]
        match name:
            case "coordinator" if rig.is_served():
                rig.kill_coordinator()
                self._at(self.draw.choice([0.0, 0.0, 0.5]), rig.start)
            case "kill" | "kill the group" if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                (process.kill if name == "kill" else lambda: _kill_group(process.pid))()
                process.wait()
                self._at(self.draw.uniform(0.0, 0.5), lambda: rig.again(target))
            case "stop for a lease" | "pause":
                process.send_signal(signal.SIGSTOP)
                self._at(LEASE * 1.3 if name != "pause" else 0.5, lambda: process.send_signal(signal.SIGCONT))
            case "slow":
                for number in range(8):
                    self._at(number * 0.15, lambda: process.send_signal(signal.SIGSTOP))
                    self._at(number * 0.15 + 0.1, lambda: process.send_signal(signal.SIGCONT))
            case "cut":
                proxy.cut()
            case "away" | "away for a lease":
                proxy.away = True
                proxy.cut()
                self._at(LEASE * 1.3 if name != "away" else 0.7, proxy.peace)
            case "cut in the middle":
                proxy.break_next = True
            case "double":
                proxy.double_next = True
            case "delay":
                proxy.delay = 0.2
                self._at(1.0, proxy.peace)
            case "halve":
                proxy.rate = 4_000
                self._at(1.0, proxy.peace)
            case "stall":
                proxy.stalled = True
                self._at(1.0, proxy.peace)
            case "cancel":
                run = self.draw.choice(list(self.runs))
                self.stopped.add(run)
                with suppress(RunStateError):  # it is queued, or has ended
                    rig.history.stop(run)


def _kill_group(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)
