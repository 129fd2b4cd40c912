"""Workflows through the real command: start, dry, status, explain, graph, exec, queues, what cannot begin, a full disk."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagrid.cli.exits import Exit
from dagrid.history import About, History
from tests.cli.conftest import NIGHTLY, PATIENCE, appeared, process
from tests.cli.test_graphs import on_a_terminal, screen

pytestmark = pytest.mark.usefixtures("files")


# start


def test_a_workflow_runs(shell, dagrid, history, files):
    """From its file to its end, and all of it is found again: status, outputs, logs."""
    (files / "ok").write_text("")
    said = shell("start", "nightly.yaml", "--", "DAY=monday")
    assert (said.code, said.out) == (0, ""), said.err
    assert "nightly succeeded after" in said.err
    found = dagrid("status", "nightly", "--json").data
    assert [(step["name"], step["status"]) for step in found["steps"]] == [
        ("fetch", "completed"),
        ("load", "completed"),
        ("report", "completed"),
    ]
    assert found["params"] == ["DAY=monday"]
    assert found["steps"][0]["outputs"] == {"GOT": "fetched monday"}
    assert dagrid("logs", "nightly", "report", "--stdout").out == "report of fetched monday\n"
    assert history.about(found["run"]).spec == NIGHTLY


def test_parameters_by_flag_variable_and_position(dagrid, files, monkeypatch):
    """A flag is split as a shell would, what stands behind -- is taken as it is; flags go before variables."""
    (files / "ok").write_text("")

    def day(*arguments: str) -> str:
        assert dagrid("start", "nightly.yaml", "-q", *arguments).code == 0
        return dagrid("logs", "nightly", "fetch", "--stdout").out

    assert day() == "fetched today\n"
    assert day("-p", "DAY='two words'") == "fetched two words\n"
    assert day("--", "first") == "fetched first\n"
    assert day("--", "DAY=a b") == "fetched a b\n"
    monkeypatch.setenv("DAGRID_PARAMS", "DAY=variable")
    assert day() == "fetched variable\n"
    assert day("--params", "DAY=flag") == "fetched flag\n"


def test_a_workflow_that_fails(dagrid, history):
    """What went wrong is told with the last words of the step; the code says that the run failed."""
    said = dagrid("start", "nightly.yaml")
    assert said.code == Exit.FAILED
    assert "load: " in said.err
    assert "no ok file" in said.err
    assert "Traceback" not in said.err
    assert history.runs()[0].status == "failed"
    record = dagrid("start", "nightly.yaml", "--json", "-q")
    assert record.err == ""
    steps = {step["name"]: step for step in record.data["steps"]}
    assert (steps["load"]["status"], steps["report"]["status"]) == ("failed", "skipped")
    assert "no ok file" in steps["load"]["error"]
    # A program asks with which code it failed and where its words are, now and later.
    for load in (steps["load"], dagrid("status", "nightly", "--json").data["steps"][1]):
        assert (load["code"], "no ok file" in Path(load["stderr"]).read_text()) == (3, True)


def test_a_precondition_is_asked_again_by_who_tries_again(dagrid, files):
    """What did not hold is no less in the way the second time; what has held once is not asked, for the run has begun."""
    (files / "maybe.yaml").write_text(
        "preconditions: 'test -e ready'\nsteps: [{name: a, command: 'rm -f ready; touch ran; test -e well'}]\n"
    )
    assert dagrid("start", "maybe.yaml").code == 0
    assert dagrid("retry", "maybe").code == 0
    assert dagrid("status", "maybe", "--json").data["status"] == "aborted"
    assert not (files / "ran").exists()
    (files / "ready").touch()
    assert dagrid("retry", "maybe").code == Exit.FAILED
    (files / "well").touch()
    assert dagrid("retry", "maybe").code == 0
    assert (files / "ran").exists()


def test_a_workflow_whose_precondition_does_not_hold(dagrid, files):
    """Nothing runs, and that is no failure."""
    (files / "maybe.yaml").write_text("preconditions: 'false'\nsteps:\n  - command: touch ran\n")
    assert dagrid("start", "maybe.yaml").code == 0
    assert not (files / "ran").exists()
    assert dagrid("history", "--json").data[0]["status"] == "aborted"


@pytest.mark.parametrize(
    ("text", "arguments", "code"),
    [
        ("steps:\n  - comand: x\n", [], Exit.USAGE),
        ("params: [{name: N, required: true}]\nsteps: [{command: x}]\n", [], Exit.USAGE),
        ("steps: [{command: x, workerSelector: {gpu: 'yes'}}]\n", [], Exit.USAGE),
        ("secrets: [{name: S, provider: env, key: NOT_SET}]\nsteps: [{command: x}]\n", [], Exit.USAGE),
        ("steps: [{command: x}]\n", ["--run-id", "a/b"], Exit.USAGE),
        (None, [], Exit.UNKNOWN),
    ],
)
def test_what_cannot_begin_leaves_nothing(dagrid, history, files, text, arguments, code):
    """A mistake is told, with its place where it has one, and is not a run."""
    if text is not None:
        (files / "wrong.yaml").write_text(text)
    said = dagrid("start", "wrong.yaml", *arguments)
    assert said.code == code, said.err
    assert said.err
    assert "Traceback" not in said.err
    assert history.runs() == []


def test_a_script_with_a_secret_in_it_is_left_nowhere(shell, files, tmp_path, monkeypatch):
    """Its process was killed, and the file stayed in the logs for as long as the run is kept."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("HIDDEN", "s3cret-t0ken")
    (files / "long.yaml").write_text(
        "secrets: [{name: KEY, provider: env, key: HIDDEN}]\n"
        "steps:\n"
        "  - name: a\n"
        "    script: |\n"
        f"      #!{sys.executable}\n"
        "      key = '${KEY}'\n"
        "      import os, time\n"
        "      open('there', 'w').close()\n"
        "      while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    with process("start", "long.yaml") as running:
        appeared(files / "there")
        assert [path.stat().st_mode & 0o777 for path in holding("s3cret-t0ken", tmp_path)] == [0o600]
        running.kill()
        running.wait(PATIENCE)
    (files / "go").touch()
    assert shell("start", "long.yaml").code == 0
    assert holding("s3cret-t0ken", tmp_path) == []
    assert list((tmp_path / "tmp").glob("*/*")) == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/")])
def test_a_script_that_can_be_put_nowhere_fails_its_step(shell, dagrid, files, tmp_path, monkeypatch, make):
    """The reason and the remedy are said."""
    make(tmp_path / f"dagrid-{os.getuid()}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (files / "flow.yaml").write_text(
        "steps: [{name: a, script: echo x, continueOn: failure}, {name: b, command: echo b}]\n"
    )
    assert shell("start", "flow.yaml").code == Exit.FAILED
    (failed, _) = dagrid("status", "flow", "--json").data["steps"]
    assert "TMPDIR" in failed["error"]


def holding(words, folder):
    """Return the files in which something stands."""
    return [path for path in folder.rglob("*") if path.is_file() and words.encode() in path.read_bytes()]


def test_bytes_that_are_no_text(files, history):
    """As a parameter they are refused; in the name of a file they do no harm."""
    (files / "n.yaml").write_text("steps: [{command: 'true'}]\n")
    os.link(b"n.yaml", b"odd\xff.yaml")

    def run(*arguments: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "dagrid", *arguments], capture_output=True, timeout=PATIENCE, check=False
        )

    for arguments in ((b"start", b"n.yaml", b"--", b"A=\xff"), (b"exec", b"--", b"\xff"), (b"status", b"\xff")):
        refused = run(*arguments)
        assert refused.returncode == Exit.USAGE
        assert b"no text in UTF-8" in refused.stderr
    for flag in (b"--from-run-id", b"--trigger-type"):
        refused = run(b"start", flag, b"\xff", b"n.yaml")
        assert (refused.returncode, refused.stderr) == (
            Exit.USAGE,
            b"dagrid: %s is text in UTF-8, not '\\udcff'.\n" % flag,
        )
    assert run(b"graph", b"\xff").returncode == Exit.UNKNOWN
    assert history.runs() == []
    done = run(b"start", b"odd\xff.yaml")
    assert done.returncode == 0, done.stderr
    assert history.about(history.runs()[0].run).source == rf"{files}/odd\udcff.yaml"
    assert run(b"status", b"odd").returncode == 0


