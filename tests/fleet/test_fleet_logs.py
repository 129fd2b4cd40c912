"""What steps write on workers arrives at the coordinator while it is written, whole and before their end is told."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dagrid import DAG, Node
from dagrid.commands import Command, Launch
from dagrid.execution.backends.cluster.backend import ClusterBackend
from tests.fleet.fleet_place import PATIENCE, workers


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The workers do not find the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@dataclass
class LogKit:
    """Tells commands where the logs of their run are."""

    contents: Sequence[bytes] = ()

    def arrive(self, folder: Path, content: Callable[[bytes], Path], labels: Mapping[str, str]) -> LogSurroundings:
        return LogSurroundings(folder / "logs")


@dataclass
class LogSurroundings:
    logs: Path
    path: tuple[str, ...] = ()
    folder: str = ""

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: fn(*args, logs=self.logs, **kwargs)

    def close(self) -> None:
        pass


class Files:
    """The coordinator's side: files in memory, and when they change."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.changed = threading.Condition()

    def open(self, run: str, name: str) -> File:
        source, _, rest = name.partition("/")
        assert len(source) == 16
        with self.changed:
            return self.files.setdefault(rest, File(self))

    def wait(self, name: str, words: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: name in self.files and words in self.files[name].getvalue(), PATIENCE)


class File(io.BytesIO):
    def __init__(self, files: Files) -> None:
        super().__init__()
        self._files = files

    def write(self, data: Any) -> int:
        with self._files.changed:
            self._files.changed.notify_all()
            return super().write(data)

    def close(self) -> None:
        """It is looked at afterwards."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterBackend]:
    with ClusterBackend.listening(files=[]) as backend, workers(backend.port, tmp_path_factory.mktemp("logs")) as start:
        start(id="writer", slots="2")
        yield backend


def writing(script: str, name: str = "deep/out.log") -> Command:
    """Return a command that writes to a file of the logs, in a folder that is made for it."""

    def launch(logs: Path = Path()) -> Launch:
        os.makedirs((logs / name).parent, exist_ok=True)
        return Launch(["/bin/sh", "-c", script], stdout=logs / name)

    return Command(launch)


def test_all_of_it_is_there_before_the_end_is_told(fleet: ClusterBackend) -> None:
    """20 MB and a few bytes: when the run has ended, both have been written at the coordinator."""
    files = Files()
    assert fleet.hub is not None
    with ClusterBackend.on(fleet.hub, kit=LogKit(), logs=files.open) as place:
        nodes = [
            Node("large", writing("head -c 20000000 /dev/zero", "large.log")),
            Node("small", writing("echo hello; echo you >&2"), ["large"]),
        ]
        assert DAG(nodes).run(backend=place, progress=False).raise_for_status().succeeded == 2
        sizes = {name: len(file.getvalue()) for name, file in files.files.items()}
        assert sizes == {"large.log": 20_000_000, "deep/out.log": 6}


def test_it_comes_while_it_is_written(fleet: ClusterBackend, tmp_path: Path) -> None:
    """Who looks at a step that runs sees what it has written so far."""
    files = Files()
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    assert fleet.hub is not None
    with ClusterBackend.on(fleet.hub, kit=LogKit(), logs=files.open) as place:
        run = DAG([Node("slow", writing(f"echo first; read go < {fifo}; echo last"))]).start(backend=place)
        files.wait("deep/out.log", b"first")
        assert not run.done
        fifo.write_text("go\n")
        run.wait(PATIENCE).raise_for_status()
    assert files.files["deep/out.log"].getvalue() == b"first\nlast\n"


def test_a_kit_that_cannot_be_opened_fails_its_calls(fleet: ClusterBackend) -> None:
    """The run hears why, and the worker goes on."""

    @dataclass
    class BadKit(LogKit):
        def arrive(self, folder: Path, content: Callable[[bytes], Path], labels: Mapping[str, str]) -> LogSurroundings:
            raise LookupError("no such place")

    assert fleet.hub is not None
    with ClusterBackend.on(fleet.hub, kit=BadKit()) as place:
        result = DAG([Node("n", os.getpid), Node("c", writing("true"))]).run(backend=place, progress=False)
    assert [type(result.node_results[name].error) for name in "nc"] == [LookupError, LookupError]
