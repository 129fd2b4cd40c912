"""Certificates in files, and what gRPC wants to know of them. Files are read anew when they have changed, without a restart.

It knows the files and gRPC; not who calls, and nothing of what is said.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import grpc
import msgspec

from dagrid.errors import FleetCertificateError, InvalidSettingError
from dagrid.execution.backends.cluster.sayings import Sayings

_log = logging.getLogger("dagrid.fleet")


@dataclass(frozen=True, slots=True)
class ListenerTLS:
    """The certificate that a coordinator shows, and whose certificates it wants to see.

    Attributes:
        certificate: a file with the chain, the coordinator's own certificate first.
        key: a file with its private key.
        ca: a file with the authorities that sign who calls; None: who calls shows no certificate.
    """

    certificate: Path
    key: Path
    ca: Path | None = None

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None, ca: Path | None) -> ListenerTLS | None:
        """Return what was named, or None if nothing was.

        Raises:
            InvalidSettingError: the certificate or its key is missing.
        """
        if certificate is None and key is None and ca is None:
            return None
        if certificate is None or key is None:
            raise InvalidSettingError(
                "A coordinator with TLS needs a certificate and its key: tls_cert and tls_key, on the command line "
                "--coordinator.tls-cert and --coordinator.tls-key."
            )
        return cls(certificate, key, ca)


@dataclass(frozen=True, slots=True)
class CallerTLS:
    """Which coordinators are trusted, and what is shown to them.

    Attributes:
        ca: a file with the authorities that sign coordinators; None: those that gRPC brings.
        certificate, key: files with the certificate that is shown, and its private key; None: none is shown.
        name: the name that the coordinator's certificate must have, where that is not the host's.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the holder of a certificate may say of itself. Patterns are those of a shell, and case counts.

    Attributes:
        ids: patterns of the ids that it may have.
        labels: a pattern of values, or some, by label; a label that is not named here may not be claimed. None: any labels.
        borrows: whether it may use the workers.
    """

    ids: tuple[str, ...] = ("*",)
    labels: dict[str, str | tuple[str, ...]] | None = None
    borrows: bool = True

    @staticmethod
    def of(said: Mapping[str, Any]) -> dict[str, Claims]:
        """Return what the holders of certificates may say of themselves, by a name in the certificate.

        Args:
            said: by name, a `Claims`, or a mapping with its fields.

        Raises:
            InvalidSettingError: it is something else, and where.
        """
        try:
            return msgspec.convert(dict(said), dict[str, Claims])
        except msgspec.ValidationError as error:
            raise InvalidSettingError(
                f"This is not what certificates are for: {error}. By name of a certificate, write ids, labels and borrows, such "
                f"as gpu.example: {{ids: [gpu-*], labels: {{gpu: 'true'}}, borrows: false}}."
            ) from error

    def refuses(self, id: str, labels: Mapping[str, str]) -> str:
        """Return why a worker may not say this of itself, or nothing."""
        if not any(fnmatchcase(id, pattern) for pattern in self.ids):
            return f"its certificate is not one for the id {id!r}"
        if self.labels is None:
            return ""
        for label, value in labels.items():
            patterns = self.labels.get(label, ())
            if not any(fnmatchcase(value, each) for each in ((patterns,) if isinstance(patterns, str) else patterns)):
                return f"its certificate is not one for the label {label}={value}"
        return ""


def names_in(context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Return the names in the certificate of who calls: alternative names, then the common one."""
    fields = ("x509_subject_alternative_name", "x509_common_name")
    return [name.decode(errors="replace") for field in fields for name in context.get(field, ())]


class Certificates:
    """The certificates of a listener, as its files have them now.

    Raises:
        FleetCertificateError: a file cannot be read, or the certificate is not that of the key.
    """

    def __init__(self, files: ListenerTLS) -> None:
        self._files = files
        self._guard = threading.Lock()
        self._sayings = Sayings()
        self._seen = self._stamps()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that look at the files at each connection."""
        changed = cast(
            Callable[[], grpc.ServerCertificateConfiguration], self._changed
        )  # gRPC takes None for no change
        return grpc.dynamic_ssl_server_credentials(self._first, changed, self._files.ca is not None)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files have now, or None where that is what is in use; called in threads of gRPC's."""
        with self._guard:
            try:
                stamps = self._stamps()
                if stamps == self._seen:
                    return None
                self._seen = stamps
                made = self._read()
            except FleetCertificateError as error:
                if self._sayings.due(str(error)):
                    _log.error("The certificates in use stay as they are: %s", error)
                return None
            _log.info("The certificates have changed, and are used from now on.")
            return made

    def _stamps(self) -> list[tuple[int, int]]:
        return [_stamp(file) for file in (self._files.certificate, self._files.key, self._files.ca) if file is not None]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        check_pair(self._files.certificate, self._files.key)
        pair = (read(self._files.key), read(self._files.certificate))
        return grpc.ssl_server_certificate_configuration([pair], _authorities(self._files.ca))


def caller_credentials(files: CallerTLS) -> grpc.ChannelCredentials:
    """Return what a call is made with, as the files are now.

    Raises:
        FleetCertificateError: a file cannot be read, or the certificate is not that of the key.
    """
    if files.certificate is None or files.key is None:
        if files.certificate is not files.key:
            raise FleetCertificateError("A certificate and its private key go together. Give both files, or none.")
        return grpc.ssl_channel_credentials(_authorities(files.ca))
    check_pair(files.certificate, files.key)
    return grpc.ssl_channel_credentials(_authorities(files.ca), read(files.key), read(files.certificate))


def check_pair(certificate: Path, key: Path) -> None:
    """Raise `FleetCertificateError` if two files do not hold a certificate and its private key; gRPC would say less."""
    read(certificate), read(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise FleetCertificateError(
            f"{certificate} and {key} are not a certificate and its private key: {error}."
        ) from error


def _authorities(file: Path | None) -> bytes | None:
    if file is None:
        return None
    found = read(file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FleetCertificateError(f"{file} does not hold the certificates of authorities: {error}.") from error
    return found


def read(file: Path) -> bytes:
    """Return what is in a file of certificates or keys, or raise `FleetCertificateError`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise FleetCertificateError(f"{file} cannot be read: {error.strerror}.") from error


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino
