"""What HTTP shows of a service: its workers, whether it lives and is ready. It reads, and decides nothing."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from time import monotonic
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import dagrid
from dagrid.errors import InvalidSettingError

OPEN = ("/healthz", "/readyz", "/api/v2/health")
"""Paths for which no token is asked, for who looks after the process has none."""
LOCAL_NAMES = ("localhost", "")
PATIENCE = 5.0
SCHEME = b"bearer "


class Doing(Protocol):
    """A run on a worker."""

    @property
    def run(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def root(self) -> str: ...

    @property
    def since(self) -> float: ...


class Seen(Protocol):
    """A worker as it is seen by the coordinator; times are seconds since 1970."""

    @property
    def id(self) -> str: ...

    @property
    def labels(self) -> dict[str, str]: ...

    @property
    def health(self) -> str: ...

    @property
    def heartbeat(self) -> float: ...

    @property
    def runs(self) -> Sequence[Doing]: ...


def create_app(
    workers: Callable[[], Sequence[Seen]], ready: Callable[[], bool], tokens: Collection[str] = ()
) -> FastAPI:
    """Return the API.

    Args:
        workers: returns the workers that there are.
        ready: whether runs are performed.
        tokens: those who have one of them may ask; without any, whoever is on this machine.
    """
    app = FastAPI(title="dagrid", version=dagrid.__version__, docs_url=None, redoc_url=None)
    known = [token.encode() for token in tokens]
    began = monotonic()

    @app.middleware("http")
    async def authorize(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = None if request.url.path in OPEN else _refused(request, known)
        return await following(request) if refused is None else refused

    @app.exception_handler(HTTPException)
    async def fail(_: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return JSONResponse({"code": code, "message": f"{error.detail}."}, error.status_code, error.headers)

    @app.get("/api/v2/workers")
    def list_workers() -> dict[str, Any]:
        return {"workers": [_worker(one) for one in workers()]}

    @app.get("/api/v2/health")
    def health() -> dict[str, Any]:
        return {
            "status": "healthy" if ready() else "unhealthy",
            "version": dagrid.__version__,
            "uptime": int(monotonic() - began),
            "timestamp": _stamp(datetime.now(UTC).timestamp()),
        }

    @app.get("/healthz")
    def lives() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def is_ready() -> JSONResponse:
        return JSONResponse({"status": "ok"}) if ready() else JSONResponse({"status": "not ready"}, 503)

    return app


def _refused(request: Request, tokens: Sequence[bytes]) -> JSONResponse | None:
    """Return the answer to who may not ask, None to who may."""
    if tokens:
        said = request.headers.get("authorization", "")
        sent = said.encode("latin-1")  # as it came
        token = sent[len(SCHEME) :].strip() if sent.lower().startswith(SCHEME) else b""
        if sum([hmac.compare_digest(token, one) for one in tokens]):  # all of them are looked at, in the same time
            return None
        return JSONResponse(
            {"code": "unauthorized", "message": "Send a token of this service: Authorization: Bearer TOKEN."},
            401,
            {"WWW-Authenticate": "Bearer"},
        )
    # A page of another site may reach this machine under a name of its own, through the browser of who sits here.
    if is_local(request.client.host if request.client else "") and is_local(request.url.hostname or ""):
        return None
    return JSONResponse(
        {
            "code": "forbidden",
            "message": "Without a token this service answers on its own machine only. Give it one: auth.token or auth.tokenFile.",
        },
        403,
    )


def is_local(host: str) -> bool:
    """Return whether a name or an address means this machine and is reached from nowhere else."""
    if host in LOCAL_NAMES:
        return host != ""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _worker(seen: Seen) -> dict[str, Any]:
    return {
        "id": seen.id,
        "labels": dict(sorted(seen.labels.items())),
        "health_status": seen.health,
        "last_heartbeat": _stamp(seen.heartbeat),
        "running_tasks": [
            {
                "dag_name": one.name,
                "dag_run_id": one.run,
                "root_dag_run_name": one.root or one.name,
                "started_at": _stamp(one.since),
            }
            for one in seen.runs
        ],
    }


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Api:
    """The API on a port, served by a thread.

    Args:
        app: from `create_app`.
        host, port: where it listens; port 0 is any that is free.

    Raises:
        InvalidSettingError: it cannot listen there.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host.strip("[]"), port), family=family, backlog=1024)
        except OSError as error:
            raise InvalidSettingError(
                f"The API cannot listen at {host}:{port}: {error.strerror}. Choose another --port or --host."
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="dagrid-api", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more; may be called twice."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()
