"""What a run takes along to a worker: files, variables, secrets; and what a step finds there that is the worker's."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from collections import Counter
from hashlib import sha256
from pathlib import Path
from textwrap import dedent

import pytest

from dagrid.errors import TransferError, WorkflowError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.command import CommandBackend
from dagrid.history import History
from dagrid.service.fleet import OwnFleet
from dagrid.service.kit import kit_of
from dagrid.service.parcels import Packer, unpack
from dagrid.workflow import load, running, steps
from tests.fleet.wire import Worker, hub, to


class Passing:
    """A session that hands on the calls of a run with the context of its kit."""

    def __init__(self, session, around):
        self._session = session
        self._around = around

    def __getattr__(self, name):
        return getattr(self._session, name)

    def perform(self, bundle):
        for call in bundle.calls:
            call.fn = self._around.around(call.fn)
        self._session.perform(bundle)


class Elsewhere(CommandBackend):
    """A worker that is here, and knows of the run what its kit says."""

    def __init__(self, around):
        super().__init__(100)
        self._around = around

    def open(self, host):
        return Passing(super().open(host), self._around)


class Fleet:
    """Workers without a wire: what would travel is pickled, and arrives in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.packer = Packer()
        self.sent: Counter[bytes] = Counter()

    def place(self, context, about):
        kit, parcel = kit_of(context, self.packer, (str(self.folder),))
        data = pickle.dumps(kit)

        def content(digest):
            path = self.folder / digest.hex()
            if not path.exists():
                self.sent[digest] += 1
                found = parcel.read(digest)
                assert found is not None
                assert sha256(found).digest() == digest
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(found)
            return path

        there = self.folder / about.name
        (there / "logs").mkdir(parents=True)
        return Elsewhere(pickle.loads(data).arrive(there, content, {"gpu": "true"}))

    def began(self, started):
        """It keeps no list of runs."""


def out(folder, run, step):
    """Return what a step has written on the worker; one that writes nothing has no file."""
    path = folder / "worker" / run / "logs" / f"{step}.out"
    return path.read_text() if path.exists() else ""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "flows").mkdir()
    return tmp_path / "flows"


@pytest.fixture
def run(tmp_path, here):
    fleet = Fleet(tmp_path / "worker")

    def run(text, name="flow", params=()):
        path = here / f"{name}.yaml"
        path.write_text(dedent(text))
        started = running.start(load(path, types=steps.KINDS), params, history=history, fleet=fleet)
        result = started.finish()
        return started, result

    with History(tmp_path / "home") as history:
        yield run


def test_a_step_finds_what_its_workflow_says(run, here, monkeypatch, tmp_path):
    """Files, parameters, variables, outputs and secrets are there, and what belongs to a machine is the worker's."""
    monkeypatch.setenv("TOKEN_OF_TEST", "hush-hush")
    (here / "data").mkdir()
    (here / "data" / "a.txt").write_text("from the folder\n")
    (here / "go.sh").write_text("#!/bin/sh\ncat data/a.txt\n")
    (here / "go.sh").chmod(0o755)
    (here / "mine.py").write_text("def length(text):\n    return len(text)\n")
    started, result = run(
        """
        params: WHO=nobody
        env: [{GREETING: "hello ${WHO}"}]
        secrets: [{name: TOKEN, provider: env, key: TOKEN_OF_TEST}]
        steps:
          - {name: files, command: ./go.sh, output: FOUND}
          - {name: told, command: 'echo "$GREETING, $FOUND, $TOKEN, $PWD"'}
          - {name: python, python: "mine:length", args: ["${FOUND}"], output: LONG}
          - {name: log, command: 'echo "$DAG_RUN_LOG_FILE"; echo bad >&2; echo "$LONG"'}
        """,
        params=["WHO=world"],
    )
    assert result.status == "succeeded", [str(one.error) for one in result.node_results.values()]
    project = tmp_path / "worker" / "flow" / "files"
    assert out(tmp_path, "flow", "told") == f"hello world, from the folder, *******, {project}\n"
    assert out(tmp_path, "flow", "log") == f"{tmp_path / 'worker' / 'flow' / 'run.log'}\n15\n"
    end = result.node_result("log").value
    assert (end.stdout, end.stderr) == (str(started.place.stdout("log")), str(started.place.stderr("log")))


