"""How figures are taken and told: interleaved rounds, medians, pinning, and the record of one figure. It knows no subject."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
MODES = {"pinned": CORES[:1], "free": CORES}
Contenders = Mapping[str, Callable[[], float]]


@dataclass
class Goal:
    """One target: what was measured, what it is held against, and whether it is met (at most the limit)."""

    text: str
    value: float | None
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.limit


@dataclass
class Figure:
    """One table: a row for each contender, a column for each case; `subject` is the row that ratios are taken to.

    `missing` says why nothing was measured. `notes` says what a reader must know of the peers.
    """

    name: str
    title: str
    unit: str
    subject: str = ""
    columns: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    spread: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""

    def put(self, row: str, column: str, samples: Sequence[float]) -> None:
        """Enter the median of some samples."""
        if column not in self.columns:
            self.columns.append(column)
        self.rows.setdefault(row, {})[column] = median(samples)
        self.spread.setdefault(row, {})[column] = min(samples), max(samples)

    def value(self, row: str, column: str) -> float | None:
        """Return a median, or None when it was not taken."""
        return self.rows.get(row, {}).get(column)

    def ratio(self, row: str, column: str, to: str) -> float | None:
        """Return one row's median over another's."""
        ours, theirs = self.value(row, column), self.value(to, column)
        return None if ours is None or not theirs else ours / theirs

    def hold(self, text: str, value: float | None, limit: float, unit: str = "") -> None:
        """State a target and hold a value against it."""
        self.goals.append(Goal(text, value, limit, unit or self.unit))


def interleaved(
    contenders: Contenders, rounds: int, slow: Sequence[str] = (), slow_rounds: int = 3
) -> dict[str, list[float]]:
    """Run the contenders in turn (A B C A B C ...) and return what each returned, by name.

    Those named as slow take part in the first `slow_rounds` rounds only.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contend in contenders.items():
            if number < (slow_rounds if name in slow else rounds):
                gc.collect()
                samples[name].append(contend())
    return samples


def timed(action: Callable[..., Any], *arguments: Any) -> float:
    """Return how many seconds a call took."""
    began = perf_counter()
    kept = action(*arguments)
    took = perf_counter() - began
    del kept
    return took


def per(count: int, seconds: float) -> float:
    """Return microseconds for each of so many."""
    return seconds / count * 1e6


@contextmanager
def placed(mode: str) -> Iterator[None]:
    """Hold every thread of this process, and what it starts, on one core ("pinned") or on all ("free")."""
    _place(MODES[mode])
    try:
        yield
    finally:
        _place(CORES)


def _place(cores: Sequence[int]) -> None:
    if not cores:
        return
    for thread in threading.enumerate():
        if thread.native_id is not None:
            os.sched_setaffinity(thread.native_id, cores)


def in_a_fresh_process(module: str, *arguments: str) -> Any:
    """Run a module of this package in a process of its own and return the JSON that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def resident() -> int:
    """Return how many bytes of this process are in memory."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
