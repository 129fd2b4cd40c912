"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a free port of this machine, stopped by its process id."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "open-sesame"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # the machine does not fall in these tests, only processes do
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
}


def program(name: str) -> str:
    """Return the path of a program of the newest PostgreSQL here."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name) or name


def someone() -> dict[str, Any]:
    """Return as whom the server runs, for it refuses root."""
    if os.getuid() != 0:
        return {}
    names = [name for name in ("postgres", "nobody") if any(name == entry.pw_name for entry in pwd.getpwall())]
    entry = pwd.getpwnam(names[0])
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@dataclass(slots=True)
class Server:
    """A server that can be stopped and started again; its superuser is `dagrid`."""

    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def url(self, place: object = "", database: str = "postgres", password: str = PASSWORD) -> str:
        """Return a URL for the schema that belongs to a place, such as the folder of a test."""
        schema = "t" + hashlib.sha1(str(place).encode()).hexdigest()[:16]
        return f"postgresql://dagrid:{password}@127.0.0.1:{self.port}/{database}?schema={schema}"

    def connect(self, place: object = "") -> psycopg.Connection[tuple[Any, ...]]:
        """Return a connection that sees the tables of a place."""
        url, _, schema = self.url(place).partition("?schema=")
        return psycopg.connect(url, autocommit=True, options=f"-c search_path={schema}")

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in {**SETTINGS, **self.settings}.items()]
        command = [program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **someone()
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop(signal.SIGQUIT)
                    raise RuntimeError((self.folder / "log").read_text()) from None

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: at once and without tidying up with SIGQUIT, otherwise as one does."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


@contextmanager
def cluster(**settings: str) -> Iterator[Server]:
    """Make a cluster with a server, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="dagrid-postgres-"))
    try:
        owner = someone()
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, owner.get("user", -1), owner.get("group", -1))
        command = [program("initdb"), "-D", str(folder / "data"), "-U", "dagrid", "--auth=scram-sha-256", "--no-sync"]
        command += ["--pwfile", str(folder / "password"), "-E", "UTF8", "--no-locale"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50, **owner)
        if made.returncode:
            raise RuntimeError(made.stderr)
        server = Server(folder, free_port(), settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
