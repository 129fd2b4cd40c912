"""What a backend on Celery is made with: read, completed by what Celery is set to here, and refused with the remedy.

Nobody is connected to. It knows Celery's settings, and nothing of runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import celery
from celery import Celery
from celery.local import Proxy

from dagrid.errors import BackendNotInstalledError, InvalidSettingError
from dagrid.execution.backends._celery import as_key

QUEUE = "dagrid"
VARIABLE = "CELERY_BROKER_URL"
FORMS = "as in redis://localhost:6379/0 or amqp://localhost"

Selector = str | Mapping[str, str] | Iterable[tuple[str, str]]
Labels = frozenset[tuple[str, str]]


def own_app(broker: str | None) -> Celery:
    """Make an app that is nobody else's."""
    made = Celery("dagrid", broker=broker, set_as_current=False)
    made.conf.update(
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        task_default_queue=QUEUE,
        task_serializer="json",
        worker_prefetch_multiplier=1,
    )
    return made


def read_app(broker: str | None, app: Celery | None) -> Celery:
    """Return the app that is given, one for the broker that is given, the current one, or one for the environment's broker.

    Raises:
        InvalidSettingError: there is none, it is something else, or its broker's address is none.
        BackendNotInstalledError: a package for such a broker is not installed.
    """
    if broker is not None and app is not None:
        raise InvalidSettingError("CeleryBackend takes a broker or an app, not both: the app has its own broker.")
    if app is None:
        app = _app_of(broker)
    elif not isinstance(app, Celery):
        raise InvalidSettingError(f"app is your Celery app, made by celery.Celery(...), not {app!r}.")
    if isinstance(app, Proxy):
        app = app._get_current_object()  # noqa: SLF001 - the current app is another one in each thread
    try:
        app.connection_for_write().get_transport_cls()
    except ImportError as error:
        kind = str(app.conf.broker_write_url).partition("://")[0]
        raise BackendNotInstalledError(
            f"A broker at {kind}:// needs {error.name or error}. Install it with: pip install 'celery[{kind}]'"
        ) from error
    except (KeyError, ValueError) as error:
        raise InvalidSettingError(f"The broker is its address, {FORMS}. {error.args[0]}.") from error
    return app


def _app_of(broker: str | None) -> Celery:
    if broker is None:
        current = celery.current_app
        if current.conf.first("broker_write_url", "broker_url", "broker_host"):
            return current
        broker = os.environ.get(VARIABLE)
        if not broker:
            raise InvalidSettingError(
                'Celery needs a broker. Say CeleryBackend("redis://localhost:6379") or "celery?broker=redis://localhost:6379"; '
                f"or give app=...; or make a current Celery app that has one; or set the environment variable {VARIABLE}."
            )
    if not isinstance(broker, str) or "://" not in broker:
        raise InvalidSettingError(f"The broker is its address, {FORMS}, not {broker!r}.")
    return own_app(broker)


def read_name(what: str, name: str | None) -> str | None:
    """Return a name or an address that may be left out.

    Raises:
        InvalidSettingError: it is no text, or empty.
    """
    if name is not None and (not isinstance(name, str) or not name):
        raise InvalidSettingError(f"{what} is text that is not empty, or left out, not {name!r}.")
    return name


def read_key(key: str | bytes | None) -> bytes | None:
    """Return a key as bytes.

    Raises:
        InvalidSettingError: it is neither text nor bytes, or empty, so that nothing would be signed.
    """
    if key is None:
        return None
    if not isinstance(key, str | bytes):
        raise InvalidSettingError(f"key is text or bytes, or None to sign nothing, not of type {type(key).__name__}.")
    if not key:
        raise InvalidSettingError(
            "key is empty, and would sign nothing. Give the workers' key, or None to sign nothing."
        )
    return as_key(key)


def check_queues(app: Celery, queues: Iterable[str]) -> None:
    """Refuse queues that an app does not have, if it makes none by itself.

    Raises:
        InvalidSettingError: there is one.
    """
    if app.conf.task_create_missing_queues:
        return
    known = app.amqp.Queues(app.conf.task_queues)
    for queue in queues:
        if queue not in known and queue not in known.aliases:
            raise InvalidSettingError(
                f"The Celery app has no queue {queue!r}, and makes none, for its task_create_missing_queues is off. It has: "
                f"{', '.join(map(repr, known))}. Add it to task_queues, or name another one."
            )


def read_queues(queues: Mapping[Any, str] | Iterable[tuple[Selector, str]] | None) -> dict[Labels, str]:
    """Return the queues by the selectors that they are for.

    Raises:
        InvalidSettingError: they are not written in one of the ways in which they may be.
    """
    try:
        pairs = [
            (selector, queue) for selector, queue in (queues.items() if isinstance(queues, Mapping) else queues or ())
        ]
    except (TypeError, ValueError) as error:
        raise InvalidSettingError(
            f'queues= is a dict of selectors and queues, as in {{"gpu=true": "gpu-queue"}}, not {queues!r}.'
        ) from error
    found: dict[Labels, str] = {}
    for selector, queue in pairs:
        labels = _read_selector(selector)
        if not isinstance(queue, str) or not queue:
            raise InvalidSettingError(f"The queue for {told(labels)!r} is a name, not {queue!r}.")
        found[labels] = queue
    return found


def _read_selector(selector: Selector) -> Labels:
    try:
        if isinstance(selector, str):
            labels = [tuple(part.strip().split("=", 1)) for part in selector.split(",")]
        else:
            labels = [tuple(pair) for pair in (selector.items() if isinstance(selector, Mapping) else selector)]
        made = {str(name): str(value) for name, value in labels}
    except (TypeError, ValueError):
        made = {}
    if not made or not all(made):
        raise InvalidSettingError(
            f'A selector in queues= is written "label=value,label=value" or as a dict, not {selector!r}.'
        )
    return frozenset(made.items())


def told(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as they are written."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels))
