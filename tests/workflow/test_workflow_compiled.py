"""A file that was read and checked is known the next time, with its graphs, and is never taken for what it is no longer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

import dagrid
from dagrid.errors import CapabilityError, WorkflowError, WorkflowNotFoundError
from dagrid.history import History
from dagrid.workflow import compiled, loading, lowering, running, steps

CASES = sorted(Path(__file__).with_name("cases").glob("*.yaml"))
HELLO = "steps:\n  - command: echo hello\n"


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def reads(monkeypatch):
    """The files that were read and checked."""
    found = []
    load = loading.load

    def counted(path, **settings):
        found.append(Path(path).name)
        return load(path, **settings)

    monkeypatch.setattr(loading, "load", counted)
    return found


def load(path, home):
    """Return a file as who starts it has it."""
    file = compiled.load(path, home)
    compiled.keep(file)
    return file


def written(path, text):
    path.write_text(dedent(text))
    return path


def outcome(read):
    """Return what is in a file, or all that is wrong with it."""
    try:
        return msgspec.structs.replace(read(), home=None, kept=-1)
    except WorkflowError as error:
        return tuple(error.problems)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_is_known_is_what_would_be_read(path, home, reads):
    expected = outcome(lambda: loading.load(path, types=steps.KINDS, inspect=steps.check))
    reads.clear()
    found = [outcome(lambda: load(path, home)) for _ in range(3)]
    assert found == [expected] * 3
    assert len(reads) == (3 if isinstance(expected, tuple) else 1)


def test_what_is_known_needs_no_parser(tmp_path, home):
    path = written(tmp_path / "flow.yaml", HELLO)
    program = f"""
        import sys
        from pathlib import Path
        from dagrid.workflow import compiled
        file = compiled.load({str(path)!r}, Path({str(home)!r}))
        assert file.main.steps[0].command == ("echo hello",)
        compiled.keep(file)
        print(*sorted({{"yaml", "dagrid.workflow.loading", "dagrid.workflow.schema"}} & sys.modules.keys()))
    """
    said = [
        subprocess.run(
            [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert said == [["dagrid.workflow.loading", "dagrid.workflow.schema", "yaml"], []]


def test_another_text_is_read(tmp_path, home, reads):
    path = written(tmp_path / "flow.yaml", HELLO)
    load(path, home)
    state = path.stat()
    path.write_text(HELLO.replace("hello", "world"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # a tool may put back the time that it found
    assert load(path, home).main.steps[0].command == ("echo world",)
    path.write_text(HELLO)
    assert load(path, home).text == HELLO
    assert len(reads) == 3


def test_a_wrong_text_is_told_as_ever_and_what_it_was_before_is_known_no_longer(tmp_path, home):
    path = written(tmp_path / "flow.yaml", HELLO)
    load(path, home)
    path.write_text("steps:\n  - comand: echo hello\n")
    for _ in range(2):
        with pytest.raises(WorkflowError, match="command"):
            load(path, home)
    path.write_bytes(HELLO.encode() + b"# \xff\n")
    with pytest.raises(WorkflowError, match="no UTF-8"):
        load(path, home)
    path.unlink()
    with pytest.raises(WorkflowNotFoundError, match="no such file"):
        load(path, home)


def test_a_mark_before_the_text_is_none_of_it(tmp_path, home, reads):
    path = tmp_path / "flow.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HELLO.encode())
    assert [load(path, home).text for _ in range(2)] == [HELLO, HELLO]
    assert len(reads) == 1


def test_another_dagrid_reads_again(tmp_path, home, reads, monkeypatch):
    path = written(tmp_path / "flow.yaml", HELLO)
    load(path, home)
    with monkeypatch.context() as later:
        later.setattr(dagrid, "__version__", "99.0")
        load(path, home)
    monkeypatch.setattr(compiled, "_ROOMS", compiled._ROOMS[1:])
    load(path, home)
    assert len(reads) == 3


def test_messages_name_the_file_as_it_was_named_now(tmp_path, home, monkeypatch):
    written(tmp_path / "flow.yaml", "histRetentionDays: 1\nhandlerOn: {wait: {command: a}}\n" + HELLO)
    monkeypatch.chdir(tmp_path)
    files = [load(name, home) for name in ("flow.yaml", "flow", "./flow.yaml", tmp_path / "flow.yaml") * 2]
    assert [file.name for file in files] == ["flow.yaml", "flow.yaml", "flow.yaml", str(tmp_path / "flow.yaml")] * 2
    assert all(len(file.warnings) == 1 and file.warnings[0].file == file.name for file in files)


def test_a_copy_is_a_file_of_its_own(tmp_path, home):
    path = written(tmp_path / "flow.yaml", HELLO)
    load(path, home)
    (tmp_path / "other").mkdir()
    copy = shutil.copy2(path, tmp_path / "other" / "copy.yaml")
    file = load(copy, home)
    assert (file.main.name, file.folder) == ("copy", str(tmp_path / "other"))
    assert load(path, home).main.name == "flow"


def test_a_called_workflow_that_is_gone_is_missed(tmp_path, home, reads):
    path = written(tmp_path / "flow.yaml", "steps:\n  - call: child\nhandlerOn:\n  exit: {call: last}\n")
    for name in ("child", "last"):
        written(tmp_path / f"{name}.yaml", HELLO)
    load(path, home)
    for name in ("child", "last"):
        (tmp_path / f"{name}.yaml").unlink()
        with pytest.raises(WorkflowError, match=f"no workflow '{name}'"):
            load(path, home)
        written(tmp_path / f"{name}.yaml", HELLO)
        load(path, home)
    assert len(reads) == 3


def test_a_type_whose_package_is_gone_is_missed(tmp_path, home, monkeypatch):
    path = written(tmp_path / "flow.yaml", "steps:\n  - {type: jq, config: {raw: true}, command: ., script: '{}'}\n")
    load(path, home)
    steps.of.cache_clear()
    monkeypatch.setitem(sys.modules, "dagrid.workflow.steps.jq", None)
    with pytest.raises(WorkflowError, match="not there"):
        load(path, home)
    steps.of.cache_clear()


def test_types_of_others_are_always_asked(tmp_path, home, reads, monkeypatch):
    path = written(tmp_path / "flow.yaml", "steps:\n  - {type: theirs}\n")
    monkeypatch.setattr(steps, "_foreign", lambda: {"theirs": None})
    monkeypatch.setattr(steps, "of", lambda kind: object())
    for _ in range(2):
        load(path, home)
    assert len(reads) == 2


def test_nothing_is_made_where_no_home_is(tmp_path, reads):
    path = written(tmp_path / "flow.yaml", HELLO)
    for _ in range(2):
        load(path, tmp_path / "home")
    assert len(reads) == 2
    assert not (tmp_path / "home").exists()


def test_where_nothing_can_be_kept_the_file_is_read(tmp_path, home, reads):
    path = written(tmp_path / "flow.yaml", HELLO)
    (home / compiled.FOLDER).write_text("in the way")
    for _ in range(2):
        assert load(path, home).main.name == "flow"
    assert len(reads) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:-200] + bytes(200)])
def test_what_is_damaged_is_read_and_kept_again(tmp_path, home, reads, damage):
    path = written(tmp_path / "flow.yaml", HELLO)
    load(path, home)
    (kept,) = (home / compiled.FOLDER).iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert [load(path, home).main.name for _ in range(2)] == ["flow", "flow"]
    assert len(reads) == 2


def test_files_that_share_a_slot_take_turns(tmp_path, home, reads, monkeypatch):
    monkeypatch.setattr(compiled, "SLOTS", 1)
    paths = [written(tmp_path / f"{name}.yaml", HELLO) for name in "ab"]
    for path in (*paths, *paths, paths[1]):
        assert load(path, home).main.name == path.stem
    assert reads == ["a.yaml", "b.yaml", "a.yaml", "b.yaml"]
    assert len(list((home / compiled.FOLDER).iterdir())) == 1


@pytest.fixture
def lowered(monkeypatch):
    """The workflows of which graphs were made."""
    found = []

    class Counted(lowering._Lowering):
        def graph(self):
            found.append(self.workflow.name)
            return super().graph()

    monkeypatch.setattr(lowering, "_Lowering", Counted)
    return found


def run(path, home, **settings):
    with History(home) as history:
        started = running.start(compiled.load(path, home), history=history, **settings)
        return started.finish(), started.run.name


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_graph_that_is_known_is_what_would_be_made(path, home, lowered, monkeypatch):
    monkeypatch.setenv("SECRETX", "s3cr3t")
    try:
        file = load(path, home)
        made = running.dry(file)[1]
    except (WorkflowError, CapabilityError):  # it cannot be read, or not run here
        return
    compiled.keep(file)
    again = load(path, home)
    assert again.graphs == file.graphs
    known = running.dry(again)[1]
    assert [repr(known.node(name)) for name in known] == [repr(made.node(name)) for name in made]
    assert (known.name, known.max_concurrency, len(lowered)) == (made.name, made.max_concurrency, 2 - len(file.graphs))


def test_a_run_of_what_is_known_makes_no_graph(tmp_path, home, lowered):
    path = written(tmp_path / "flow.yaml", HELLO)
    for _ in range(3):
        result, _ = run(path, home)
        assert result.ok
    assert lowered == ["flow"]


def test_a_run_of_a_graph_that_was_known_is_taken_up_as_any_other(tmp_path, home):
    path = written(tmp_path / "flow.yaml", "steps:\n  - command: echo a\n  - command: test -e there\n")
    mark = tmp_path / "there"
    path.write_text(path.read_text().replace("there", str(mark)))
    assert not run(path, home, run_id="first")[0].ok
    assert not run(path, home, run_id="second")[0].ok
    mark.touch()
    with History(home) as history:
        result = running.go_on(history, "second", again=True).finish()
    assert result.ok
    assert [node.attempts for node in result.node_results.values()] == [1, 2]


def test_what_a_graph_is_made_of_besides_is_told_apart(tmp_path, home, lowered):
    path = written(
        tmp_path / "flow.yaml",
        """\
        steps:
          - {command: echo there, workerSelector: {disk: fast}}
          - call: child
        ---
        name: child
        steps:
          - command: echo child
        """,
    )
    for _ in range(2):
        with pytest.raises(CapabilityError, match="disk=fast"):
            run(path, home)
        assert run(path, home, labels={"disk": "fast"})[1] == "flow"
        assert run(path, home, labels={"disk": "fast"}, name="other")[1] == "other"
        assert run(path, home, document="child")[1] == "child"
    assert lowered == ["flow", "flow", "child", "other", "child", "flow"]


def test_a_graph_of_what_only_one_run_knows_is_made_for_each(tmp_path, home, lowered):
    path = written(
        tmp_path / "flow.yaml",
        "params: TRIES=0\nsteps:\n  - {command: exit 1, retryPolicy: {limit: $TRIES, intervalSec: 0}}\n",
    )
    tries = [run(path, home, params=[f"TRIES={number}"])[0].node_results["cmd_1"].attempts for number in (0, 2, 1)]
    assert tries == [1, 3, 2]
    assert len(lowered) == 3
