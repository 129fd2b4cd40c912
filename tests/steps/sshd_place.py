"""An OpenSSH server of the tests' own, with keys of its own, on a free port of this machine; stopped by its process id."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))


@dataclass
class Server:
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def user(self):
        return getpass.getuser()

    def settings(self, **more):
        found = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": self.user,
            "key": f"{self.folder}/key",
            "knownHostFile": f"{self.folder}/known_hosts",
            **more,
        }
        return "{" + ", ".join(f"{name}: {value!r}" for name, value in found.items() if value is not None) + "}"


@contextmanager
def ssh_server(folder):
    """Start a server that lets in whoever has `key` of the folder."""
    assert SSHD is not None, "there is no sshd: run tools/servers"
    os.makedirs("/run/sshd", exist_ok=True)  # where it may not be, it is not asked for
    for name in ("host", "key", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
        subprocess.run(command, check=True, capture_output=True)
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    kind, key, *_ = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "PidFile": "none",
    }
    argv = [
        SSHD,
        "-D",
        "-e",
        "-f",
        "/dev/null",
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
    ]
    with open(folder / "log", "ab") as log:
        server = Server(folder, port, subprocess.Popen(argv, stdout=log, stderr=log))
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()) from None
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(15)