def test_a_secret_stays_where_it_was_sent(run, here, tmp_path):
    """The file that holds one, and dotenv files, do not travel; what was sent is in the kit alone."""
    (here / "secret.txt").write_text("hush-hush\n")
    (here / ".env").write_text("SECOND=hidden-too\n")
    _, result = run(
        """
        secrets: [{name: TOKEN, provider: file, key: secret.txt}]
        steps: [{name: a, command: 'ls -A; echo "$TOKEN $SECOND"'}]
        """
    )
    assert result.status == "succeeded"
    assert out(tmp_path, "flow", "a") == "flow.yaml\n******* hidden-too\n"
    found = [path for path in tmp_path.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    assert found == [here / "secret.txt"]


def test_a_secret_of_a_caller_stays_at_home_with_the_run_that_is_called(run, here, tmp_path):
    """That run is of the same folder and names no secret itself, whether it stands in the same file or beside it."""
    (here / "secret.txt").write_text("hush-hush\n")
    (here / "beside.yaml").write_text("steps: [{name: b, command: ls}]")
    _, result = run(
        """
        secrets: [{name: TOKEN, provider: file, key: secret.txt}]
        steps: [{name: one, call: child}]
        ---
        name: child
        steps: [{name: a, command: ls}, {name: again, call: beside}]
        """
    )
    assert result.status == "succeeded", [str(one.error) for one in result.node_results.values()]
    assert out(tmp_path, "child", "a") == out(tmp_path, "beside", "b") == "beside.yaml\nflow.yaml\n"
    found = [path for path in tmp_path.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    assert found == [here / "secret.txt"]


def test_a_file_of_variables_stays_at_home_wherever_it_is(run, here, tmp_path, monkeypatch):
    """What was read is what does not travel: in the folder of the steps, and under a name that is made of a variable."""
    monkeypatch.setenv("STAGE", "test")
    (here / "sub").mkdir()
    for name in (".env", "test.env"):
        (here / "sub" / name).write_text("V=hush-hush\n")
    _, result = run(
        """
        workingDir: sub
        dotenv: [.env, "${STAGE}.env"]
        steps: [{name: a, command: 'ls -A; test "$V" = hush-hush'}]
        """
    )
    assert result.status == "succeeded", [str(one.error) for one in result.node_results.values()]
    assert out(tmp_path, "flow", "a") == ""


def test_what_is_named_travels_and_nothing_else(run, here, tmp_path):
    """A folder of gigabytes stays at home when a workflow says what it needs."""
    for name in ("a/b/c.txt", "a/d.bin", "other.txt", ".git/config"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    run("steps: [{name: a, command: find . -type f | sort}]\nfiles: [a/b, '*.txt']")
    assert out(tmp_path, "flow", "a") == "./a/b/c.txt\n./other.txt\n"
    run("steps: [{name: a, command: find . -type f | sort}]\nfiles: []", "none")
    assert out(tmp_path, "none", "a") == ""
    run("steps: [{name: a, command: find . -type f | sort}]", "all")
    assert out(tmp_path, "all", "a").split() == [
        "./a/b/c.txt",
        "./a/d.bin",
        "./all.yaml",
        "./flow.yaml",
        "./none.yaml",
        "./other.txt",
    ]


@pytest.fixture
def tree(tmp_path):
    """A folder with whatever a folder may hold."""
    folder = tmp_path / "tree"
    for name in (
        "wd/x.py",
        "wd/deep/y.py",
        "wd/z.txt",
        "sub/here.txt",
        "data[1].txt",
        "data1.txt",
        ".venv/lib.py",
        "top.txt",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("wd/deep")
    (folder / "wd" / "deep" / "up").symlink_to("..")
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "out").symlink_to("../outside.txt")
    (folder / "nowhere").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    return folder


def unpacked(tmp_path, folder, names=None, without=()):
    """Return what a parcel holds when it has been unpacked; folders end in a slash."""
    parcel = Packer().packed(str(folder), names, without)
    there = tmp_path / "there"

    def content(digest):
        path = tmp_path / digest.hex()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(parcel.read(digest))
        return path

    unpack(there, parcel.list, content)
    return {
        f"{path.relative_to(there)}{'/' * path.is_dir()}"
        for path in there.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["./wd"], {"wd/x.py", "wd/z.txt", "wd/deep/y.py"}),
        (["wd/", "sub/here.txt", "sub/../top.txt"], {"wd/x.py", "wd/z.txt", "wd/deep/y.py", "sub/here.txt", "top.txt"}),
        (["data[1].txt"], {"data[1].txt"}),
        (["data[12].txt"], {"data1.txt"}),
        (["wd/**/*.py"], {"wd/x.py", "wd/deep/y.py"}),
        (["**/*.txt"], {"wd/z.txt", "link/up/z.txt", "sub/here.txt", "data[1].txt", "data1.txt", "top.txt"}),
        (["*.txt"], {"data[1].txt", "data1.txt", "top.txt"}),
        (["s*"], {"sub/here.txt"}),
        (["empty"], {"empty/"}),
        (["link"], {"link/y.py", "link/up/x.py", "link/up/z.txt"}),
        ([".venv"], {".venv/lib.py"}),
        ([".venv/*.py"], {".venv/lib.py"}),
    ],
)
def test_names_mean_what_they_mean_elsewhere(tmp_path, tree, names, found):
    """A file that is really called so goes before a pattern, and a folder stands for all that it holds."""
    assert unpacked(tmp_path, tree, names) == found


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nosuch.txt", "nothing called 'nosuch.txt'"),
        ("*.csv", "nothing called"),
        ("../outside.txt", "is not below"),
        ("/etc/passwd", "is not below"),
        ("out", "leads out of"),
        ("nowhere", "cannot be read"),
        ("pipe", "neither a file nor a folder"),
    ],
)
def test_a_name_that_means_nothing_is_refused(run, here, tree, name, why):
    """Before anything runs, with the place in the file; `validate` warns of it."""
    for path in tree.iterdir():
        path.rename(here / path.name)
    (here.parent / "outside.txt").touch()
    text = f"files: [top.txt, '{name}']\nsteps: [{{name: a, command: echo}}]"
    with pytest.raises(WorkflowError, match=rf"flow\.yaml:1:.*{why}"):
        run(text)
    told = subprocess.run(
        [sys.executable, "-m", "dagrid", "validate", "flow.yaml"], cwd=here, capture_output=True, text=True, check=True
    )
    assert re.match(rf"flow\.yaml:1:.*{why}.*\(warning\)", told.stderr)


