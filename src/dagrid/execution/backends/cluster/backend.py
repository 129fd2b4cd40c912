"""The fleet as a backend: runs use the workers of a coordinator elsewhere, or of one that listens in this process.

It is the face of the sessions; what is said on the line, and how, is not known here.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

from dagrid.errors import InvalidSettingError
from dagrid.execution.backends.base import BackendBase, Sessions, closed_under
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.line import Line
from dagrid.execution.backends.cluster.listener import PATIENCE
from dagrid.execution.backends.cluster.logbook import OpenSink
from dagrid.execution.backends.cluster.posts import key_of
from dagrid.execution.backends.cluster.project import ProjectKit, named, packed
from dagrid.execution.backends.cluster.session import FleetSession
from dagrid.execution.backends.cluster.tls import CallerTLS, Claims, ListenerTLS, caller_credentials
from dagrid.leases import LEASE
from dagrid.ports import Artifacts, Backend, Capabilities, Host, Kit, Session, Use

KEY = "DAGRID_COORDINATOR_SIGNING_KEY"
COMMAND = "command"
UNNAMED = "graph"
"""What a graph without a name is called for who looks."""

_log = logging.getLogger("dagrid.fleet")

Begin = Callable[[FleetSession], Line]
FilesLike = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
ArtifactsLike = str | os.PathLike[str] | Artifacts


class ClusterBackend(BackendBase):
    """Runs tasks on the workers of a fleet (`dagrid worker`), which are reached through their coordinator.

    Functions and values travel pickled, the modules of the project with them; what is installed has to be installed on the
    workers too, whose Python has to be of the same minor version: others are given commands only, and that is said where there
    are no more. A node with a selector runs on a worker that has all of its labels, and waits as long as there is none; commands
    run on workers as well. All of a run works in a fresh folder there, with the files of the project. Each attempt finds what
    stays the same however often its node is performed in its environment, as DAGRID_ATTEMPT_KEY. What runs when this process
    ends, in a run with a checkpoint, goes on and is found again when the run is taken up.

    Args:
        address: of the coordinator, as `grpc://host:port` (plain text) or `grpcs://host:port` (TLS); the port may be left out.
            An `Address` says key and certificates as well.
        signing_key: what coordinator and workers share; by default that of the environment (DAGRID_COORDINATOR_SIGNING_KEY).
        tls_ca, tls_cert, tls_key: files with who signs coordinators, and with what is shown to them.
        artifacts: where large values are kept: a folder or a URL that this process and all workers reach, or what
            `dagrid.stores.open_artifacts` returns; by default they go through the coordinator.
        files: a file, a folder or a pattern of the project, or some, relative to its folder, that are sent beside its modules. An
            empty list sends nothing at all.

    Raises:
        InvalidSettingError: the address is none, a file that is named is not there, or what is given for artifacts is no place.
        FleetCertificateError: a file of certificates cannot be used.
        StoreError: the place for artifacts cannot be opened.
    """

    name: ClassVar[str] = "grpc"
    capabilities: ClassVar[Capabilities] = Capabilities(
        kills=True, cancels=True, matches_selectors=True, chains=True, survives=True
    )

    def __init__(
        self,
        address: str | Address = "127.0.0.1",
        signing_key: str | bytes | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        artifacts: ArtifactsLike | None = None,
        files: FilesLike | None = None,
    ) -> None:
        super().__init__()
        if isinstance(address, str):
            tls = None
            if tls_ca or tls_cert or tls_key:
                tls = CallerTLS(ca=_path(tls_ca), certificate=_path(tls_cert), key=_path(tls_key))
            text = address if "://" in address else f"{self.name}://{address}"
            address = Address.parse(text, tls, _key(signing_key))
        if not isinstance(address, Address):
            raise InvalidSettingError(
                f"{address!r} is not the address of a coordinator. Write grpc://host:port as text."
            )
        if address.tls is not None:
            caller_credentials(address.tls)  # read anew for each call, but what is wrong from the beginning is said now
        self.address: Address | None = address
        self._prepare(None, artifacts, files)

    def _prepare(self, hub: Hub | None, artifacts: ArtifactsLike | None, files: FilesLike | None) -> None:
        self._hub = hub
        self._owned = False
        self._artifacts = _place(artifacts)
        self._files = [files] if isinstance(files, (str, os.PathLike)) else files
        list(
            named(self._files or ())
        )  # it is packed as it is when a run begins, but what was never there is refused now
        self._kit: Kit | None = None
        self._contents: dict[bytes, bytes] = {}
        self._run_name = self._root = ""
        self._logs: OpenSink | None = None
        self.sessions: Sessions[FleetSession] = Sessions()

    @classmethod
    def listening(
        cls,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        signing_key: str | bytes | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_claims: Mapping[str, Claims | Mapping[str, Any]] | None = None,
        lease: float = LEASE,
        heartbeat: float = 1.0,
        artifacts: ArtifactsLike | None = None,
        files: FilesLike | None = None,
    ) -> Self:
        """Be a coordinator in this process: workers call its port as long as the backend is open.

        Args:
            host, port: where it listens; port 0 takes a free one, see `port`.
            signing_key, artifacts, files: see the class.
            tls_cert, tls_key: files with the certificate that it shows; without them nothing is encrypted, and that is said where
                others than this machine can call.
            tls_ca: a file with who signs workers; without it they show nothing.
            tls_claims: by a name in a certificate, what its holder may say of itself: a `Claims`, or a mapping with its fields;
                all others are refused then. Without it, whoever was signed may say anything.
            lease: seconds of silence after which a worker loses its attempts, at least 1.
            heartbeat: seconds between two words of a worker that has nothing to say; at most a fifth of the lease is taken.

        Raises:
            InvalidSettingError: a setting cannot be: of the certificate and its key one is missing, or claims are none.
            FleetCertificateError: a file of certificates cannot be used.
            BackendError: somebody else listens there.
            InvalidSettingError: the lease is too short.
        """
        tls = ListenerTLS.of(_path(tls_cert), _path(tls_key), _path(tls_ca))
        claims = None if tls_claims is None else Claims.of(tls_claims)
        hub = Hub(
            host,
            port,
            key=_key(signing_key),
            tls=tls,
            claims=claims,
            lease=lease,
            heartbeat=heartbeat,
            version=sys.modules["dagrid"].__version__,
        )
        made = cls.on(hub, artifacts=artifacts, files=files)
        hub.start()
        made._owned = True  # noqa: SLF001 - our own
        return made

    @classmethod
    def on(
        cls,
        hub: Hub,
        *,
        name: str = "",
        root: str = "",
        kit: Kit | None = None,
        contents: Mapping[bytes, bytes] | None = None,
        logs: OpenSink | None = None,
        artifacts: ArtifactsLike | None = None,
        files: FilesLike | None = None,
    ) -> Self:
        """Use the workers of a coordinator of this process, which is somebody else's to close.

        Args:
            hub: the coordinator.
            name, root: what a run that uses this is called for who looks, and the run that began it all; by default as its graph.
            kit: what its calls need around them; by default the project.
            contents: what that needs, by SHA-256.
            logs: opens the files that its attempts write.
            artifacts, files: see the class.
        """
        made = cls.__new__(cls)
        BackendBase.__init__(made)
        made.address = None
        made._prepare(hub, artifacts, files)  # noqa: SLF001 - our own
        made._kit, made._contents = kit, dict(contents or {})  # noqa: SLF001
        made._run_name, made._root, made._logs = name, root, logs  # noqa: SLF001
        return made

    @property
    def hub(self) -> Hub | None:
        """The coordinator of this process that it uses, if it does."""
        return self._hub

    @property
    def port(self) -> int:
        """The port of the coordinator."""
        if self._hub is not None:
            return self._hub.port
        assert self.address is not None
        return self.address.port

    def open(self, host: Host) -> Session:
        """Begin to serve a run.

        Raises:
            BackendUnreachableError, FleetError: no coordinator answers, or it refuses.
        """
        return self.serve(host, "", ())

    def reopen(self, host: Host, uses: Sequence[Use]) -> Session:
        """Go on with a run whose process had ended. Raises as `open` does."""
        return self.serve(host, "", uses)

    def open_place(self, name: str) -> Backend | None:
        """Return what performs the nodes of a place; None for places that are not on the fleet."""
        return _Commands(self) if name == COMMAND else None

    def serve(self, host: Host, place: str, uses: Sequence[Use]) -> FleetSession:
        """Begin to serve the nodes of a run that have a place, or those that have none. Raises as `open` does."""
        self.check_open()
        kit, contents = self._surroundings()
        name = self._run_name or host.name or UNNAMED
        session = FleetSession(
            host,
            key_of(host.run, host.nonce or secrets.token_hex(8), place),
            name=name,
            root=self._root or name,
            place=place,
            kit=kit,
            contents=contents.get,
            artifacts=self._artifacts,
            uses=uses,
            closed=self.sessions.discard,
        )
        self.sessions.add(session)
        session.begin(self._begin, 2 * PATIENCE)
        return session

    def _surroundings(self) -> tuple[Kit | None, Mapping[bytes, bytes]]:
        if self._kit is None:
            project = packed(self._files)
            self._kit = ProjectKit(
                project.digest if project else b"", project.roots if project else (), self._artifacts
            )
            self._contents = {project.digest: project.data} if project else {}
        return self._kit, self._contents

    def _begin(self, session: FleetSession) -> Line:
        if self._hub is not None:
            return self._hub.borrow(session.opening(), session.tell, logs=self._logs)
        assert self.address is not None
        return borrow(self.address, session.reopen, session.tell, patience=PATIENCE)

    def release(self, wait: bool) -> None:
        """End every session, whose run fails if it goes on, and the coordinator where it is this one's."""
        for session in self.sessions:
            session.give_up(closed_under(self.name))
        if self._owned and self._hub is not None:
            self._hub.close()


