"""`dagrid start module:dag`: a graph of Python's is run, kept in the history, looked at on a terminal, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrid.cli.exits import Exit
from tests.cli.conftest import PATIENCE, appeared

FLOWS = """
import os, threading, time
from pathlib import Path
from dagrid import DAG, Node, dag, task

@task(tags=["io"])
def one(x): return x + 1

@task
def two(x):
    if x > 5:
        raise ValueError("too large")
    return 2 * x

@dag
def flow(n: int = 1):
    return two(one(n))

def hang(marker):
    Path(marker).write_text(str(os.getpid()))
    time.sleep(1000)

def hanging(marker: str):
    from functools import partial
    return DAG([Node("hang", fn=partial(hang, marker)), Node("after", fn=int, depends_on=["hang"])], name="hanging")

def slowly(count: int):
    return DAG([Node(f"step {n}", fn=pause, depends_on=[f"step {n-1}"] if n else []) for n in range(count)], name="slow")

def pause(): time.sleep(0.15)

unkept = DAG([Node("lambda", fn=lambda lock=threading.Lock(): None)], name="unkept")
"""


@pytest.fixture(autouse=True)
def flows(folder: Path) -> Path:
    (folder / "flows.py").write_text(FLOWS)
    return folder


def test_what_users_print_is_no_data(shell, folder):
    """Modules and functions of users had printed among the data, and no program could read these."""
    (folder / "loud_flows.py").write_text(
        "import os, sys\nfrom dagrid import dag, task\nprint('imported')\n"
        "@task\ndef tell(name):\n    print('called')\n    os.system('echo started')\n    return name\n"
        "@dag\ndef loud(name: str = 'x'):\n    print('made')\n    return tell(name)\n"
    )
    for flags in ([], ["--backend", "multiprocessing"]):
        said = shell("start", "loud_flows:loud", "--json", *flags)
        assert said.data["status"] == "succeeded"
        assert {"imported", "made", "called", "started"} <= set(said.err.split("\n"))
    for command in ("status", "explain"):
        assert shell(command, "loud", "--json").data["name"] == "loud"
    assert shell("graph", "loud_flows:loud", "--format", "dot").out.startswith("digraph")
    assert len(shell("enqueue", "loud_flows:loud").out.splitlines()) == 1
    assert shell("start", "loud_flows:loud").out == ""


def test_a_module_that_ends_the_process_is_told_of(shell, folder):
    """A script without a guard, for one: the command had ended with its code, as if it had been interrupted."""
    (folder / "script_flows.py").write_text("import sys\nsys.exit(3)\n")
    said = shell("start", "script_flows:flow")
    assert said.code == Exit.USAGE
    assert "script_flows:flow cannot be imported: SystemExit: 3" in said.err


def test_a_graph_runs_and_is_found_again(dagrid, history):
    """Its end is told, its run is in the history, and its log says what happened."""
    said = dagrid("start", "flows:flow", "--", "n=2")
    assert (said.code, said.out) == (0, "")
    lines = [re.sub(r"\[ *[\d.]+\] |\d+ ms|run .*", "", line).strip() for line in said.err.splitlines()]
    assert lines == [
        "one: started",
        "one: completed after",
        "two: started",
        "two: completed after",
        "flow succeeded after :",
    ]
    (info,) = history.runs()
    assert (info.name, info.status) == ("flow", "succeeded")
    assert info.run in said.err
    about = history.about(info.run)
    assert (about.kind, about.source, about.params, about.trigger) == ("graph", "flows:flow", ("n=2",), "manual")
    log = dagrid("logs", "flow").out
    assert [re.sub(r" after .*", "", line.partition(" ")[2]) for line in log.splitlines()] == [
        "one: started",
        "one: completed",
        "two: started",
        "two: completed",
        "the run has ended",
    ]


def test_what_a_node_has_printed_is_not_said_to_be_nothing(dagrid):
    """It had been on the terminal, and who looked for it in the logs was told that there had never been any."""
    dagrid("start", "flows:flow")
    said = dagrid("logs", "flow", "one")
    assert (said.code, said.out) == (0, "")
    assert "is not kept: it was shown where the node ran" in said.err


def test_restart_means_the_same_graph_from_another_folder(dagrid, history, folder, monkeypatch):
    """Its module is that of the folder where it was started, also where another one of that name lies."""
    (folder / "moved.py").write_text("from dagrid import DAG, Node\ndag = DAG([Node('a', fn=int)], name='moved')\n")
    assert dagrid("start", "moved:dag", "-q").code == 0
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "moved.py").write_text("raise RuntimeError('another one')\n")
    monkeypatch.chdir(folder / "elsewhere")
    del sys.modules["moved"]
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(folder)])
    said = dagrid("restart", "moved")
    assert said.code == 0, said.err
    assert history.about(history.runs()[0].run).more["folder"] == str(folder)


def test_a_graph_that_fails(dagrid, history):
    """What was raised is told with its place; the code says so; nothing is a traceback."""
    said = dagrid("start", "flows:flow", "--", "9")
    assert said.code == Exit.FAILED
    assert "two: ValueError: too large" in said.err
    assert "flows.py:12" in said.err
    assert "Traceback" not in said.err
    assert history.runs()[0].status == "failed"


def test_a_run_that_a_fault_of_ours_has_ended(dagrid, folder, monkeypatch):
    """Who is to report it has a report, and a program that started it sees that it was no failure of a step."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("dagrid.execution.calls.Calls._telling", broken)
    said = dagrid("start", "flows:flow", "--json")
    assert said.code == Exit.FAULT
    assert "ZeroDivisionError: on purpose" in said.data["error"]
    assert "has a fault" in said.err
    (report,) = (folder.parent / "home" / "faults").iterdir()
    assert "in broken" in report.read_text()