def test_labels_of_this_machine(dagrid, files, monkeypatch):
    """By flag, variable or file, and selectors match them."""
    (files / "where.yaml").write_text("steps: [{command: 'true', workerSelector: {gpu: 'yes'}}]\n")
    assert dagrid("start", "where.yaml").code == Exit.USAGE
    assert dagrid("start", "where.yaml", "--worker.labels", "zone=a,gpu=yes").code == 0
    monkeypatch.setenv("DAGRID_WORKER_LABELS", "gpu=yes")
    assert dagrid("start", "where.yaml").code == 0
    monkeypatch.delenv("DAGRID_WORKER_LABELS")
    home = Path(os.environ["DAGRID_HOME"])
    (home / "config.yaml").write_text("worker: {labels: {gpu: 'yes'}}\n")
    assert dagrid("start", "where.yaml").code == 0


def test_a_secret_is_shown_nowhere(shell, files, monkeypatch):
    """Neither while the run goes on, nor at its end, nor later."""
    monkeypatch.setenv("TOKEN", "open-sesame")
    (files / "secret.yaml").write_text(
        "secrets: [{name: TOKEN, provider: env, key: TOKEN}]\n"
        "steps:\n"
        "  - {name: leak, command: 'echo $TOKEN; echo $TOKEN >&2; exit 1', output: OUT}\n"
    )
    said = [shell("start", "secret.yaml"), shell("start", "secret.yaml", "--json")]
    said += [shell(command, "secret") for command in ("status", "explain", "logs")]
    said += [shell("logs", "secret", "leak"), shell("status", "secret", "--json"), shell("history", "--json")]
    assert all("open-sesame" not in one.out + one.err for one in said)
    assert "*******" in said[0].err


