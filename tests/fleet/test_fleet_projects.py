"""A graph's project on the workers of a fleet: its modules, and the files that are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from errno import EACCES
from pathlib import Path

import pytest

from dagrid import DAG, Node
from dagrid.errors import (
    InvalidSettingError,
    TransferError,
)
from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.execution.backends.cluster.project import packed, unpack
from dagrid.execution.folders import OwnFolder
from dagrid.execution.gathering import Folder
from tests.fleet.fleet_place import PATIENCE

pytestmark = pytest.mark.usefixtures("by_value")


PROJECT = """
import sys
from dagrid import DAG, Node
from deep.helper import answer
if __name__ == "__main__":
    nodes = [Node("n", answer), Node("m", lambda n: n + answer(), inputs={"n": "n"})]
    result = DAG(nodes).run(backend=sys.argv[1], progress=False)
    print(result.raise_for_status()["m"])
"""


def test_a_project_travels(fleet: ClusterBackend, tmp_path: Path) -> None:
    """A script finds its own modules on the workers, and after a change the changed ones, in the same warm processes."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("")
    (tmp_path / "main.py").write_text(PROJECT)
    for number in (20, 300):
        (tmp_path / "deep" / "helper.py").write_text(
            f"def answer():\n    from deep import more\n    return more.{'X'}\n"
        )
        (tmp_path / "deep" / "more.py").write_text(f"X = {number}\n")
        argv = [sys.executable, "main.py", f"grpc://127.0.0.1:{fleet.port}"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stdout.strip() == str(2 * number), done.stderr


READER = """
import os, sys
from dagrid import DAG, Node, command
from dagrid.execution.backends.cluster.backend import ClusterBackend
from mine import read

if __name__ == "__main__":
    nodes = [Node("python", read), Node("command", command("cat data/day.csv")), Node("where", os.getcwd)]
    for files in (["data/*.csv"], None):
        with ClusterBackend(sys.argv[1], files=files) as fleet:
            result = DAG(nodes[:] if files else nodes[2:]).run(backend=fleet, progress=False).raise_for_status()
        print(*(result[node.id] for node in nodes if node.id in result.node_results))
"""


def test_named_files_are_where_a_run_works(fleet: ClusterBackend, tmp_path: Path) -> None:
    """Beside the modules of the project, for functions and for commands, in a folder that goes with the run."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "day.csv").write_text("1,2")
    (tmp_path / "mine.py").write_text("def read(): return open('data/day.csv').read()\n")
    (tmp_path / "main.py").write_text(READER)
    argv = [sys.executable, "main.py", f"127.0.0.1:{fleet.port}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    (python, by_command, first), (second,) = (line.split() for line in done.stdout.splitlines())
    assert (python, by_command) == ("1,2", "1,2"), done.stderr
    assert Path(first).name == Path(second).name == "work"
    assert first != second
    started = DAG([Node("where", os.getcwd)]).run(backend=fleet, progress=False).raise_for_status()["where"]
    assert started not in (first, second, os.getcwd())


def test_a_module_that_goes_while_it_is_looked_at_is_not_packed(tmp_path: Path) -> None:
    """Editors, and tasks of other runs, write where a project is."""
    (tmp_path / "stays.py").touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                (tmp_path / f"goes_{number}").mkdir()
                (tmp_path / f"goes_{number}" / "module.py").touch()
            for number in range(20):
                shutil.rmtree(tmp_path / f"goes_{number}")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        found = [packed(None, tmp_path) for _ in range(300)]
    finally:
        ended.set()
        thread.join()
    assert None not in found


def test_a_project_with_names_that_are_no_text_travels(tmp_path: Path) -> None:
    """Files from older machines have such names; one of them, wherever it lay, and no run began."""
    names = {os.fsdecode(b"caf\xe9.py"), "naïve.py", os.fsdecode(b"d\xe9/data")}
    for name in names:
        (tmp_path / "here" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "here" / name).write_text(ascii(name))
    project = packed([os.fsdecode(b"d\xe9")], tmp_path / "here")
    assert project is not None
    (tmp_path / "archive").write_bytes(project.data)
    unpack(tmp_path / "archive", tmp_path / "there")
    files = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "there")): path.read_text() for path in files} == {
        name: ascii(name) for name in names
    }


def test_a_module_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is may be somebody else's; who starts a run is told which, and that it is not dagrid's fault."""
    (tmp_path / "others.py").touch()

    def refuse(path: Path) -> bytes:
        raise PermissionError(EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TransferError, match=r"others\.py cannot be read \(Permission denied\)"):
        packed(None, tmp_path)


def test_what_a_worker_has_unpacked_does_not_travel(tmp_path: Path) -> None:
    """A worker may be at home in the folder of the project. What travelled with each run was packed anew by those beside it, with
    what had travelled with them: after some dozen runs at once it was thousands of folders.
    """
    (tmp_path / "mine.py").write_text("mine = 1")
    before = packed(None, tmp_path)
    own = OwnFolder(tmp_path / "state" / "worker")
    try:
        (own.path / "runs").mkdir()
        (own.path / "runs" / "mine.py").write_text("mine = 1")
        assert packed(None, tmp_path) == before
        assert [one.path for one in Folder(tmp_path).everything() if not one.is_folder] == ["mine.py"]
    finally:
        own.remove()


def test_a_file_that_is_not_there_is_refused_when_the_backend_is_made() -> None:
    with pytest.raises(InvalidSettingError, match=r"nothing called 'nosuch\.csv'"):
        ClusterBackend("127.0.0.1", files=["nosuch.csv"])
    with pytest.raises(InvalidSettingError, match=r"nothing called 'nosuch\.csv'"):
        ClusterBackend.listening(files=["nosuch.csv"])