def test_for_programs(dagrid):
    """The whole result as JSON on standard output, and nothing else anywhere but the last word."""
    said = dagrid("start", "flows:flow", "--json", "-q", "--name", "mine", "--run-id", "run-1", "--", "9")
    assert said.code == Exit.FAILED
    assert said.err == ""
    assert (said.data["run"], said.data["name"], said.data["status"]) == ("run-1", "mine", "failed")
    one, two = said.data["steps"]
    assert (one["name"], one["status"], one["attempts"]) == ("one", "completed", 1)
    assert (two["status"], two["error"]) == ("failed", "ValueError: too large")


def test_quiet(dagrid):
    """Nothing at all but the code."""
    said = dagrid("start", "flows:flow", "-q")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_where_and_how_it_runs(dagrid, monkeypatch, folder):
    """The backend and the settings of nodes, by flag or by variable."""
    (folder / "settings.yaml").write_text("tags: {io: {maxConcurrency: 1}}\nnodes: {two: {retries: 1}}\n")
    monkeypatch.setenv("DAGRID_BACKEND", "inline")
    said = dagrid("start", "flows:flow", "--settings", "settings.yaml", "--json", "--", "9")
    assert said.code == Exit.FAILED
    assert said.data["steps"][1]["attempts"] == 2
    assert "Did you mean 'inline'" in dagrid("start", "flows:flow", "--backend", "inlin").err
    monkeypatch.setenv("DAGRID_SETTINGS", "none.yaml")
    assert dagrid("start", "flows:flow").code == Exit.USAGE