# dry


def test_a_step_that_calls_dagrid_is_told_nothing_that_was_said_to_the_call_around_it(
    shell, history, files, monkeypatch
):
    """Its run had the id, the name and the parameters of the outer one, when variables had said these, and was refused."""
    (files / "inner.yaml").write_text("params: DAY=today\nsteps: [{name: a, command: 'echo \"$DAY\"', output: D}]\n")
    (files / "outer.yaml").write_text(
        f"steps: [{{name: a, command: '{sys.executable} -m dagrid start inner.yaml; env | grep ^DAGRID_'}}]\n"
    )
    for name, value in {"RUN_ID": "mine", "NAME": "outer", "PARAMS": "DAY=other", "QUIET": "true"}.items():
        monkeypatch.setenv(f"DAGRID_{name}", value)
    assert shell("start", "outer.yaml").code == 0
    assert sorted((run.name, run.run == "mine") for run in history.runs()) == [("inner", False), ("outer", True)]
    seen = set(re.findall("(?m)^DAGRID_[A-Z_]+", (history.folder("mine") / "a.out").read_text()))
    assert seen >= {"DAGRID_HOME", "DAGRID_QUIET"}
    assert not seen & {"DAGRID_RUN_ID", "DAGRID_NAME", "DAGRID_PARAMS"}


def test_what_would_run(dagrid, history, files):
    """Steps by level with what they do, parameters as they would be, and nothing is done or kept."""
    plan = dagrid("dry", "nightly.yaml", "--json", "--", "DAY=monday").data
    assert plan["params"] == {"DAY": "monday"}
    assert [(step["name"], step["level"], step.get("depends", [])) for step in plan["steps"]] == [
        ("fetch", 1, []),
        ("load", 2, ["fetch"]),
        ("report", 3, ["load"]),
    ]
    assert plan["steps"][0]["does"] == 'echo "fetched $DAY"'
    text = dagrid("dry", "nightly.yaml").out
    assert "nightly: 3 steps" in text
    assert "DAY=today" in text
    assert history.runs() == []
    assert dagrid("dry", "nightly.yaml", "--", "a", "b").code == 0
    (files / "closed.yaml").write_text("params: [{name: N, type: integer, required: true}]\nsteps: [{command: x}]\n")
    assert dagrid("dry", "closed.yaml").code == Exit.USAGE


def test_how_long_a_step_has_been_going_on(dagrid, files):
    """Programs are told the same as people: seconds until now, while it has no end."""
    (files / "long.yaml").write_text("steps:\n  - {name: only, command: 'sleep 0.2; touch there; sleep 600'}\n")
    with process("start", "long.yaml") as running:
        appeared(files / "there")
        (step,) = dagrid("status", "long", "--json").data["steps"]
        assert step["status"] == "running"
        assert 0.2 <= step["seconds"] < PATIENCE
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == Exit.INTERRUPTED


