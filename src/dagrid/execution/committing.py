"""What a recorded run holds back: commands leave when the store has acknowledged the facts that they follow from.

Whoever brought facts writes them, and all that came in meanwhile with them; who finds another one writing leaves, for that one
looks again. A worker that pulls is given its call when it asks for it after the commit, or is woken for it.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dagrid.execution.clock import Flag
from dagrid.execution.ends import Ends
from dagrid.execution.growing import Growing
from dagrid.execution.pickling import PROTOCOL
from dagrid.execution.recording import Recorder
from dagrid.interrupts import HeldInterrupts
from dagrid.machine.commands import Command, Perform, Wake
from dagrid.machine.state import State
from dagrid.ports import Call

NOBODY = -1


class Recorded(Protocol):
    """What a committer needs of the engine; `perform`, `call_of` and `drop` are called under its lock."""

    state: State
    done: Flag
    ends: Ends
    growing: Growing
    call_of: Callable[[int], Call]

    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def perform(self, command: Command) -> None: ...

    def drop(self, until: int) -> None: ...

    def tell(self) -> None: ...

    def give_up(self, error: Exception) -> None: ...


class Committer:
    """Writes the facts of a run, and then lets what was decided have its effects.

    The engine is named with each call, for two that refer to each other would wait for the collector when the run is over.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._decided: deque[tuple[int, list[Command], int]] = deque()
        self._writing = threading.Lock()
        self._held: dict[int, Call] = {}
        self._asleep: set[int] = set()
        self._left = False

    def hold(self, engine: Recorded, commands: list[Command], worker: int) -> None:
        """Under the lock: hold back what was decided, up to this place in the journal, for a worker that asked or for nobody."""
        self._decided.append((len(engine.state.journal), commands, worker))

    def commit(self, engine: Recorded, worker: int = NOBODY) -> None:
        """Write what was decided, and let it have its effects; a worker that pulls goes when its own call is there."""
        while self._decided and not engine.done.is_set():
            if not self._writing.acquire(blocking=False):
                return
            with HeldInterrupts() as held:  # one between the store's answer and its effects would tear them apart
                try:
                    self._commit_once(engine)
                finally:
                    self._writing.release()
            held.deliver()
            if worker in self._held and self._left_to_another(engine, worker):
                return

    def flush(self, engine: Recorded) -> None:
        """Write what was decided, or wait until whoever does so has done it."""
        while self._decided and not engine.done.is_set():
            with HeldInterrupts() as held, self._writing:
                self._commit_once(engine)
            held.deliver()
        with self._writing:
            """What another one was writing is written."""

    def take(self, engine: Recorded, worker: int, sleep: bool = False) -> tuple[Call | None, bool]:
        """Return the call that was held for a worker until it was recorded, and whether it has to commit before it asks again.

        Without one, `sleep` has the worker woken when there is.
        """
        engine.enter()
        try:
            self._asleep.discard(worker)
            held = None if engine.done.is_set() else self._held.pop(worker, None)
            left = self._left and held is None and sleep
            if left:
                self._left = False
            elif held is None and sleep:
                self._asleep.add(worker)
            return held, left
        finally:
            engine.leave()

    def _left_to_another(self, engine: Recorded, worker: int) -> bool:
        """A worker that has its call goes, and leaves what there is to write to one that waits for it."""
        engine.enter()
        try:
            waiting = [other for _, _, other in self._decided if other not in (NOBODY, worker)]
            if not waiting:
                return False
            asleep = next((other for other in waiting if other in self._asleep), None)
            if asleep is None:
                self._left = True  # they are on their way to `take`
            else:
                self._asleep.discard(asleep)
                engine.perform(Wake(asleep))
            return True
        finally:
            engine.leave()

    def _commit_once(self, engine: Recorded) -> None:
        recorder = self._recorder
        picture = None
        engine.enter()
        try:
            decided = list(self._decided)
            self._decided.clear()
            if recorder.snapshot_due() and not engine.state.finished:
                picture = pickle.dumps(engine.state, PROTOCOL)
        finally:
            engine.leave()
        if not decided:
            return
        try:
            recorder.commit(engine.state, decided[-1][0], engine.ends.errors)
            if picture is not None:
                recorder.snapshot(picture)
        except Exception as error:  # noqa: BLE001  # whatever the store raises
            engine.give_up(error)
            return
        engine.enter()
        try:
            engine.drop(recorder.committed)
            if engine.done.is_set():
                return
            for _, commands, _ in decided:
                for command in commands:
                    self._release(engine, command)
        finally:
            engine.leave()
        engine.tell()

    def _release(self, engine: Recorded, command: Command) -> None:
        """Perform a command that is recorded; a worker that pulls finds its call when it asks again."""
        if not (isinstance(command, Perform) and engine.state.workers[command.worker].pulls):
            engine.perform(command)
            return
        worker = command.worker
        self._held[worker] = engine.call_of(command.attempts[0])
        if worker in self._asleep:
            self._asleep.discard(worker)
            engine.perform(Wake(worker))