class SecureClusterBackend(ClusterBackend):
    """A `ClusterBackend` whose address means TLS if it does not say what it means: `backend="grpcs://host:50055"`."""

    name: ClassVar[str] = "grpcs"


class _Commands:
    """The commands of a run, on the workers that its other nodes use too."""

    name = COMMAND

    def __init__(self, backend: ClusterBackend) -> None:
        self._backend = backend
        self.capabilities = backend.capabilities

    def open(self, host: Host) -> Session:
        return self._backend.serve(host, COMMAND, ())

    def reopen(self, host: Host, uses: Sequence[Use]) -> Session:
        return self._backend.serve(host, COMMAND, uses)

    def close(self, wait: bool = True) -> None:
        """The backend is somebody else's to close."""


def _place(artifacts: ArtifactsLike | None) -> Artifacts | None:
    """Return where large values are kept; a path or a URL is opened."""
    if isinstance(artifacts, (str, os.PathLike)):
        opened: Artifacts = import_module("dagrid.stores").open_artifacts(
            artifacts
        )  # it stands beside us, see docs/design.md
        return opened
    if artifacts is None or all(callable(getattr(artifacts, name, None)) for name in ("get", "put", "clear")):
        return artifacts
    raise InvalidSettingError(
        f"Artifacts are kept in a folder, at a URL, or in an object with get, put and clear; not in {artifacts!r}."
    )


def _path(file: str | os.PathLike[str] | None) -> Path | None:
    return Path(file) if file else None


def _key(said: str | bytes | None) -> bytes | None:
    """Return the signing key as bytes, as a file with it is read; nothing is none. Raises InvalidSettingError: it is no text."""
    found = said if said is not None else os.environ.get(KEY, "")
    if not isinstance(found, (str, bytes)):
        raise InvalidSettingError(f"A signing key is text or bytes, not {found!r}.")
    return (found.strip().encode() if isinstance(found, str) else found) or None
