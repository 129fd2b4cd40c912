"""A coordinator as a whole: the port where workers call, the runs of a home, and an API if one is wanted, from begin to end.

What is set, and where that was said, is for whoever calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagrid
from dagrid.config import BY_NAME
from dagrid.execution.backends.cluster.calling import reached
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.listener import PORT, is_public
from dagrid.execution.folders import OwnFolder
from dagrid.leases import LEASE
from dagrid.service.coordinator import Coordinator
from dagrid.service.fleet import OwnFleet

if TYPE_CHECKING:
    from dagrid.execution.backends.cluster.tls import Claims, ListenerTLS
    from dagrid.history import History
    from dagrid.service.api import Api

_log = logging.getLogger("dagrid.fleet")

CONTENTS = "contents"
"""The folder in that of a service where what is large is on its way."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where the API listens, and whom it answers, see `dagrid.service.api`."""

    host: str = "127.0.0.1"
    port: int = 8080
    tokens: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What a service is.

    Attributes:
        host, port: where workers call; port 0 is any that is free.
        key: the signing key; None: there is none.
        tls: the certificates; None: nothing is encrypted.
        claims: by name in a certificate, what its holder may say of itself; None: anything.
        lease: seconds of silence after which a worker loses its steps.
        limits: by queue, how many of its runs are performed at once.
        graph_env: variables for the processes of Python graphs, beside the address: what they show and trust when they call.
        api: None: there is none.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    key: bytes | None = None
    tls: ListenerTLS | None = None
    claims: Mapping[str, Claims] | None = None
    lease: float = LEASE
    limits: Mapping[str, int] = field(default_factory=dict)
    graph_env: Mapping[str, str] = field(default_factory=dict)
    api: ApiSettings | None = None


class Service:
    """A coordinator that performs the runs of a home.

    Args:
        history: the runs.
        settings: of the service.
        say: gets a line for what an operator should know.

    Raises:
        RunHeldError: another process performs the runs of the home.
        BackendError: somebody else listens at the port, or certificates cannot be used.
        InvalidSettingError: the API cannot listen, or there are claims, and callers show no certificates.
    """

    def __init__(
        self, history: History, settings: ServiceSettings, say: Callable[[str], object] = _log.warning
    ) -> None:
        self._settings = settings
        self._home = history.home
        self._folder = OwnFolder(history.home / "coordinator", CONTENTS)
        self._hub = Hub(
            settings.host,
            settings.port,
            key=settings.key,
            tls=settings.tls,
            claims=settings.claims,
            lease=settings.lease,
            folder=self._folder.path / CONTENTS,
            version=dagrid.__version__,
        )
        fleet = OwnFleet(self._hub, history.home)
        try:
            self._coordinator = Coordinator(history, fleet, limits=settings.limits, graph_env=self._graph_env, say=say)
        except BaseException:
            self._part_with_folder()
            raise
        self._api: Api | None = None
        self._ready = False
        try:
            self._hub.start()
            if settings.api is not None:
                self._api = _api(settings.api, fleet, lambda: self._ready, say)
            self._coordinator.start()
            self._ready = True
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """Where workers call."""
        return self._hub.port

    @property
    def api_port(self) -> int:
        """Where the API answers; 0 if there is none."""
        return 0 if self._api is None else self._api.port

    def close(self) -> None:
        """Let go of all runs, which go on with the next service of the home. May be called twice."""
        self._ready = False
        if self._api is not None:
            self._api.close()
        self._coordinator.close()
        self._part_with_folder()

    def _part_with_folder(self) -> None:
        """Remove it, unless there are values in it of runs that go on elsewhere: it is left to the next service then."""
        contents = self._folder.path / CONTENTS
        if contents.is_dir() and any(contents.iterdir()):
            self._folder.leave()
        else:
            self._folder.remove()

    def _graph_env(self) -> Mapping[str, str]:
        """Return what lets a process of this machine call here."""
        return {
            BY_NAME["home"].variable: str(self._home),
            BY_NAME["coordinator.host"].variable: reached(self._settings.host),
            BY_NAME["coordinator.port"].variable: str(self.port),
            **self._settings.graph_env,
        }


def _api(settings: ApiSettings, fleet: OwnFleet, ready: Callable[[], bool], say: Callable[[str], object]) -> Api:
    from dagrid.service.api import Api, create_app  # it costs half a second, and a coordinator alone has none

    if not settings.tokens and is_public(settings.host):
        say("Without a token the API answers on this machine only. Give it one: auth.token or auth.tokenFile.")
    return Api(create_app(fleet.workers, ready, settings.tokens), settings.host, settings.port)
