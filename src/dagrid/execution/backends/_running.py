"""One process of a session while it runs: its output is read, its end is noticed, its group is told to stop and killed.

All of it happens in the one thread of the session, which waits in the selector of the `Ground`. What a process is there for, an
attempt or a service, is known to whoever started it, and is told when nothing more comes of it.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from dagrid.commands import Exit, Launch
from dagrid.execution.backends._launching import KILL, Process
from dagrid.execution.watchdog import Guard
from dagrid.machine.events import UNSTARTED

READ_SIZE = 1 << 16
DRAIN = 0.2
"""How many seconds what a process wrote is read after its end, where somebody it left behind holds its pipes."""
FIRST_LOOK, LAST_LOOK = 0.005, 0.1
"""After how many seconds a group that was told to stop, and has lost its first process, is looked at again."""
SOON = 0.0004
"""After a wait of less than so many seconds the next one is expected to be as short."""
LOOK = 0.0002
"""For so many seconds is looked before sleeping where something is expected soon, for to be woken takes nearly as long."""
PARTING = 1.0
"""How many seconds killed processes have to go when their session is closed."""


class Ground:
    """What the processes of one session share; only its thread touches it, but for `later`.

    Args:
        now: the clock.
        later: lets the thread of the session do something; from any thread.
        guard: ends the processes when this one cannot.
    """

    def __init__(self, now: Callable[[], float], later: Callable[[Callable[[], None]], None], guard: Guard) -> None:
        self.now = now
        self.later = later
        self.due: set[Running] = set()
        self.selector = selectors.DefaultSelector()
        self.null = os.open(os.devnull, os.O_RDWR)
        self.guard = guard
        self._soon = False

    def close(self) -> None:
        """Let go of everything; the processes are gone."""
        os.close(self.null)
        self.selector.close()

    def watch(self, descriptor: int, events: int, owner: Owner, action: Callable[..., object], *args: Any) -> None:
        """Call an action whenever something can be done with a descriptor."""
        self.selector.register(descriptor, events, (owner, action, *args))

    def unwatch(self, descriptor: int) -> None:
        """Look at a descriptor no longer, if it was looked at."""
        if descriptor in self.selector.get_map():
            self.selector.unregister(descriptor)

    def wait(self, timeout: float | None) -> bool:
        """Sleep until something happens, and see to it; return whether a descriptor without an owner, the bell, is among it."""
        rung = False
        if self.due:
            patience = max(0.0, min(running.due for running in self.due) - self.now())
            timeout = patience if timeout is None else min(timeout, patience)
        for key, _ in self._look() or self._sleep(timeout):
            if key.data is None:
                rung = True
            else:
                guarded(*key.data)
        if self.due:
            now = self.now()
            for running in [running for running in self.due if running.due <= now]:
                guarded(running, running.look_at, now)
        return rung

    def _look(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what happens while it would take to fall asleep and be woken, if the last things happened as soon as that."""
        if self._soon:
            until = perf_counter() + LOOK
            while perf_counter() < until:
                if found := self.selector.select(0):
                    return found
        return []

    def _sleep(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        began = self.now()
        found = self.selector.select(timeout)
        self._soon = self.now() - began < SOON
        return found


class Owner(Protocol):
    """Who is told when something about it goes wrong that no task is to blame for."""

    def fail(self, error: BaseException) -> None:
        """It cannot go on."""
        ...


def guarded(owner: Owner, action: Callable[..., object], *args: Any) -> None:
    """Do something about one process; what goes wrong with it, by a fault of ours or of the system, is no harm to others."""
    try:
        action(*args)
    except Exception as error:  # noqa: BLE001  # the thread serves the others
        owner.fail(error)


class Running:
    """A process from its start to the end of its group.

    Args:
        ground: what it shares with the others.
        launch: what it is started with.
        over: told when it has ended and nothing more is read of it.
        failed: told what went wrong, if we cannot go on with it; it is killed by then.
        process: one that was started so by now.

    Raises:
        CommandError: it cannot be started.

    Attributes:
        started, ended: when; `ended` is UNSTARTED until it was collected.
        stopping: its group has been told to stop.
        killed: its group was killed, for it did not stop.
        due: when something has to be done about it, if it is among those of the ground.
    """

    __slots__ = (
        "_failed", "_ground", "_kill_at", "_look", "_over", "_pidfd", "due", "ended", "killed", "launch", "left", "process",
        "started", "stopping",
    )  # fmt: skip

    def __init__(
        self,
        ground: Ground,
        launch: Launch,
        over: Callable[[], None],
        failed: Callable[[BaseException], None],
        process: Process | None = None,
    ) -> None:
        self.launch = launch
        self._ground = ground
        self._over = over
        self._failed = failed
        self._pidfd = -1
        self._kill_at = self.due = 0.0
        self._look = FIRST_LOOK
        self.stopping = self.killed = self.left = False
        self.ended = UNSTARTED
        self.started = ground.now()
        self.process = process = process or Process(launch, ground.null)
        try:
            ground.guard.add(process.pid)
            for descriptor in process.pipes:
                ground.watch(descriptor, selectors.EVENT_READ, self, self.read, descriptor)
            self._await_end()
        except BaseException:
            self.abort()
            raise

    def exit(self) -> Exit:
        """Return what is known of its end."""
        return self.process.exit(self.ended - self.started)

    def stop(self, number: int, grace: float) -> None:
        """Send a signal to the group, which is killed after its time of grace. Who was told already is not told again."""
        if self.stopping or self.left:
            return
        self.stopping = True
        if not self.process.ended:
            self.process.kill(number)
        self._kill_at = self.due = self._ground.now() + grace
        self._ground.due.add(self)

    def fail(self, error: BaseException) -> None:
        self.abort()
        self._failed(error)

    def abort(self) -> None:
        """Kill it, and wait for its end for a moment."""
        if not self.left:
            self.process.kill(KILL)
            self.process.wait(PARTING)
            self._leave()

    def read(self, descriptor: int) -> bool:
        """Read once what it wrote, and return whether there was something; its last bytes may be what was waited for."""
        process = self.process
        if descriptor not in process.pipes:
            return False
        more = process.read(descriptor, READ_SIZE)
        if more and self.launch.strict and process.cut and not process.ended:
            self.stop(self.launch.stop_signal, self.launch.grace)
        if descriptor not in process.pipes:
            self._ground.selector.unregister(descriptor)
            os.close(descriptor)
            if self.ended != UNSTARTED and not process.pipes and not self.stopping:
                self._conclude()
        return more

    def look_at(self, now: float) -> None:
        """Something is due: its pipes are left, its group is killed, or looked at whether it has gone."""
        process = self.process
        if self.left:
            self._ground.due.discard(self)
        elif not self.stopping:
            self._conclude()
        elif now >= self._kill_at:
            self.killed = True
            process.kill(KILL)
            if process.ended or now >= self._kill_at + PARTING:
                self._conclude()
            else:
                self.due = self._kill_at + PARTING
        elif process.ended and process.deserted():
            self._conclude()
        elif process.ended:
            self.due = min(now + self._look, self._kill_at)
            self._look = min(2 * self._look, LAST_LOOK)
            self._ground.due.add(self)
        else:
            self.due = self._kill_at

    def _await_end(self) -> None:
        """See to it that its end is noticed: by a descriptor, or where there is none, by a thread."""
        pid = self.process.pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait_in_thread, name=f"dagrid-command-{pid}", daemon=True).start()
        else:
            self._ground.watch(self._pidfd, selectors.EVENT_READ, self, self._has_ended)

    def _wait_in_thread(self) -> None:
        try:
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        self._ground.later(partial(guarded, self, self._has_ended))

    def _has_ended(self) -> None:
        """Kill what is left of its group, and read what is left in its pipes."""
        process = self.process
        if self.left or process.ended:
            return
        if not self.stopping:
            process.kill(KILL)  # its number is still its own
        self._ground.guard.remove(process.pid)
        if not process.collect():
            return
        self.ended = self._ground.now()
        self._unwatch_end()
        self.drain()
        if self.stopping:
            self.look_at(self.ended)
        elif self.left:
            return
        elif process.pipes:
            self.due = self.ended + DRAIN
            self._ground.due.add(self)
        else:
            self._conclude()

    def drain(self) -> None:
        """Read what is in the pipes: as much as a large one holds, for who writes on is not waited for."""
        for descriptor in list(self.process.pipes):
            for _ in range(16):
                if not self.read(descriptor):
                    break

    def _conclude(self) -> None:
        """It has ended, and nothing more is read of it."""
        if self.stopping:
            self.drain()
        if not self.left:
            self._leave()
            self._over()

    def _leave(self) -> None:
        process, ground = self.process, self._ground
        self.left = True
        ground.due.discard(self)
        self._unwatch_end()
        for descriptor in process.pipes:
            ground.unwatch(descriptor)
        process.close()
        ground.guard.remove(process.pid)
        if not process.ended:
            process.disown()

    def _unwatch_end(self) -> None:
        if self._pidfd >= 0:
            self._ground.selector.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
