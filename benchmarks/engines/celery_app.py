"""What is run on Celery by hand, as an app that its workers load; the broker is named by the environment."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks.shapes import PARAMETERS, one

BROKER = "DAGRID_BENCH_BROKER"
QUEUE = "by-hand"

app = Celery("by-hand", broker=os.environ.get(BROKER), backend=os.environ.get(BROKER), set_as_current=False)
app.conf.update(task_default_queue=QUEUE, broker_connection_retry_on_startup=True, result_expires=600)

TASKS: dict[Any, Any] = {fn: app.task(fn, name=f"by-hand.{fn.__name__}") for fn in PARAMETERS}


@app.task(name="by-hand.call")
def call(arguments: list[int]) -> list[int]:
    return [one(argument) for argument in arguments]
