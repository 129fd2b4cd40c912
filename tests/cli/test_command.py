"""The command as a whole: what it says of itself, how it ends, and that no user ever sees a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagrid import __version__
from dagrid.cli import exits
from dagrid.cli.app import COMMANDS, group
from dagrid.cli.exits import MEANINGS, Exit
from dagrid.config import settings_of
from dagrid.errors import InternalError

ROOT = Path(__file__).parents[2]


def test_every_command_says_what_it_does(dagrid):
    """With an example that somebody can copy, and every flag with its meaning."""
    for name in COMMANDS:
        said = dagrid(name, "--help")
        assert said.code == 0
        assert f"dagrid {name}" in said.out.partition("Examples:")[2], f"{name} has no example"
        for setting in settings_of(name):
            for flag in setting.flags:
                assert flag in said.out, f"{name} does not name {flag}"


def test_help_comes_with_a_word_or_without(dagrid):
    """The list of commands is the same; with no word at all it is a mistake that it is shown."""
    asked, none = dagrid("--help"), dagrid()
    assert (asked.code, none.code) == (0, Exit.USAGE)
    assert all(re.search(rf"^  {name} +\S", asked.out, re.MULTILINE) for name in COMMANDS)
    assert none.out.split() == asked.out.split()


def test_the_version(dagrid):
    """By either spelling, and for programs."""
    assert dagrid("version").out == dagrid("--version").out == f"dagrid {__version__}\n"
    assert dagrid("version", "--json").data["dagrid"] == __version__
    assert dagrid("--json", "version").data["dagrid"] == __version__


def test_python_m_dagrid_is_the_command(shell):
    """Where scripts are not on the path."""
    assert shell("version").out == f"dagrid {__version__}\n"


def test_the_script_that_is_installed():
    """The entry point leads to the command."""
    script = shutil.which("dagrid", path=str(Path(sys.executable).parent))
    assert script is not None
    done = subprocess.run([script, "version"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == f"dagrid {__version__}\n"


def test_the_current_folder_is_gone(dagrid, folder):
    """Somebody has removed it, and what was said was that there is no such file."""
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()
    said = dagrid("exec", "--", "pwd")
    assert said.code == Exit.USAGE
    assert said.err == "dagrid: The current folder is gone. Go to one that is there.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["strat"], Exit.USAGE, "There is no command 'strat'. Did you mean 'start'?"),
        (["history", "--limt", "3"], Exit.USAGE, "--limt"),
        (["history", "--limit", "x"], Exit.USAGE, "--limit is a whole number from 0 up, not 'x'"),
        (["validate"], Exit.USAGE, "FILES"),
        (["config", "quit"], Exit.USAGE, "There is no setting 'quit'. Did you mean 'quiet'?"),
        (["--tz", "Nowhere", "config"], Exit.USAGE, "--tz is a time zone such as Europe/Zurich, not 'Nowhere'"),
        (["--dagrid-home", "~nobody-at-all/runs", "history"], Exit.USAGE, "~nobody-at-all/runs: there is no such user"),
        (["--config", "~nobody-at-all/c.yaml", "config"], Exit.USAGE, "~nobody-at-all/c.yaml: there is no such user"),
        (["--dagrid-home", "a" * 300, "history"], Exit.USAGE, "cannot be seen: File name too long. Name another home"),
        (["start", "--dags", "~nobody-at-all", "x"], Exit.USAGE, "~nobody-at-all: there is no such user"),
        (["worker", "--worker.tls-ca", "~nobody-at-all/ca"], Exit.USAGE, "~nobody-at-all/ca: there is no such user"),
        (["validate", "none.yaml"], Exit.UNKNOWN, "there is no such workflow"),
    ],
)
def test_a_mistake_is_told_in_words(dagrid, arguments, code, said):
    """On standard error or, where it is the data that were asked for, on standard output; with a code that says what kind."""
    found = dagrid(*arguments)
    assert found.code == code
    assert said in found.err + found.out
    assert "Traceback" not in found.err + found.out


def test_a_mistake_is_told_to_programs(dagrid):
    """In one line of JSON on standard error."""
    found = dagrid("config", "quit", "--json")
    assert json.loads(found.err) == {
        "error": "There is no setting 'quit'. Did you mean 'quiet'?",
        "kind": "InvalidSettingError",
        "code": 2,
    }
    assert found.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["history", "--limt", "3", "--json"], "No such option '--limt'"),
        (["--json", "strat"], "There is no command 'strat'. Did you mean 'start'?"),
        (["validate", "--json=true"], "Missing argument 'FILES...'"),
    ],
)
def test_a_command_line_that_is_wrong_is_told_to_programs_too(dagrid, monkeypatch, arguments, said):
    """They got words and a usage where any other error was a record; asked by a variable they get it as well."""
    found = dagrid(*arguments)
    assert (found.code, found.out) == (Exit.USAGE, "")
    record = json.loads(found.err)
    assert said in record["error"]
    assert record["code"] == 2
    monkeypatch.setenv("DAGRID_JSON", "true")
    assert dagrid(*[word for word in arguments if "json" not in word]).err == found.err
    plain = dagrid(*[word for word in arguments if "json" not in word], "--json=false")
    assert (plain.code, plain.out + plain.err == found.err) == (Exit.USAGE, False)


def test_what_stands_behind_the_dashes_asks_for_nothing(dagrid):
    """It is for the command that is called, which may have a flag of the same name."""
    assert dagrid("exec", "--nme", "x", "--", "ls", "--json").err.startswith("dagrid: No such option")


@pytest.mark.parametrize("error", [KeyError("oh"), InternalError("a move that is not legal")])
def test_a_fault_is_told_in_one_line(dagrid, monkeypatch, tmp_path, error):
    """And where the full report is, which a user can send: with the traceback, and without what stood behind the command."""
    from dagrid.cli import output

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(output.Output, "line", broken)
    found = dagrid("config", "home")
    assert found.code == int(Exit.FAULT) == 70
    assert len(found.err.splitlines()) == 1
    (report,) = (tmp_path / "home" / "faults").iterdir()
    assert str(report) in found.err
    text = report.read_text()
    assert "Traceback" in text
    assert "'config'" in text
    assert "'home'" not in text
    assert f"dagrid {__version__}" in text


def test_a_fault_where_there_is_no_home(dagrid, monkeypatch, tmp_path):
    """The report goes where there is room."""
    from dagrid.cli import output

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAGRID_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(output.Output, "line", lambda *_: 1 / 0)
    found = dagrid("version")
    assert found.code == Exit.FAULT
    assert str(next((tmp_path / "dagrid" / "faults").iterdir())) in found.err


def test_debug_shows_all_of_it(dagrid, monkeypatch):
    """For those who look into it themselves."""
    from dagrid.cli import output

    monkeypatch.setattr(output.Output, "line", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in dagrid("version", "--debug").err.partition("Traceback")[2]


@pytest.mark.parametrize(
    ("command", "first"),
    [("schema", "{"), ("exec -q -- seq 300000", "1"), ("logs count seq", "1"), ("logs -f count seq", "1")],
)
def test_a_reader_that_goes_away(dagrid, command, first):
    """`dagrid schema | head -1` is no error; what a command or a log goes on to write is for nobody."""
    if command.startswith("logs"):
        assert dagrid("exec", "-q", "-N", "count", "--", "seq", "300000").code == 0
    command = f"unset PYTHONUNBUFFERED; {sys.executable} -m dagrid {command} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{first}\n"


def test_a_command_whose_output_cannot_be_shown():
    """It has run, but who asked for its output does not have it, and is told why; no traceback."""
    command = f"{sys.executable} -m dagrid exec -q -- seq 10 > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (Exit.USAGE, "dagrid: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_where_nobody_listens(closed):
    """A stream that is closed is no fault."""
    for arguments, code in (("version", 0), ("config quit", Exit.USAGE)):
        line = f"{sys.executable} -m dagrid {arguments} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == code, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no such device")
def test_data_that_cannot_be_written():
    """It is said, and the code tells it too: who reads the file later must not take it for whole."""
    line = f"{sys.executable} -m dagrid schema > /dev/full"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == Exit.USAGE
    assert done.stderr == "dagrid: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no such device")
@pytest.mark.parametrize("ears", ["2> /dev/full", "2>&1 > /dev/null | true"])
@pytest.mark.parametrize(("what", "code"), [("start good", 0), ("start bad", 1), ("status nobody", Exit.UNKNOWN)])
def test_what_is_told_to_nobody_changes_no_end(folder, ears, what, code):
    """Talk that does not come through is lost; whether the run has failed is told by the code."""
    (folder / "good.yaml").write_text("steps: ['true']\n")
    (folder / "bad.yaml").write_text("steps: ['false']\n")
    line = f"{sys.executable} -m dagrid {what} {ears}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr


def test_what_is_written_at_the_end_is_not_lost():
    """The program ends at once, and yet not before all is written and whoever asked for it was called."""
    code = (
        "import atexit, sys, threading, time\n"
        "from dagrid.cli import script\n"
        "atexit.register(lambda: print('called', flush=False))\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('waited for'))).start()\n"
        "sys.argv = ['dagrid', 'version']\n"
        "script()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    *before, last = done.stdout.splitlines()
    assert (sorted(before), last) == ([f"dagrid {__version__}", "waited for"], "called")


def test_without_its_extra_the_command_says_how_to_get_it():
    """The wheel alone has the command, and not what it needs."""
    code = "import sys\nsys.modules['click'] = None\nfrom dagrid.cli import main\nsys.exit(main(['version']))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == Exit.USAGE
    assert "pip install 'dagrid[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_command_does_not_need_is_not_imported():
    """People wait for it: help and version load neither YAML nor rich nor any store."""
    code = (
        "import sys\n"
        "from dagrid.cli import main\n"
        "main(sys.argv[1:])\n"
        "print(*sorted(name for name in sys.modules), file=sys.stderr)\n"
    )
    unwanted = {"yaml", "rich", "sqlite3", "asyncio", "cronsim", "psycopg", "multiprocessing", "cloudpickle", "socket"}
    for arguments in (["--help"], ["version"], ["completion", "bash"], ["config", "home"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30, check=True
        )
        loaded = set(done.stderr.split())
        assert "click" in loaded
        used = {"asyncio"} if arguments[0] == "completion" else set()  # click asks bash for its version
        assert not (loaded & unwanted) - used, arguments


def test_every_code_has_a_meaning():
    """One list, which the documentation is held against."""
    assert set(MEANINGS) == set(Exit)
    assert exits.exit_of_status("succeeded") == exits.exit_of_status("succeeded", stopped=True) == 0
    assert exits.exit_of_status("aborted") == 0
    assert exits.exit_of_status("aborted", stopped=True) == exits.exit_of_status("failed", stopped=True) == 3
    assert exits.exit_of_status("failed") == exits.exit_of_status("partially_succeeded") == 1
    assert exits.exit_of_status("waiting") == 4


def test_commands_are_looked_up_one_by_one():
    """To call one does not import the others."""
    code = "import sys; from dagrid.cli import main; main(['version', '-q']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    rooms = {name for name in done.stdout.split() if name.startswith("dagrid.cli.commands.")}
    assert rooms == {"dagrid.cli.commands.settings"}
    assert list(group().list_commands(None)) == list(COMMANDS)  # type: ignore[arg-type]


def test_what_would_have_no_effect_is_refused(dagrid, history, folder):
    """A flag that is for other things, a file that is not there, a quote without an end, a name that no run can have."""
    (folder / "flow.yaml").write_text("params: X=1\nsteps: [echo]\n")
    for arguments, why in (
        (("start", "flow.yaml", "--backend", "thread"), "is for graphs of Python's"),
        (("exec", "--dotenv", "nofile", "--", "true"), "there is no file nofile"),
        (("start", "flow.yaml", "-p", "X='a b"), "a quote that is not closed: 'a"),
        (("start", "flow.yaml", "-N", ""), "is a name"),
        (("start", "flow.yaml", "-N", "a" * 300), "is a name"),
        (("enqueue", "flow.yaml", "-N", "a\nb"), "is a name"),
    ):
        said = dagrid(*arguments)
        assert (said.code, why in said.err) == (Exit.USAGE, True), said.err
    assert history.runs() == []
    assert dagrid("start", "flow.yaml", "-q", "-p", "X='a b' 'it'").code == 0
    assert dagrid("retry", "flow", "--from", "cmd_1", "--backend", "thread").code == Exit.USAGE
    assert dagrid("cleanup", "flwo", "-y").code == Exit.UNKNOWN
    assert len(history.runs()) == 1


def test_a_file_says_the_form_of_a_drawing(dagrid, folder):
    """By its name, unless a form is named."""
    (folder / "flow.yaml").write_text("steps: [echo]\n")
    for name, arguments, begins in (
        ("g.svg", (), "<svg"),
        ("g.dot", (), "digraph"),
        ("g.mmd", (), "flowchart"),
        ("g.txt", (), "1  cmd_1"),
        ("h.svg", ("-f", "text"), "1  cmd_1"),
    ):
        assert dagrid("graph", "flow.yaml", "-o", name, *arguments).code == 0
        assert (folder / name).read_text().startswith(begins), name


def test_a_run_that_was_called_is_found_by_its_name(dagrid, folder):
    """Where no other run has it."""
    (folder / "flow.yaml").write_text("steps: [{name: a, call: kid}]\n---\nname: kid\nsteps: [echo]\n")
    assert dagrid("start", "flow.yaml", "-q").code == 0
    assert "kid is succeeded" in dagrid("status", "kid").out


def test_a_recursion_without_end_says_so_once(dagrid, folder):
    """The reason comes first, however deep it is."""
    (folder / "rec.yaml").write_text("steps: [{name: a, call: rec}]\n")
    said = dagrid("start", "rec.yaml", "-q")
    assert said.code == Exit.FAILED
    assert said.err.count("The workflow 'rec' has failed") == 1
    assert "Workflows call each other" in said.err
