"""A fleet of real processes for tests: a coordinator and workers, as a user starts them, of which no two share a folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from dagrid.history import About, History

PATIENCE = 30.0


def free_port():
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(holds, what="it", patience=PATIENCE):
    """Wait until something holds, and return that."""
    deadline = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.005)
    return found


def processes(words):
    """Return the processes of this machine in whose command line something stands."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            if os.fsencode(words) in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


class Process:
    """A command that goes on until the tests end; what it says is in a file. `before` starts it, such as `nsenter`."""

    def __init__(self, folder, arguments, env, before=()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        self.folder = folder
        self.said = folder / "said.txt"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DAGRID_")}
        clean |= {
            "DAGRID_HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": "",
            "PYTHONFAULTHANDLER": "1",
            **env,
        }
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *before, sys.executable, "-m", "dagrid", *map(str, arguments)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=clean,
                start_new_session=True,
            )

    def told(self, words):
        """Wait until it has said something."""
        until(lambda: words in self.text or self.process.poll() is not None, words)
        assert words in self.text, self.text
        return self

    @property
    def text(self):
        return self.said.read_text("utf-8", "replace")

    def kill(self):
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self):
        """Ask it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it says what its threads do
            self.process.wait(PATIENCE)
            raise AssertionError(f"it does not end:\n{self.text}") from None


class Fleet:
    """A coordinator with workers."""

    def __init__(self, folder, command=("coordinator",), env=None):
        self.folder = Path(folder)
        self.port = free_port()
        self.command = command
        self.env = dict(env or {})
        self.home = self.folder / "main" / "home"
        self.flows = self.folder / "flows"
        self.flows.mkdir(parents=True)
        self.history = History(self.home)
        self.workers = {}
        self.coordinator = None

    def start(self):
        """Start the coordinator, or start it again."""
        arguments = (*self.command, f"--coordinator.port={self.port}")
        self.coordinator = Process(self.folder / "main", arguments, self.env)
        return until_listening(self.coordinator, self.port)

    def worker(self, id, *labels, env=None, flags=()):
        """Start a worker."""
        said = [f"--worker.labels={','.join(labels)}"] if labels else []
        arguments = ["worker", f"--worker.id={id}", f"--worker.coordinator-port={self.port}", *said, *flags]
        self.workers[id] = Process(self.folder / id, arguments, {**self.env, **(env or {})})
        return self.workers[id]

    def linked(self):
        """Wait until all workers are linked."""
        for worker in self.workers.values():
            worker.told("Linked with the coordinator")
        return self

    def enqueue(self, text, name="flow", run=None, at_once=0):
        """Put a workflow into a queue, as `dagrid enqueue` does."""
        path = self.flows / f"{name}.yaml"
        path.write_text(text)
        return self.history.enqueue(name, About(source=str(path), spec=text, queue=name, at_once=at_once), run)

    def status(self, run):
        return self.history.info(run).status

    def ended(self, run):
        """Wait for the end of a run, and return how it ended."""
        until(lambda: self.history.info(run).ended, f"the end of {run}")
        return self.status(run)

    def out(self, run, step, stream="out"):
        """Return what a step has written, as the history has it."""
        path = self.history.folder(run) / f"{step}.{stream}"
        return path.read_text() if path.exists() else ""

    def close(self):
        for process in (*self.workers.values(), self.coordinator):
            if process is not None and process.process.poll() is None:
                process.process.kill()
                process.process.wait()
        self.history.close()


def until_listening(process, port):
    """Wait until a coordinator says that it listens, for the last time that it was started."""

    def listens():
        assert process.process.poll() is None, process.text
        with socket.socket() as call:
            return call.connect_ex(("127.0.0.1", port)) == 0

    until(listens, f"a listener at {port}")
    return process