# status and explain


def test_what_is_told_of_runs(dagrid, history, files):
    """Of each step how it stands and why; of all runs those that go on."""
    dagrid("start", "nightly.yaml", "-q")
    text = dagrid("status", "nightly").out
    assert "nightly is failed" in text
    assert re.search(r"^load +failed .*no ok file", text, re.MULTILINE)
    told = dagrid("explain", "nightly").out.splitlines()
    assert len(told) == 2
    assert "report" in told[1]
    assert dagrid("explain", "nightly", "fetch").out.startswith("'fetch'")
    assert dagrid("explain", "nightly", "laod").code == Exit.UNKNOWN
    assert "load" in dagrid("explain", "nightly", "--json").data["steps"]
    assert dagrid("status").err == "No run goes on.\n"
    dagrid("enqueue", "nightly.yaml")
    assert [one["status"] for one in dagrid("status", "--json").data] == ["queued"]
    assert "start --next" in dagrid("status", "nightly").out
    assert "queue" in dagrid("explain", "nightly").out
    run = dagrid("status", "--json").data[0]["run"]
    for arguments, said in ((["graph", run], "is queued and has not begun"), (["approve", run], "it is queued")):
        refused = dagrid(*arguments)
        assert (refused.code, said in refused.err) == (Exit.USAGE, True), refused.err
    assert dagrid("stop", run).code == 0
    assert dagrid("explain", run).out == (
        "The run is aborted. It was taken out of its queue before it began: dagrid retry begins it.\n"
    )


def test_what_is_told_of_runs_that_never_began(dagrid, history, files):
    """No step of theirs has completed: who asks why is told what became of them, and where it says more."""
    text = "dotenv: [settings.env]\nsteps: ['true']\n"
    refused = history.enqueue("reads", About(queue="q", source="reads.yaml", spec=text, more={"folder": str(files)}))
    taken = history.enqueue("taken", About(queue="r", spec="steps: ['true']\n"))
    (files / "settings.env").mkdir()  # it cannot be read
    for run in (refused, taken):
        history.dequeue(run)
    assert dagrid("retry", refused).code == Exit.USAGE
    assert "dagrid logs" in dagrid("explain", refused).out
    assert "settings.env" in dagrid("logs", refused).out
    assert "dagrid logs" in dagrid("explain", refused, "--json").data["because"]
    for command in ("explain", "status"):
        assert "dagrid retry" in dagrid(command, taken).out
        assert "completed" not in dagrid(command, refused).out + dagrid(command, taken).out


def test_a_run_drawn_with_its_states(dagrid):
    """As text, and as an SVG whose boxes have the colours of their states."""
    dagrid("start", "nightly.yaml", "-q")
    run = dagrid("history", "--json").data[0]["run"]
    assert dagrid("graph", run).out.splitlines() == [
        "1  fetch  [completed]",
        "2  load  [failed]  <- fetch",
        "3  report  [skipped]  <- load",
    ]
    assert 'class="n failed' in dagrid("graph", run, "-f", "svg").out


# queues


def test_the_next_of_a_queue_is_started(dagrid, history, files):
    """By priority, with its parameters and its text as they were when it was put there, under the id that it got."""
    (files / "ok").write_text("")
    one = dagrid("enqueue", "nightly.yaml", "-u", "q", "--", "DAY=one").out.strip()
    two = dagrid("enqueue", "nightly.yaml", "-u", "q", "--priority", "3", "--", "DAY=two").out.strip()
    (files / "nightly.yaml").write_text("steps: [{command: 'false'}]\n")
    assert dagrid("start", "--next", "q").code == 0
    assert [history.info(run).status for run in (one, two)] == ["queued", "succeeded"]
    assert dagrid("logs", two, "fetch", "--stdout").out == "fetched two\n"
    assert dagrid("start", "--next", "q").code == 0
    assert dagrid("start", "--next", "q").code == Exit.UNKNOWN
    assert dagrid("start", "--next", "q", "nightly.yaml").code == Exit.USAGE
    assert dagrid("start").code == Exit.USAGE


