"""A coordinator and its workers, started for a measurement and stopped after it, each as a process with a folder of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep, time

from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.history import About, History

WORKERS = 2
SLOTS = 1
LIMIT = 120.0
"""Seconds after which something that does not come is given up."""
LOOK = 0.02
"""Seconds between two looks; times are taken from the runs, and who looks often takes the time that they need."""
LABELS = ("zone=a", "zone=b")
KINDS = {
    "one": "name: one\nsteps:\n  - command: 'true'\n",
    "child": "name: child\nworkerSelector: {zone: b}\nsteps:\n  - command: 'true'\n",
    "parent": "name: parent\nsteps:\n  - run: child\n---\nname: child\nworkerSelector: {zone: b}\nsteps:\n  - command: 'true'\n",
}


@dataclass(slots=True)
class Place:
    """A home with a coordinator.

    Attributes:
        history: the runs of the home.
        folder: for what steps write.
        flows: where workflows are from; what is there travels to workers.
        coordinator: the number of its process.
        port: where workers call.
    """

    history: History
    folder: Path
    flows: Path
    coordinator: int
    port: int

    def submit(self, text: str) -> str:
        """Enqueue a workflow and return the id of the run."""
        name = text.partition("\n")[0].removeprefix("name: ")
        return self.history.enqueue(name, About(source=f"{self.flows}/{name}.yaml", spec=text, queue=name))

    def written(self, megabytes: int) -> tuple[float, float, int]:
        """Run a step that writes so much.

        Returns:
            When the run was submitted and when it ended, and the most bytes that the coordinator had in memory meanwhile.
        """
        size = megabytes * 10**6
        run = self.submit(
            f"name: writes\nmaxOutputSize: {size + 1}\nsteps:\n  - name: write\n    command: yes | head -c {size}\n"
        )
        most = 0
        while not self.history.info(run).ended:
            most = max(most, resident_of(self.coordinator))
            sleep(0.05)
        info = self.history.info(run)
        (log,) = Path(self.history.home, "logs", "writes", run).glob("write*.out")
        assert info.status == "succeeded", info
        assert log.stat().st_size == size, log.stat().st_size
        return info.created, info.ended, most


@contextmanager
def at_the_port() -> Iterator[ClusterBackend]:
    """A coordinator in this process, and its workers."""
    with ExitStack() as open_ones, ClusterBackend.listening() as backend:
        for number in range(WORKERS):
            open_ones.enter_context(_worker(backend.port, LABELS[number]))
        hub = backend.hub
        assert hub is not None
        _until(lambda: len(hub.workers()) == WORKERS, "workers")
        yield backend


@contextmanager
def home(workers: int = WORKERS) -> Iterator[Place]:
    """A coordinator with a home, and workers."""
    port = _free_port()
    with ExitStack() as open_ones:
        folder = Path(open_ones.enter_context(TemporaryDirectory()))
        coordinator = open_ones.enter_context(_process(["coordinator", f"--coordinator.port={port}"], folder / "home"))
        history = open_ones.enter_context(History(folder / "home"))
        for number in range(workers):
            open_ones.enter_context(_worker(port, LABELS[number % len(LABELS)]))
        flows = folder / "flows"
        flows.mkdir()
        place = Place(history, folder, flows, coordinator, port)
        if workers:
            wait_all(place, submitted(place, 4))
            wait_all(place, submitted(place, 1, "child"))
        else:
            _until(lambda: _answers(port), "the coordinator")
        yield place


@contextmanager
def lone_worker(port: int) -> Iterator[int]:
    """A worker that has nothing to do; its process number."""
    with _worker(port, LABELS[0]) as worker:
        sleep(3.0)
        yield worker


@contextmanager
def idle_workers(port: int, count: int) -> Iterator[None]:
    """So many workers that do nothing, in one process."""
    command = [sys.executable, "-m", "benchmarks.fleet.idle", str(port), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "linked"
            yield
        finally:
            process.kill()


def submitted(place: Place, count: int, kind: str = "one") -> list[str]:
    """Enqueue so many runs of a kind at once."""
    return [place.submit(KINDS[kind]) for _ in range(count)]


def wait_all(place: Place, runs: Sequence[str]) -> tuple[float, float]:
    """Wait for the ends of runs; return when the first was submitted and when the last ended."""
    for run in reversed(runs):
        _until(lambda run=run: place.history.info(run).ended > 0, f"the end of {run}")  # type: ignore[misc]
    found = [place.history.info(run) for run in runs]
    assert {info.status for info in found} == {"succeeded"}, found
    return min(info.created for info in found), max(info.ended for info in found)


def started_after(place: Place, count: int) -> list[float]:
    """Submit runs one after the other, and return how many seconds later the step of each had started, by its own clock."""
    waits = []
    for number in range(count):
        path = place.folder / f"started-{number}"
        path.unlink(missing_ok=True)
        began = time()
        run = place.submit(f"name: idle\nsteps:\n  - command: date +%s.%N > {path}\n")
        wait_all(place, [run])
        waits.append(float(path.read_text()) - began)
    return waits


def pin(process: int) -> None:
    """Let a process run on one core from now on."""
    for thread in os.listdir(f"/proc/{process}/task"):
        os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})


def resident_of(process: int) -> int:
    """Return how many bytes of a process are in memory."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(process: int) -> float:
    """Return how many seconds of a core a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _worker(port: int, label: str) -> Iterator[int]:
    with TemporaryDirectory() as folder:
        arguments = [
            "worker",
            "--worker.coordinator-host=127.0.0.1",
            f"--worker.coordinator-port={port}",
            f"--worker.labels={label}",
            f"--worker.slots={SLOTS}",
        ]
        with _process(arguments, Path(folder)) as process:
            yield process


@contextmanager
def _process(arguments: Sequence[str], folder: Path) -> Iterator[int]:
    program = str(Path(sys.executable).with_name("dagrid"))
    environment = {**os.environ, "DAGRID_HOME": str(folder)}
    with subprocess.Popen([program, *arguments], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + LIMIT
    while not holds():
        if monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {LIMIT:g} s")
        sleep(LOOK)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0
