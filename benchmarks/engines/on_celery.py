"""Celery: a Redis and two worker processes for each side on this machine, and what can be written for them by hand."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import __version__

from benchmarks.engines.celery_app import BROKER, QUEUE, TASKS, app, call
from benchmarks.engines.place import CHUNK, Countdown, Place
from benchmarks.shapes import Shape
from tests.engines.celery_place import installation, start_worker, stop, wait_ready

APP = "benchmarks.engines.celery_app"
ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")
WORKERS = ("hand0", "hand1")
CHANNELS = "celery-task-meta-*"


@contextmanager
def place() -> Iterator[Place]:
    """Start a Redis and workers, and stop them."""
    from dagrid.execution.backends.celery import CeleryBackend

    with tempfile.TemporaryDirectory(prefix="dagrid-bench-") as name:
        folder = Path(name)
        with installation(folder) as broker:
            os.environ[BROKER] = broker
            mine = []
            try:
                for worker in WORKERS:
                    process = start_worker(folder, broker, worker, target=APP, options=("-Q", QUEUE, *ALONE))
                    mine.append(process)
                wait_ready(folder, *WORKERS)
                with CeleryBackend(broker) as backend:
                    yield _place(backend, broker)
            finally:
                for process in mine:
                    stop(process)


def _place(backend: Any, broker: str) -> Place:
    app.conf.update(broker_url=broker, result_backend=broker)
    producer = app.amqp.Producer(app.connection_for_write())

    def channels(shape: Shape) -> None:
        """Ready tasks are sent; what Celery's own result backend publishes is listened to on one line."""
        state = Countdown(shape)
        sent: dict[str, int] = {}
        ready: Sequence[int] = state.first()
        with _listening() as outcomes:
            while state.left:
                for node in ready:
                    sent[TASKS[shape.fns[node]].apply_async(state.arguments(node), producer=producer).id] = node
                meta = next(outcomes)
                ready = state.done(sent.pop(meta["task_id"]), meta["result"])
        shape.check(state.values)

    def callbacks(shape: Shape) -> None:
        """Ready tasks are sent; Celery calls back when a result is there."""
        state = Countdown(shape)

        def send(nodes: Sequence[int]) -> None:
            for node in nodes:
                result = TASKS[shape.fns[node]].apply_async(state.arguments(node), producer=producer)
                result.then(lambda result, node=node: send(state.done(node, result.result)))

        send(state.first())
        consumer = app.backend.result_consumer
        while state.left:
            consumer.drain_events(timeout=30)
        shape.check(state.values)

    def batches(count: int) -> None:
        with _listening() as outcomes:
            sent = {call.apply_async(([0] * CHUNK,), producer=producer).id for _ in range(count // CHUNK)}
            while sent:
                sent.discard(next(outcomes)["task_id"])

    hand = {
        "ready tasks sent, results by pub/sub on one line": channels,
        "ready tasks sent, results by callbacks": callbacks,
    }
    return Place(backend, hand, {"a task for each batch": batches}, versions=f"Celery {__version__} on Redis")


@contextmanager
def _listening() -> Iterator[Iterator[dict[str, Any]]]:
    """Give what the result backend publishes of each task."""
    line = app.backend.client.pubsub(ignore_subscribe_messages=True)
    line.psubscribe(CHANNELS)
    try:
        line.get_message(timeout=5)  # that it is subscribed
        yield (json.loads(message["data"]) for message in line.listen())
    finally:
        line.close()
