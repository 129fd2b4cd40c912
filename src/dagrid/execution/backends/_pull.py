"""The loop of a worker that pulls: ask the host for a call, perform it, deliver, until there is none.

It knows the port only; whose thread it runs in is for the backends that use it.
"""

from __future__ import annotations

import contextvars

from dagrid.ports import Host


def perform(host: Host, worker: int, context: contextvars.Context) -> None:
    """Perform calls in this thread, each in its own copy of a context, until the host has no more for this worker."""
    now = host.now
    completed = host.completed
    copy = context.copy
    call = host.next(worker)
    while call is not None:
        kwargs = call.kwargs
        run = copy().run
        started = now()
        try:
            value = run(call.fn, *call.args, **kwargs) if kwargs else run(call.fn, *call.args)
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its outcome
            call = host.failed(worker, call, error, started, now())
        else:
            call = completed(worker, call, value, started, now())
