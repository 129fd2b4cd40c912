"""A door to a server that can be slammed in the middle of a question or before the answer: what a network does at its worst."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIZE = 1 << 16


class Proxy:
    """Passes on bytes between clients and a server on this machine.

    `cut_before(word)` breaks the connection in place of passing on the next bytes of a client that have the word in them;
    `cut_after(word)` passes them on, waits for the server's answer, and breaks the connection in place of passing that on.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        self.cuts = 0
        self._before = self._after = b""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_before(self, word: bytes) -> None:
        self._before = word

    def cut_after(self, word: bytes) -> None:
        self._after = word

    def close(self) -> None:
        self._door.close()
        for line in self._open:
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server))
        self._open += [client, server]
        cutting = threading.Event()
        threading.Thread(target=self._answer, args=[server, client, cutting], daemon=True).start()
        try:
            while data := client.recv(SIZE):
                if self._before and self._before in data:
                    self._before = b""
                    break
                if self._after and self._after in data:
                    self._after = b""
                    cutting.set()
                server.sendall(data)
            else:
                return
            self.cuts += 1
        except OSError:
            pass
        finally:
            _slam(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, cutting: threading.Event) -> None:
        try:
            while data := server.recv(SIZE):
                if cutting.is_set():
                    self.cuts += 1
                    break
                client.sendall(data)
        except OSError:
            pass
        finally:
            _slam(client, server)


def _slam(*lines: socket.socket) -> None:
    for line in lines:
        try:
            line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Open a door to a server, and take it away."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
