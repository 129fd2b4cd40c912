"""The one loop of a process in which gRPC's streams live, in a thread of its own, as long as somebody uses it.

gRPC hands what happens on its sockets to every loop that uses it, so a second one would wake for nothing. It knows nothing of who
calls whom.
"""

from __future__ import annotations

import asyncio
import threading

_guard = threading.Lock()
_users = 0
_running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None


def join() -> asyncio.AbstractEventLoop:
    """Return the loop, which runs until everybody who joined has left."""
    global _users, _running
    with _guard:
        if _running is None or not _running[1].is_alive():  # a fork has no threads of its parent
            _users = 0
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(loop,), name="dagrid-fleet", daemon=True)
            _running = loop, thread
            thread.start()
        _users += 1
        return _running[0]


def leave() -> None:
    """Let the loop end if nobody else uses it, and wait for that where it is another thread's."""
    global _users, _running
    with _guard:
        _users -= 1
        if _users or _running is None:
            return
        loop, thread = _running
        _running = None
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join()


def is_here() -> bool:
    """Return whether this is the thread of the loop, which must not wait for itself."""
    return _running is not None and _running[1] is threading.current_thread()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