def test_links_are_followed_and_empty_folders_kept(tmp_path, tree, caplog):
    """As far as they stay in the folder, and not round and round; the others stay at home, and that is said."""
    assert unpacked(tmp_path, tree) == {
        *("wd/x.py", "wd/deep/y.py", "wd/z.txt", "sub/here.txt", "data[1].txt", "data1.txt", "top.txt"),
        *("empty/", "link/y.py", "link/up/x.py", "link/up/z.txt"),
    }
    assert "out is a link that leads out of" in caplog.text
    assert "nowhere" not in caplog.text


def test_a_secret_does_not_travel_by_another_name(tmp_path, tree):
    """A link to the file of a secret is that file, and what a link to it leads to is, too."""
    (tree / "alias.txt").symlink_to("top.txt")
    for secret in ("top.txt", "alias.txt"):
        found = unpacked(tmp_path, tree, ["*.txt", "top.txt", "alias.txt"], [str(tree / secret)])
        assert found == {"data[1].txt", "data1.txt"}
    assert not {"wd/deep/y.py", "link/y.py"} & unpacked(tmp_path / "again", tree, None, [str(tree / "link")])


def test_a_file_that_goes_while_it_is_looked_at_is_not_packed(tmp_path, tree):
    """Steps of other runs, and editors, write beside a workflow: their files come and go."""
    ended = threading.Event()

    def come_and_go():
        while not ended.is_set():
            for number in range(20):
                (tree / f"come-{number}").mkdir()
                (tree / f"come-{number}" / "file").write_text("x")
            for number in range(20):
                (tree / f"come-{number}" / "file").unlink()
                (tree / f"come-{number}").rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            Packer().packed(str(tree))
            Packer().packed(str(tree), ["**/*", "wd"])
    finally:
        ended.set()
        thread.join()