def test_a_graph_of_pythons_waits_in_a_queue(dagrid, history, files):
    """Its name and its arguments are kept."""
    (files / "waiting_flows.py").write_text(
        "from dagrid import dag, task\n@task\ndef one(x): return x\n@dag\ndef flow(n: int): return one(n)\n"
    )
    run = dagrid("enqueue", "waiting_flows:flow", "--", "3").out.strip()
    assert dagrid("start", "--next", "flow").code == 0
    assert history.info(run).status == "succeeded"


def test_a_queued_run_that_cannot_begin_has_failed(dagrid, history, files):
    """It does not come again with every look into the queue, and its log says why."""
    (files / "where.yaml").write_text("steps: [{command: 'true', workerSelector: {gpu: 'yes'}}]\n")
    run = dagrid("enqueue", "where.yaml", "-u", "q").out.strip()
    assert dagrid("start", "--next", "q").code == Exit.USAGE
    assert history.info(run).status == "failed"
    assert history.queued() == []


# exec


def test_one_command_is_a_run(shell, dagrid, history, files):
    """What it writes is shown and kept; what is said is taken as it is, and never expanded again."""
    said = shell("exec", "-E", "MODE=fast $HOME", "--", "sh", "-c", 'echo "$MODE $1"; echo oh >&2', "sh", "$HOME `id`")
    assert said.code == 0, said.err
    assert said.out == "fast $HOME $HOME `id`\n"
    assert "oh\n" in said.err
    (info,) = history.runs()
    assert (info.name, info.status) == ("exec-sh", "succeeded")
    assert dagrid("logs", "exec-sh", "sh", "--stdout").out == said.out


def test_how_one_command_is_run(shell, dagrid, history, files):
    """Its name, its folder, its shell, its variables from a file, and its failure."""
    (files / "sub").mkdir()
    (files / "vars").write_text("GREETING=hello\n")
    said = shell(
        "exec",
        "-N",
        "mine",
        "--workdir",
        "sub",
        "--dotenv",
        "vars",
        "--shell",
        "sh",
        "--",
        "pwd; echo $GREETING | tr a-z A-Z",
    )
    assert (said.code, said.out) == (0, f"{files / 'sub'}\nHELLO\n"), said.err
    failed = shell("exec", "--json", "--", "sh", "-c", "exit 7")
    assert failed.code == Exit.FAILED
    assert json.loads(failed.out)["steps"][0]["status"] == "failed"
    assert dagrid("exec", "--workdir", "none", "--", "true").code == Exit.USAGE
    assert shell("exec", "--", "surely-no-such-program").code == Exit.FAILED
    assert [info.name for info in history.runs()][-1] == "mine"


# disks and terminals


def test_a_disk_that_is_full(files):
    """Files cannot grow: the run cannot be kept, and that is said in words."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with process("start", "nightly.yaml", "-q", preexec_fn=limit) as running:
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode in (Exit.USAGE, Exit.FAILED), err
    assert "runs.db" in err
    assert "Traceback" not in err


@pytest.mark.engine
def test_two_homes_with_one_database(dagrid, postgres, tmp_path, files, monkeypatch):
    """A run that one home has begun is seen from the other one, and gone on with."""
    monkeypatch.setenv("DAGRID_STORE", postgres.url(tmp_path))
    assert dagrid("start", "nightly.yaml", "-q").code == Exit.FAILED
    assert dagrid("config", "store").out == postgres.url(tmp_path).replace("open-sesame", "***") + "\n"
    monkeypatch.setenv("DAGRID_HOME", str(tmp_path / "second"))
    assert [one["status"] for one in dagrid("history", "--json").data] == ["failed"]
    (files / "ok").write_text("")
    assert dagrid("retry", "nightly").code == 0
    assert [step["status"] for step in dagrid("status", "nightly", "--json").data["steps"]] == ["completed"] * 3


@pytest.mark.engine
def test_a_step_that_calls_dagrid_has_the_store_and_shows_no_password(
    shell, dagrid, postgres, tmp_path, files, monkeypatch
):
    """The run that it starts is in the same database; its environment is printed with the password masked."""
    monkeypatch.setenv("DAGRID_STORE", postgres.url(tmp_path))
    command = f"{sys.executable} -m dagrid exec -N inner -- sh -c env"
    (files / "outer.yaml").write_text(f"steps: [{{name: a, command: '{command}; env'}}]\n")
    assert shell("start", "outer.yaml").code == 0
    assert {one["name"] for one in dagrid("history", "--json").data} == {"outer", "inner"}
    for run in ("outer", "inner"):
        (step,) = dagrid("status", run, "--json").data["steps"]
        said = dagrid("logs", run, step["name"]).out
        assert "DAGRID_STORE=postgresql://" in said
        assert "open-sesame" not in said


def test_a_step_that_calls_dagrid_has_the_home_and_the_settings_of_its_run(shell, folder, tmp_path, monkeypatch):
    """Flags had said them, or variables by paths from another folder: what a step began was in the user's own home."""
    for name in ("inner", "elsewhere"):
        (folder / name).mkdir()
    (folder / "own.yaml").write_text("history: {limit: 1}\n")
    command = f"{sys.executable} -m dagrid"
    (folder / "outer.yaml").write_text(
        f"steps:\n  - {{command: '{command} exec -qN inner -- true; {command} config history.limit', workingDir: inner}}\n"
    )
    assert shell("start", "outer.yaml", "--dagrid-home", "elsewhere", "--config", "own.yaml", "-q").code == 0
    monkeypatch.setenv("DAGRID_HOME", "elsewhere")
    monkeypatch.setenv("DAGRID_CONFIG", "own.yaml")
    assert shell("start", "outer.yaml", "-q").code == 0
    with History(folder / "elsewhere") as history:
        assert sorted(one.name for one in history.runs()) == ["inner", "inner", "outer", "outer"]
    assert shell("logs", "outer", "cmd_1").out == "1\n"
    assert not (tmp_path / "home").exists()


