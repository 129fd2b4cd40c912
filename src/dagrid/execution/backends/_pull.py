"""The loop of a worker that pulls: ask the host for a call, perform it, deliver, until there is none.

It knows the port only; whose thread it runs in is for the backends that use it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence

from dagrid.attempt import Here, performing
from dagrid.execution.backends.base import closed_under
from dagrid.ports import Host


def perform(host: Host, worker: int, context: contextvars.Context, closed: Sequence[str]) -> None:
    """Perform calls in this thread until the host has no more for this worker.

    Args:
        host: gives the calls and takes the outcomes.
        worker: its number.
        context: each call runs in its own copy of this one.
        closed: gets the name of the backend when that is closed; what is asked for from then on fails.
    """
    here = Here()
    context = context.copy()
    context.run(performing.set, here)
    copy, now, completed = context.copy, host.now, host.completed
    call = host.next(worker)
    while call is not None and not closed:
        here.call = call
        kwargs = call.kwargs
        run = copy().run
        started = now()
        try:
            value = run(call.fn, *call.args, **kwargs) if kwargs else run(call.fn, *call.args)
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
            here.extra = None
            call = host.failed(worker, call, error, started, now())
        else:
            if here.extra is None:
                call = completed(worker, call, value, started, now())
            else:
                call = completed(worker, call, value, started, now(), here.take())
    here.call = None
    while call is not None:
        call = host.failed(worker, call, closed_under(closed[0]), now(), now())