def test_what_has_not_changed_is_sent_once(tmp_path):
    """Contents are known by what is in them: the second parcel of a folder names the same ones, and a large file by itself."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "small").write_bytes(b"s")
    (folder / "large").write_bytes(os.urandom(100_000))
    packer = Packer()
    first = packer.packed(str(folder))
    assert packer.packed(str(folder)) is first
    (folder / "small").write_bytes(b"t")
    second = packer.packed(str(folder))
    assert second.contents[0] != first.contents[0]
    assert second.contents[1:] == first.contents[1:]


def test_a_file_that_changes_under_a_run_is_noticed(tmp_path):
    """Half of an old file and half of a new one would be worse than an error."""
    (tmp_path / "large").write_bytes(b"a" * 100_000)
    parcel = Packer().packed(str(tmp_path))
    (tmp_path / "large").write_bytes(b"b" * 100_000)
    with pytest.raises(TransferError, match="has changed since the run began"):
        parcel.read(parcel.contents[1])


def test_too_much_is_refused_with_what_to_do(run, here):
    """Before anything has run, and with the place in the file."""
    with (here / "huge").open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(WorkflowError, match=r"flow\.yaml.*Name what the steps need: files"):
        run("steps: [{name: a, command: echo}]")


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    """A parcel comes from elsewhere, whoever made it."""
    from dagrid.service.parcels import Entry, _encode

    for path in ("../evil", "/tmp/evil", "a/../../evil"):
        (tmp_path / "list").write_bytes(_encode([Entry(path.encode(), 0o600, b"x")]))
        with pytest.raises(TransferError, match="written elsewhere"):
            unpack(tmp_path / "there", b"x", lambda _: tmp_path / "list")
    assert not Path("/tmp/evil").exists()


def test_a_name_that_is_no_text_travels(tmp_path, tree):
    """Files from older machines have such names. One of them, wherever it lay, and no run began: it was said to be a fault."""
    folder, large = os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9.bin")
    (tree / large).write_bytes(bytes(1 << 17))
    (tree / folder).mkdir()
    (tree / folder / "naïve.txt").touch()
    assert unpacked(tmp_path, tree, [large, folder]) == {large, f"{folder}/naïve.txt"}


def test_small_files_travel_with_the_first_step(tmp_path):
    """Files beside a workflow that have changed since its last run cost no question of the worker."""
    path = tmp_path / "flows" / "flow.yaml"
    path.parent.mkdir()
    path.write_text("steps: [{name: a, command: 'true'}]\n")
    (path.parent / "data.txt").write_text("of today\n")
    with hub() as coordinator, Worker(to(coordinator)) as worker, History(tmp_path / "home") as history:
        worker.value_of = lambda call: None
        fleet = OwnFleet(coordinator, history.home)
        started = running.start(load(path, types=steps.KINDS), history=history, fleet=fleet)
        down, assign = worker.downs.wait(lambda downs: [(down, one) for down in downs for one in down.assigns])[0]
        assert {assign.kit, *assign.needs} <= {part.digest for part in down.parts}
        started.let_go()


def test_a_secret_of_a_caller_is_masked_where_a_worker_performs_the_run_that_is_called(
    run, here, monkeypatch, tmp_path
):
    """The kit of that run has what its caller masks; the value comes as a parameter."""
    monkeypatch.setenv("TOKEN_OF_TEST", "hush-hush")
    _, result = run(
        """
        secrets: [{name: TOKEN, provider: env, key: TOKEN_OF_TEST}]
        steps: [{name: one, call: child, params: "T=${TOKEN}"}]
        ---
        name: child
        params: [T=none]
        steps: [{name: a, command: 'echo "got $T ${#T}"', output: O}]
        """
    )
    assert result.status == "succeeded", [str(one.error) for one in result.node_results.values()]
    assert out(tmp_path, "child", "a") == "got ******* 9\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()] == []


def test_a_large_file_that_has_gone_fails_the_run_with_the_reason(tmp_path):
    """It was promised to a worker, and cannot be had: nobody waits for it for ever."""
    path = tmp_path / "flows" / "flow.yaml"
    path.parent.mkdir()
    path.write_text("steps: [{name: a, command: 'true'}]\n")
    (path.parent / "data.bin").write_bytes(bytes(100_000))
    with hub() as coordinator, Worker(to(coordinator)) as worker, History(tmp_path / "home") as history:
        worker.value_of = lambda call: None
        fleet = OwnFleet(coordinator, history.home)
        started = running.start(load(path, types=steps.KINDS), history=history, fleet=fleet)
        assign = worker.downs.wait(lambda downs: [one for down in downs for one in down.assigns])[0]
        (path.parent / "data.bin").unlink()
        worker.say(pb.Up(wants=[assign.needs[1]]))
        result = started.run.wait(20)
        assert "data.bin cannot be read any more" in str(result.node_result("a").error)
        started.finish()
