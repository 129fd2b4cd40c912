"""Errands to a broker, by one thread, again while it is away; and for how long that is borne by a whole line.

It knows connections of Celery's. What an errand is, and what becomes of calls when the broker is given up, it does not know.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from dagrid.errors import BackendUnreachableError
from dagrid.execution.backends._celery import MODULE

CONNECTING = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
PAUSE = 0.5
"""Seconds between two tries to reach a server that is away."""
_log = logging.getLogger(MODULE)


def connect(app: Celery) -> Any:
    """Open a connection to an app's broker that gives up soon; who uses it tries again for as long as it likes.

    Raises:
        BackendUnreachableError: nobody answers.
    """
    connection = app.connection_for_write(transport_options=CONNECTING, connect_timeout=3)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0.2, timeout=3)
    except Exception as error:
        raise BackendUnreachableError(
            f"The broker at {connection.as_uri()} cannot be reached: {error}. Start it, or correct its address."
        ) from error
    return connection


class Absence:
    """Since when the broker or the result backend are out of reach, as each thread of a line finds; said once, borne for a while.

    Args:
        patience: seconds for which it is borne.
        broker: its address, without its password.
        give_up: what is to be done when they are over, and whenever another try has failed after that.
    """

    def __init__(self, patience: float, broker: str, give_up: Callable[[BackendUnreachableError], None]) -> None:
        self._patience = patience
        self._broker = broker
        self._give_up = give_up
        self._guard = threading.Lock()
        self._since: dict[str, float] = {}
        self._error: BaseException | None = None

    def met(self, doing: str, error: BaseException) -> None:
        """A thread could not do its work; it may call this for each try."""
        with self._guard:
            first = not self._since
            self._since.setdefault(doing, time.monotonic())
            self._error = error
        if first:
            _log.warning(
                "Celery's broker %s or its result backend is away, seen while %s (%s). What is with it waits, for %g s at most.",
                self._broker,
                doing,
                error,
                self._patience,
            )
        self.is_final()

    def over(self, doing: str) -> None:
        """A thread can do its work again."""
        if doing in self._since:
            with self._guard:
                del self._since[doing]
                last = not self._since
            if last:
                _log.info("Celery's broker %s and its result backend are there.", self._broker)

    def is_final(self) -> bool:
        """Return whether it has been borne for long enough; if so, everything is given up."""
        with self._guard:
            since = min(self._since.values(), default=None)
        if since is None or time.monotonic() - since <= self._patience:
            return False
        self._give_up(
            BackendUnreachableError(
                f"Celery's broker or result backend has been out of reach for {self._patience:g} s: "
                f"{str(self._error).rstrip('.')}. The broker is {self._broker}; start it and run again."
            )
        )
        return True


class Post:
    """The thread that publishes.

    Args:
        app: whose broker it is.
        connection: what `connect` made; it is closed here.
        absence: where it is noted that the broker is away.
        closing: set when nothing is to be tried again.
    """

    DOING = "sending"

    def __init__(self, app: Celery, connection: Any, absence: Absence, closing: threading.Event) -> None:
        self.connection = connection
        self.producer = app.amqp.Producer(connection)
        self._app = app
        self._absence = absence
        self._closing = closing
        self._errands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._next_try = 0.0

    def put(self, errand: Callable[[], None] | None) -> None:
        """Have something done by the thread, after what it was asked before; None ends it."""
        self._errands.put(errand)

    def loop(self) -> None:
        """The thread."""
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception:  # noqa: BLE001 - the thread must go on for the other calls
                _log.exception("An errand to Celery failed.")
        self.connection.close()

    def persist(self, action: Callable[[], None]) -> None:
        """Do something with the broker; while it is away, again, until everything is given up.

        Raises:
            Exception: what the action raised, if that is not for want of a connection.
        """
        fresh = False
        while not self._closing.is_set() and not self.given_up():
            try:
                action()
            except Exception as error:
                away = (BackendUnreachableError, OperationalError, *self.connection.connection_errors)
                if isinstance(error, away) and not isinstance(
                    error, LookupError
                ):  # for Redis, kombu counts KeyError among them
                    self._absence.met(self.DOING, error)
                    self._closing.wait(PAUSE)
                elif fresh:  # a connection that breaks in the hands of two threads says so in any words, but only once
                    raise
                fresh = self._reconnect()
            else:
                self._absence.over(self.DOING)
                return

    def given_up(self) -> bool:
        """Return whether everything is given up, also what came since; the broker is tried now and then, for it may be back."""
        if not self._absence.is_final():
            return False
        if time.monotonic() < self._next_try:
            return True
        back = self._reconnect()
        self._next_try = time.monotonic() + PAUSE
        if back:
            self._absence.over(self.DOING)
        return self._absence.is_final()

    def _reconnect(self) -> bool:
        try:
            fresh = connect(self._app)
        except BackendUnreachableError as error:
            self._absence.met(self.DOING, error.__cause__ or error)
            return False
        self.connection.collect()
        self.connection = fresh
        self.producer = self._app.amqp.Producer(fresh)
        return True
