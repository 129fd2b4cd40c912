"""A Redis without persistence, a RabbitMQ and Celery workers for tests, each stopped by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

SERVER = shutil.which("redis-server") or "redis-server"
MODULE = "dagrid.execution.backends.celery"
# The script itself, if it is there: the one on the path of Debian asks to be root.
RABBITMQ = shutil.which("/usr/lib/rabbitmq/bin/rabbitmq-server") or shutil.which("rabbitmq-server") or "rabbitmq-server"
EPMD = shutil.which("epmd") or "epmd"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def answers(port: int) -> bool:
    """Whether a Redis answers: a connection alone would say only that a port is open."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """End a process that was started here, and its group, which is its own."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with open(folder / "redis.log", "ab") as log:
        server = subprocess.Popen([*command, "--dir", str(folder)], stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 20
    while not answers(port):
        if server.poll() is not None or time.monotonic() > deadline:
            stop(server)
            raise RuntimeError((folder / "redis.log").read_text())
    return server


def start_worker(
    folder: Path, broker: str, name: str, *, target: str = MODULE, options: tuple[str, ...] = (), key: str = ""
) -> subprocess.Popen[bytes]:
    """Start a worker with one process, which may not be ready yet when this returns."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    environment.pop("DAGRID_CELERY_KEY", None)
    if key:
        environment["DAGRID_CELERY_KEY"] = key
    command = [sys.executable, "-m", "celery", "-A", target, "-b", broker, "worker", "-c", "1", "-P", "prefork"]
    command += ["-n", f"{name}@test", "--loglevel", "INFO", *options]
    with open(folder / f"{name}.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)


def wait_ready(folder: Path, *names: str) -> None:
    """Wait until workers say that they are ready."""
    wait_said(folder, " ready.", *names)


def wait_said(folder: Path, words: str, *names: str) -> None:
    """Wait until workers have said something in their logs."""
    deadline = time.monotonic() + 40
    for name in names:
        while words not in (folder / f"{name}.log").read_text():
            if time.monotonic() > deadline:
                raise RuntimeError((folder / f"{name}.log").read_text())


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run a Redis and return its address."""
    port = free_port()
    server = start_redis(folder, port)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(server)


@contextmanager
def rabbitmq(folder: Path) -> Iterator[str]:
    """Run a RabbitMQ, with a directory of names of its own, and return its address."""
    port, names = free_port(), free_port()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": "dagrid@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "db"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    said = folder / "rabbitmq.log"
    with open(said, "ab") as log, ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
            )
            stack.callback(stop, process)
            return process

        start(EPMD, "-address", "127.0.0.1", "-port", str(names))
        server = start(RABBITMQ)
        deadline = time.monotonic() + 40
        while "Server startup complete" not in said.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(said.read_text())
        yield f"amqp://guest:guest@127.0.0.1:{port}//"


@contextmanager
def installation(
    folder: Path,
    workers: int = 2,
    *,
    server: Callable[[Path], AbstractContextManager[str]] = redis,
    **settings: object,
) -> Iterator[str]:
    """Run a broker and workers, and return the address of the broker."""
    with server(folder) as broker, ExitStack() as stack:
        names = [f"worker{number}" for number in range(workers)]
        for name in names:
            process = start_worker(folder, broker, name, **settings)  # type: ignore[arg-type]
            stack.callback(stop, process, signal.SIGQUIT)
        wait_ready(folder, *names)
        yield broker