@pytest.mark.engine
def test_a_step_that_calls_dagrid_has_the_store_that_a_flag_says(shell, dagrid, postgres, tmp_path, files):
    """The run that it starts is in the same database, of which no password is shown."""
    store = ["--store", postgres.url(tmp_path)]
    (files / "outer.yaml").write_text(f"steps: ['{sys.executable} -m dagrid exec -qN inner -- true; env']\n")
    assert shell("start", "outer.yaml", *store).code == 0
    assert {one["name"] for one in dagrid("history", "--json", *store).data} == {"outer", "inner"}
    said = dagrid("logs", "outer", "cmd_1", *store).out
    assert "DAGRID_STORE=postgresql://" in said
    assert "open-sesame" not in said
    assert "DAGRID_STORE" not in os.environ


def test_a_workflow_on_a_terminal(files):
    """Each step with its state and the last line that it has written."""
    (files / "slow.yaml").write_text(
        "steps:\n"
        "  - {name: first, command: 'echo downloading; until test -e seen; do sleep 0.02; done; echo 42 percent'}\n"
        "  - {name: second, command: 'echo done'}\n"
    )

    def look(drawn: str) -> None:
        if "downloading" in drawn:
            (files / "seen").touch()

    code, drawn = on_a_terminal("start", "slow.yaml", look=look)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    assert re.search(r"\N{BLACK RIGHT-POINTING TRIANGLE} first +[\d.]+ m?s +downloading", plain), plain
    assert re.search(r"\N{CHECK MARK} first +[\d.]+ m?s +42 percent", plain), plain
    assert re.search(r"\N{CHECK MARK} second +[\d.]+ m?s +done", plain), plain
    assert "slow  2/2" in plain


@pytest.mark.parametrize("columns", [80, 24])
def test_long_lines_on_a_terminal(files, columns):
    """A step that writes more than a line of the screen is cut there; its state and its time, and those of others, stay whole."""
    (files / "wordy.yaml").write_text(
        f"steps:\n  - {{name: a step with quite a long name, command: 'echo {'words ' * 40}; sleep 0.4'}}\n"
        "  - {name: brief, command: 'sleep 0.1'}\n"
    )
    code, drawn = on_a_terminal("start", "wordy.yaml", columns=columns)
    assert code == 0
    lines = screen(drawn)
    assert re.match(r"\N{CHECK MARK} a .*\N{HORIZONTAL ELLIPSIS} +[\d.]+ m?s .*\N{HORIZONTAL ELLIPSIS}$", lines[0]), (
        lines
    )
    assert re.match(r"\N{CHECK MARK} brief +[\d.]+ m?s", lines[1]), lines
    assert max(map(len, lines[:2])) <= columns
