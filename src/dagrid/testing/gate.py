"""A gate at which a task waits until a test lets it go, wherever on this machine the task runs; it knows nothing of
dagrid.

A test must hold a task to cancel it while it runs, and must know that it runs, without sleeping. Tasks come to the gate
over a local socket: their arrival is seen, and so is their death.
"""

from __future__ import annotations

import socket

Address = tuple[str, int]


def stand(address: Address, label: str = "") -> str:
    """Be a task: wait at a gate until let go, and return the label; raise ConnectionError if the gate closes."""
    import socket

    with socket.create_connection(address) as line:
        line.sendall(label.encode() + b"\n")
        if not line.recv(1):
            raise ConnectionError("the gate closed")
    return label


class Visit:
    """A task that stands at a gate."""

    def __init__(self, line: socket.socket, label: str) -> None:
        self._line = line
        self.label = label

    def release(self) -> None:
        """Let the task go on; harmless for one that is gone."""
        try:
            self._line.sendall(b"!")
        except OSError:
            pass

    def wait_gone(self) -> None:
        """Wait until the task has left or was killed; raise TimeoutError if it stays."""
        try:
            self._line.recv(1)
        except ConnectionError:
            pass

    def close(self) -> None:
        """Send the task away."""
        self._line.close()


class Gate:
    """A place where tasks wait for a test; `patience` in seconds limits every wait of the test."""

    def __init__(self, patience: float = 10.0) -> None:
        self.patience = patience
        self._door = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._door.settimeout(patience)
        self._visits: list[Visit] = []

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def address(self) -> Address:
        """Where a task comes to."""
        host, port = self._door.getsockname()[:2]
        return str(host), int(port)

    def meet(self) -> Visit:
        """Wait for the next task to arrive; raise AssertionError if none does."""
        try:
            line, _ = self._door.accept()
        except TimeoutError:
            raise AssertionError(f"waited {self.patience:g} s for a task to begin") from None
        line.settimeout(self.patience)
        with line.makefile("rb") as words:
            visit = Visit(line, words.readline().decode().strip())
        self._visits.append(visit)
        return visit

    def close(self) -> None:
        """Close the gate: tasks at it, and any that come later, fail."""
        self._door.close()
        for visit in self._visits:
            visit.close()