def test_what_could_not_begin_leaves_nothing(dagrid, history):
    """Neither a run nor a folder: a mistake is not a run."""
    for arguments in (
        ["flows:nothing"],
        ["flows:flow", "--backend", "nowhere"],
        ["flows:flow", "--", "n=x"],
        ["flows:flow", "--run-id", "a/b"],
        ["flows:unkept"],
    ):
        said = dagrid("start", *arguments)
        assert said.code == Exit.USAGE, arguments
        assert len(said.err.splitlines()) == 1
    assert history.runs() == []
    assert [path for path in (history.home / "logs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("command", ["retry", "graph"])
def test_a_graph_whose_module_is_gone(dagrid, history, folder, command):
    """Its run cannot be gone on with here, which is not the failure of a run."""
    (folder / "leaving.py").write_text(
        "from dagrid import DAG, Node\ndef only(): return 1 / 0\ngraph = DAG([Node('only', fn=only)], name='left')\n"
    )
    assert dagrid("start", "leaving:graph", "-q").code == Exit.FAILED
    (folder / "leaving.py").unlink()
    del sys.modules["leaving"]
    said = dagrid(command, "left")
    assert (said.code, "cannot be rebuilt here" in said.err) == (Exit.USAGE, True), said.err


def test_an_id_that_is_taken(dagrid, history):
    """The run that has it stays as it is."""
    assert dagrid("start", "flows:flow", "-r", "mine").code == 0
    said = dagrid("start", "flows:flow", "-r", "mine", "--", "9")
    assert said.code == Exit.USAGE
    assert "has a run 'mine' already" in said.err
    assert history.info("mine").status == "succeeded"


@contextlib.contextmanager
def started(*arguments: str, **settings):
    """Start the command as a process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dagrid", "start", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run(history, folder, number):
    """It is cancelled and recorded, and the code says that it was stopped."""
    with started(
        "flows:hanging", "--backend", "multiprocessing?max_workers=1", "--", str(folder / "marker")
    ) as process:
        appeared(folder / "marker")
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == Exit.INTERRUPTED
    assert "hanging aborted after" in err
    assert "Traceback" not in err
    (info,) = history.runs()
    assert info.status == "aborted"


def test_stop_from_another_shell(dagrid, history, folder):
    """`dagrid stop` waits until the run has ended, and says how."""
    with started(
        "flows:hanging", "--backend", "multiprocessing?max_workers=1", "--", str(folder / "marker")
    ) as process:
        appeared(folder / "marker")
        said = dagrid("stop", "hanging", "--json")
        assert said.code == 0
        assert said.data["status"] == "aborted"
        assert process.wait(PATIENCE) == Exit.INTERRUPTED


def test_killed_at_any_point_it_is_found_as_interrupted(history, folder):
    """Nothing has to be said at the end for that."""
    with started("flows:hanging", "--", str(folder / "marker")) as process:
        appeared(folder / "marker")
        assert history.runs()[0].status == "running"
        process.kill()
        process.wait(PATIENCE)
        assert history.runs()[0].status == "interrupted"


def on_a_terminal(
    *arguments: str,
    columns: int = 100,
    lines: int = 30,
    typed: str = "",
    look: Callable[[str], object] = lambda _: None,
) -> tuple[int, str]:
    """Run the command on a pseudo-terminal, and return its code and all that it drew; `look` sees what there is so far."""
    main, side = pty.openpty()
    os.write(main, typed.encode())
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)}
    environ.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dagrid", *arguments], stdin=side, stdout=side, stderr=side, env=environ, close_fds=True
    )
    os.close(side)
    drawn = b""
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([main], [], [], 0.1)
            if ready:
                try:
                    data = os.read(main, 65536)
                except OSError:  # as Linux tells that the other side is closed
                    break
                if not data:
                    break
                drawn += data
                look(drawn.decode("utf-8", "replace"))
            elif process.poll() is not None:
                break
        return process.wait(PATIENCE), drawn.decode()
    finally:
        process.kill()
        process.wait()
        os.close(main)


def screen(drawn: str) -> list[str]:
    """Return the lines that stay on the screen: those of the last picture and what came after it."""
    last = drawn.rpartition("\x1b[2K")[2]
    return [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).replace("\r", "").split("\n") if line]


def test_a_run_on_a_terminal():
    """Steps with their states are drawn while it goes on, and the last picture stays; the cursor comes back."""
    code, drawn = on_a_terminal("start", "flows:slowly", "--", "4")
    assert code == 0
    assert drawn.count("\x1b[2K") > 3, "it was drawn once, if at all"
    assert "\N{BLACK RIGHT-POINTING TRIANGLE}" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    for number in range(4):
        assert re.search(rf"\N{{CHECK MARK}} step {number} +[\d.]+ m?s", plain), plain
    assert "slow  4/4" in plain
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    assert "slow succeeded after" in screen(drawn)[-1]


def test_a_step_that_is_being_stopped_on_a_terminal(dagrid, folder, history):
    """It stays in the picture as what it is until it has gone; what never began has taken no time."""
    (folder / "long.yaml").write_text(
        "maxCleanUpTimeSec: 600\nsteps:\n"
        "  - {name: only, command: 'trap : TERM; touch there; until test -e go; do sleep 0.05 || :; done'}\n"
        "  - {name: behind, command: 'true'}\n"
    )
    asked: list[int] = []

    def look(drawn: str) -> None:
        if not asked and (folder / "there").exists():
            asked.append(history.runs()[0].pid)
            os.kill(asked[0], signal.SIGTERM)
        if "told to stop: interrupted" in drawn and "1 being stopped" in drawn:
            (folder / "go").touch()

    code, drawn = on_a_terminal("start", "long.yaml", look=look)
    assert code == Exit.INTERRUPTED
    assert "told to stop: interrupted" in drawn
    assert "being stopped" not in screen(drawn)[-1]
    assert re.match(r"\N{NOT SIGN} behind +interrupted", screen(drawn)[1]), screen(drawn)


def test_a_run_that_is_short_on_a_terminal():
    """Nothing is drawn that would be gone at once: its steps are told at the end."""
    code, drawn = on_a_terminal("start", "flows:flow", "--", "9")
    assert code == Exit.FAILED
    assert "\N{MULTIPLICATION SIGN} two" in drawn
    assert "ValueError: too large" in drawn


def test_a_large_graph_that_is_gone_on_with_on_a_terminal(dagrid, folder):
    """It is a bar as it was when it began: of so many nodes no list can be looked through."""
    (folder / "large.py").write_text(
        "import os\nfrom dagrid import DAG, Node\n"
        "def first():\n    assert os.path.exists('ok')\n"
        "graph = DAG([Node('first', fn=first), *(Node(f'n{n}', fn=int, depends_on=['first']) for n in range(1_000))])\n"
    )
    assert dagrid("start", "large:graph", "-q").code == Exit.FAILED
    (folder / "ok").touch()
    code, drawn = on_a_terminal("retry", "graph")
    assert code == 0, drawn
    assert "1,001/1,001" in drawn
    assert "not shown" not in drawn


def test_a_table_on_a_terminal(dagrid):
    """There colours help to see what failed."""
    dagrid("start", "flows:flow", "-q", "--", "9")
    code, drawn = on_a_terminal("history")
    assert code == 0
    assert "\x1b[31mfailed\x1b[0m" in drawn


def test_two_processes_in_one_home(history, folder):
    """Several runs at once do not disturb each other: all are there, each with all that it did."""
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(started("flows:slowly", "-q", "--json", "--", "3")) for _ in range(3)]
        results = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in runs]
    assert [result["status"] for result in results] == ["succeeded"] * 3
    assert {info.run for info in history.runs()} == {result["run"] for result in results}
    assert all(len(result["steps"]) == 3 for result in results)


def test_a_store_that_cannot_be_read(dagrid, history):
    """One line with the file and what to do."""
    history.home.mkdir()
    (history.home / "runs.db").write_bytes(b"no database at all, " * 100)
    for arguments in (["start", "flows:flow"], ["history"]):
        said = dagrid(*arguments)
        assert said.code == Exit.USAGE
        assert "runs.db" in said.err
        assert len(said.err.splitlines()) == 1
