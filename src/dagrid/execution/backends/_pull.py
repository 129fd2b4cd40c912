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
    call = host.next(worker)
    while call is not None:
        run = context.copy().run
        started = now()
        try:
            if call.kwargs:
                value = run(call.fn, *call.args, **call.kwargs)
            else:
                value = run(call.fn, *call.args)
        except BaseException as error:
            call = host.failed(worker, call, error, started, now())
        else:
            call = completed(worker, call, value, started, now())
