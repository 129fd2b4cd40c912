"""Certificates for tests, in files."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import trustme

from dagrid.execution.backends.cluster.tls import CallerTLS, ListenerTLS


class Authority:
    """One that signs certificates, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, file: str, *names: str, expired: bool = False, common: str | None = None) -> tuple[Path, Path]:
        """Write a certificate and its key, and return both files."""
        about: dict[str, Any] = {"common_name": common}
        if expired:
            now = datetime.datetime.now(datetime.UTC)
            about |= {"not_before": now - datetime.timedelta(days=2), "not_after": now - datetime.timedelta(days=1)}
        made = self._ca.issue_cert(*names, **about)
        certificate, key = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return certificate, key

    def listener(
        self, file: str = "server", name: str = "127.0.0.1", mutual: bool = False, **about: Any
    ) -> ListenerTLS:
        """Return what a coordinator shows, that wants to see certificates of this authority if it is mutual."""
        return ListenerTLS(*self.issue(file, name, **about), self.file if mutual else None)

    def caller(self, *names: str, **about: Any) -> CallerTLS:
        """Return what a caller trusts and, with names, shows."""
        if not names:
            return CallerTLS(self.file)
        return CallerTLS(self.file, *self.issue(names[0], *names, **about))
