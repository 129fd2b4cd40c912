"""What a worker has of a run: its folder, what its kit makes around its calls, and the functions that it was sent.

A kit is opened beside the loop, for it may unpack a lot; calls of the run wait meanwhile. It knows no attempts.
"""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from dagrid.execution.backends._transfer import Packed
from dagrid.execution.backends._worker import loads
from dagrid.execution.backends.cluster.contents import Contents
from dagrid.ports import Surroundings
from dagrid.service.worker.folders import Folders


class Run:
    """One run on this worker.

    Attributes:
        folder: its own here, if it has a kit.
        source: by which what is written there is told from what is written of the run elsewhere, or was here before.
        surroundings: what its kit has made.
        path: where its modules are found; `place`: where its functions run.
        error: why its kit cannot be opened.
        ready: its calls may be performed.
        settled: its kit is opened by nobody any more.
        packed, opened: its functions by digest: as they came, and as they are called here.
    """

    __slots__ = (
        "error",
        "folder",
        "name",
        "opened",
        "packed",
        "path",
        "place",
        "ready",
        "settled",
        "source",
        "surroundings",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder: Path | None = None
        self.source = token_hex(8)
        self.surroundings: Surroundings | None = None
        self.path: tuple[str, ...] = ()
        self.place = ""
        self.error: BaseException | None = None
        self.ready = False
        self.settled = threading.Event()
        self.packed: dict[bytes, Packed] = {}
        self.opened: dict[bytes, Callable[..., Any]] = {}


class Runs:
    """The runs that have something here.

    Args:
        loop: of the worker.
        folder: in which they get folders of their own.
        contents: has what kits need.
        labels: of the worker.
        begun: called with a run that has a folder, before anything is performed there.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        folder: Path,
        contents: Contents,
        labels: Mapping[str, str],
        begun: Callable[[Run], None],
    ) -> None:
        self._loop = loop
        self._folders = Folders(folder)
        self._contents = contents
        self._labels = labels
        self._begun = begun
        self._runs: dict[str, Run] = {}
        self._helpers = ThreadPoolExecutor(2, "dagrid-kits")

    def __getitem__(self, name: str) -> Run:
        return self._runs[name]

    def get(self, name: str) -> Run | None:
        """Return a run that is known here."""
        return self._runs.get(name)

    def begin(self, name: str, kit: bytes, ready: Callable[[Run], None]) -> Run:
        """Take in a run; `ready` is called when its kit has been opened, at once where there is none."""
        run = self._runs[name] = Run(name)
        if not kit:
            run.ready = True
            run.settled.set()
            return run
        done = self._loop.run_in_executor(self._helpers, self._open, run, kit)
        done.add_done_callback(lambda _: self._opened(run, ready))
        return run

    def end(self, run: Run) -> None:
        """Forget a run of which nothing is here any more, and all that is in its folder."""
        self._runs.pop(run.name, None)
        self._helpers.submit(self._close, run)

    def close(self) -> None:
        """Forget all of them."""
        for run in list(self._runs.values()):
            self.end(run)
        self._helpers.shutdown()
        self._folders.close()

    def _opened(self, run: Run, ready: Callable[[Run], None]) -> None:
        run.ready = True
        if self._runs.get(run.name) is not run:  # it is over already, and may have come again
            return
        if run.folder is not None:
            self._begun(run)
        ready(run)

    def _open(self, run: Run, kit: bytes) -> None:
        try:
            folder = run.folder = self._folders.give(f"run-{run.source}")
            run.surroundings = loads(self._contents.get(kit)).arrive(folder, self._contents.path, self._labels)
            run.path = tuple(getattr(run.surroundings, "path", ()))
            run.place = getattr(run.surroundings, "folder", "")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the run's
            run.error = error
        finally:
            run.settled.set()

    def _close(self, run: Run) -> None:
        run.settled.wait()  # what is begun first is begun here first, so this comes
        if run.surroundings is not None:
            with suppress(Exception):
                run.surroundings.close()
        if run.folder is not None:
            self._folders.take_back(run.folder)
