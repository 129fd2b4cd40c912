"""Commands that are stopped, on real processes: signals, groups, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from dagrid import DAG, Node, NodeStatus, command
from dagrid.commands import Command, Launch
from dagrid.errors import BackendClosedError, TaskTimeoutError
from dagrid.execution.backends.command import CommandBackend
from tests.backends.command_tasks import PATIENCE, ROOT, holding, nothing_is_left, sh, watched  # noqa: F401  # a fixture


def test_a_script_that_ignores_the_signal_is_killed_with_its_group(gate):
    """After its time of grace, and before the run gives its slot to another."""
    stubborn = sh(holding(gate, "trap '' TERM; sleep 1000 & "), grace=0.1)
    nodes = [Node("node", stubborn, timeout=0.8), Node("after", command("true"), ["node"])]
    started = DAG(nodes).start()
    with watched(gate.meet()) as gone:
        result = started.wait(PATIENCE)
        assert gone()
        gate.wait_gone()  # nor has its child
    assert result.timed_out == 1
    assert isinstance(result.node_results["node"].error, TaskTimeoutError)
    assert result.skipped == 1


PARTING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    signal.sigwait([signal.SIGUSR1])
    os.read(reading, 1)  # until the parent has gone
    os.write(1, b"child\\n")
    os._exit(0)
with open(sys.argv[1], "w") as gate:
    print(os.getpid(), file=gate, flush=True)
    signal.sigwait([signal.SIGUSR1])
os.write(1, b"parent\\n")
os._exit(5)
"""


def test_what_is_cancelled_may_end_in_its_own_way(gate, tmp_path):
    """It has its time of grace, also the rest of its group when the first process has gone; what it writes then is in the log."""
    log = tmp_path / "log"
    argv = [sys.executable, "-S", "-c", PARTING, f"{gate.path}.up"]
    task = Command(lambda: Launch(argv, stdout=log, mask=["x"], stop_signal=signal.SIGUSR1, grace=PATIENCE))
    started = DAG([Node("node", task)]).start()
    gate.meet()
    began = time.perf_counter()
    started.cancel()
    result = started.wait(PATIENCE)
    assert time.perf_counter() - began < PATIENCE / 2
    assert result.cancelled == 1
    assert log.read_text().split() == ["parent", "child"]


def test_a_late_command_frees_its_slot_when_it_is_gone(gate):
    """With one slot the next one begins behind it, and is not held up for the whole time of grace."""
    nodes = [Node("late", sh(holding(gate), grace=PATIENCE), timeout=0.8), Node("next", command("echo next"))]
    started = DAG(nodes).start(max_concurrency=1)
    gate.meet()
    result = started.wait(PATIENCE / 2)
    assert (result.timed_out, result["next"]) == (1, "next")


def test_the_end_of_a_run_is_the_end_of_its_processes(gate):
    """Also of those in their time of grace, for whom nobody waits any more."""
    with CommandBackend(2) as backend:
        future = backend.submit(sh(holding(gate, "trap '' TERM;"), grace=0.1))
        pid = gate.meet()
        with watched(pid) as gone:
            backend.close(wait=False)
            assert gone(0)
    with pytest.raises(BackendClosedError):
        future.result(0)


def test_what_a_step_leaves_in_its_group_ends_with_it(gate):
    """A forgotten background job does not hold the step, though it holds its output."""
    child = f"sh -c 'exec 9>{gate.path}.up; echo $$ >&9; sleep 1000' & read x <{gate.path}.down; echo done"
    started = DAG([Node("node", sh(child, capture=100))]).start()
    with watched(gate.meet()) as gone:
        gate.release("go\n")
        assert started.wait(PATIENCE)["node"] == "done"
        assert gone()


def test_a_daemon_neither_holds_its_step_nor_ends_with_it(gate):
    """Who has left the group is meant to stay; its output is read for a moment only, also if it writes all the time."""
    for does in ("sleep 1000", "yes"):
        daemon = f"setsid sh -c 'echo $$ >{gate.path}.up; exec {does}' & read x <{gate.path}.down; echo done"
        began = time.perf_counter()
        started = DAG([Node("node", sh(daemon, capture=5))]).start()
        pid = gate.meet()
        gate.close()
        with watched(pid) as gone:
            gate.release("go\n")
            result = started.wait(PATIENCE)
            assert result.node_results["node"].status in (
                NodeStatus.COMPLETED,
                NodeStatus.FAILED,
            )  # of `yes` too much came
            assert time.perf_counter() - began < PATIENCE / 2
            assert gone(0) is False or does == "yes"  # whose pipe broke


def test_processes_do_not_outlive_a_program_that_is_killed(gates, tmp_path):
    """Not by a handler of ours, for kill -9 asks nobody. The second one begins when the first is known to the watchdog."""
    first, second = gates(), gates()
    scripts = [holding(first, "sh -c \"trap '' TERM HUP; sleep 1000\" &"), holding(second)]
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        from dagrid import DAG, Node, command
        scripts = {scripts!r}
        DAG([Node(f"n{{at}}", command(scripts[at])) for at in (0, 1)]).run(max_concurrency=2, progress=False)
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with (
        subprocess.Popen([sys.executable, str(program)], env=environment) as parent,
        watched(first.meet()) as gone,
        watched(second.meet()),
    ):
        parent.kill()
        parent.wait()
        assert gone()
        first.wait_gone()  # nor has its child


def test_a_program_ends_without_a_word_of_what_watches_its_processes(tmp_path):
    """In Python's development mode too, which tells of each process that its program has left behind."""
    program = tmp_path / "program.py"
    program.write_text("from dagrid import DAG, Node, command\nDAG([Node('a', command('true'))]).run(progress=False)\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-X", "dev", str(program)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ended.stderr == ""
