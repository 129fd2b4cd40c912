"""What tests of commands share: tasks, and a look at what is left of their processes."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from dagrid import DAG, Node, NodeStatus
from dagrid.commands import Command, Launch
from dagrid.errors import CommandError
from dagrid.execution.watchdog import watchdog

PATIENCE = 20
ROOT = Path(__file__).parents[2]


def sh(text, **settings):
    """Return a task that runs a text in the shell."""
    return Command(lambda: Launch(["/bin/sh", "-c", text], **settings))


def run(fn, **settings):
    """Run one node and return what became of it."""
    return DAG([Node("node", fn)]).run(progress=False, **settings).node_results["node"]


def error_of(fn, **settings):
    found = run(fn, **settings)
    assert found.status is NodeStatus.FAILED
    assert isinstance(found.error, CommandError), found.error
    return found.error


@contextmanager
def watched(pid):
    """Give a function that waits for the end of any process, and kill it in any case."""
    fd = os.pidfd_open(pid)

    def gone(seconds=PATIENCE):
        return bool(select.select([fd], [], [], seconds)[0])

    try:
        yield gone
    finally:
        if not gone(0):
            os.kill(pid, signal.SIGKILL)
        os.close(fd)


def children():
    """Return the processes that this one has, dead ones included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Whatever a test does, no process and no descriptor of its commands is there afterwards.

    The watchdog is there before, and stays: with this thread.
    """
    watchdog()
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() <= before[0]
    assert len(os.listdir("/proc/self/fd")) <= before[1]


def holding(gate, before=""):
    """Return a script that says to a gate that it is there, and waits."""
    return f"exec 9>{gate.path}.up; {before} echo $$ >&9; read word <{gate.path}.down"
