"""What both ends of Celery share: names and limits, where outcomes are stored, and what a worker says, signed.

The driver's end is in `_celery_line`, the worker's in `_celery_worker`. It knows Celery and nothing of runs.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from typing import Any

import msgspec
from celery import Celery
from celery.app import backends as result_backends
from celery.backends.base import BaseKeyValueStoreBackend, DisabledBackend
from celery.exceptions import ImproperlyConfigured

from dagrid.errors import InvalidSettingError

TASK = "dagrid.perform"
MODULE = "dagrid.execution.backends.celery"
LARGEST = 256 * 2**20
"""How many bytes a call or a report may have: Redis takes no text above 512 MiB, and in base64 they are a third longer."""
BATCH_BYTES = 2**20
"""How many bytes the calls of a batch, or their reports, may reach before no more are added."""
LOUD = 4 * 2**20
"""How many bytes are told to who listens. Redis drops a listener for whom more than 32 MB are waiting; he fetches the rest."""
STARTED = "STARTED"
HOUR = 3600

TOO_LARGE = f"and no more than {LARGEST:,} travel through Celery. Leave it in a file or a store, and return its name."


class Said(msgspec.Struct, array_like=True):
    """What a worker says of a message: the reports of its first calls, in their order, and by place why some have none.
    One that rode on a call which did not complete has an empty one.

    While it works (`since` is above 0), the call behind those has been running since then, in seconds of the worker's clock of
    day; those behind it go back, but for those that ride on it. When it is done, `since` is 0, and all without a report go back.
    `pool` is empty where a task can be stopped, THREADS where it cannot, SOLO where its worker answers nothing meanwhile either.
    """

    host: str
    process: int
    reports: list[bytes]
    refused: dict[int, str]
    since: float = 0.0
    pool: str = ""


THREADS = "threads"
SOLO = "solo"


_encode_said = msgspec.msgpack.Encoder().encode
_decode_said = msgspec.msgpack.Decoder(Said).decode
Orders = list[tuple[bytes, int]]
"""Calls as bytes, each with the place of the one before it on which it rides, -1 for none."""
pack_orders = msgspec.msgpack.Encoder().encode
unpack_orders = msgspec.msgpack.Decoder(Orders).decode


def seal(said: Said, key: bytes | None, task: str, results: Any) -> dict[str, str | None]:
    """Return what a worker says as JSON can carry it, signed if there is a key; what is large is put beside it."""
    data = _encode_said(said)
    mac = mac_of(key, b"report", task, data)
    if len(data) < LOUD or not isinstance(results, BaseKeyValueStoreBackend):
        return {"said": b64encode(data).decode(), "mac": mac}
    beside = f"{task}-{len(said.reports)}{'-' if said.since else ''}"
    results.set(results.get_key_for_task(beside), b64encode(data))
    return {"said": None, "beside": beside, "mac": mac}


def unseal(sealed: dict[str, str | None], key: bytes | None, task: str, results: Any) -> Said | str:
    """Return what a worker said, or why it is refused."""
    body: str | bytes | None = sealed["said"]
    if body is None:
        beside = results.get_key_for_task(sealed["beside"])
        body = results.get(beside)
        results.delete(beside)
    if body is None:
        return "it is gone from the result backend"
    data = b64decode(body)
    expected = mac_of(key, b"report", task, data)
    mac = sealed.get("mac")
    if expected is None or hmac.compare_digest(mac or "", expected):
        return _decode_said(data)
    return "it was altered, or the worker has another key" if mac else "it is not signed"


def mac_of(key: bytes | None, what: bytes, task: str, data: bytes) -> str | None:
    """Return the signature of bytes that belong to a task, so that none fits another one."""
    if key is None:
        return None
    return hmac.new(key, b"\0".join((what, task.encode(), data)), hashlib.sha256).hexdigest()


def as_key(key: str | bytes | None) -> bytes | None:
    """Return a key as bytes; an empty one is none."""
    return (key.encode() if isinstance(key, str) else key) or None


def results_url(app: Celery, wanted: str | None) -> str:
    """Return where outcomes are stored: what is wanted, what the app says, or what suits the broker."""
    chosen = wanted or app.conf.result_backend
    if chosen and not str(chosen).startswith("disabled"):
        return str(chosen)
    broker = str(app.conf.broker_read_url or app.conf.broker_url or "amqp://")
    return broker.split(";")[0] if broker.startswith(("redis", "rediss", "sentinel")) else "rpc://"


def results_of(app: Celery, wanted: str | None) -> Any:
    """Make a result backend of our own, which disturbs nobody's: it speaks JSON only and keeps outcomes for an hour.

    Raises:
        InvalidSettingError: there is no such result backend, or none that tells when a task has ended.
    """
    try:
        kind, url = result_backends.by_url(results_url(app, wanted), app.loader)
        made = kind(app=app, url=url, serializer="json", accept=["json"], expires=HOUR)
    except (ImportError, ImproperlyConfigured, ValueError) as error:
        raise InvalidSettingError(f"The result backend cannot be used: {error}. Use redis://... or rpc://.") from error
    if isinstance(made, DisabledBackend) or not hasattr(made, "result_consumer"):
        raise InvalidSettingError(
            f"The result backend {kind.__name__} tells nobody when a task has ended. Use redis://... or rpc://."
        )
    return made
