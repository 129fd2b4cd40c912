"""The engines of an ipyparallel cluster as sites of a crew, as they come and go, and channels to performers in them.

It knows ipyparallel's client and the crew's words, and nothing of the engine that runs the graph.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

from dagrid.errors import BackendUnreachableError, CapabilityError
from dagrid.execution.backends._crew import Crew
from dagrid.execution.backends._ipyparallel_cluster import OwnCluster
from dagrid.execution.backends._ipyparallel_worker import FACTS, Letter, Packet, decode_records, encode_packet, exchange
from dagrid.execution.backends._lanes import Site
from dagrid.execution.backends._performer import BACK, DROPPED, FINISHED, READY, Record, Sent
from dagrid.execution.backends._remote import PYTHON
from dagrid.execution.backends._worker import told

LOOK = 0.25
"""Seconds between two looks at which engines there are."""
WAITS = (0.01, 2.0)
"""Seconds for which an exchange waits for something to tell: while letters go to and fro, and at most when nothing happens. An
engine gives up waiting for who comes later, but it may have taken in a request already that then waits behind this one."""
LONGER = 5
"""How much longer an exchange waits than the one before it in which nothing happened."""
ABREAST = 2
"""How many exchanges with a performer may be under way, so that the next letter is there when one has been answered."""
OVERDUE = 10.0
"""Seconds without any answer after which the controller is asked whether it is still there."""
SILENT = 10.0
"""Seconds that it then has."""
TRIES = 3
"""How often in a row engines are started in the place of dead ones without any that comes."""
COMING = 60.0
"""Seconds that an engine may take to start."""
PARTING = 1.0
"""Seconds that performers have to hear that they are over."""
DESERTED = 30.0
"""Seconds for which runs wait for an engine when there is none any more."""


class Fleet:
    """The engines of a cluster that can perform calls.

    Args:
        client: an `ipyparallel.Client`.
        limit: at most how many engines are used; None means all.
        cluster: one that was started for this: its engines are killed to end what they run, and those that are gone are
            replaced.
    """

    def __init__(self, client: Any, limit: int | None, cluster: OwnCluster | None = None) -> None:
        self.client = client
        self.kills = cluster is not None
        self._limit = limit
        self._cluster = cluster
        self._guard = threading.Lock()
        self._speaking = threading.Lock()
        self._ended = threading.Event()
        self._news = threading.Condition(self._guard)
        self._asked: set[int] = set()
        self._able: dict[int, Site] = {}
        self._unable: dict[int, str] = {}
        self._proving: set[int] = set()
        self._views: dict[int, Any] = {}
        self._crew: Crew | None = None
        self._under_way: dict[Any, float] = {}
        self._answered = monotonic()
        self._coming: list[float] = []
        self._tries = 0
        self._silent = False
        self._told: list[Site] = []  # what the crew knows; for its thread
        self._deserted_at = 0.0
        self._last: list[Site] = []
        self._farewells: list[Any] = []
        self._watcher = threading.Thread(target=self._watch, name="dagrid-ipyparallel-watch", daemon=True)

    def join(self, timeout: float) -> None:
        """Ask all engines what they are, and wait for their answers.

        Raises:
            BackendUnreachableError: there is no engine, or none answers in time.
            CapabilityError: an engine cannot perform calls.
        """
        engines = list(self.client.ids)
        if not engines:
            raise BackendUnreachableError(
                "The ipyparallel cluster has no engines. Start some with `ipengine`, or the cluster with `ipcluster start -n 4`."
            )
        self._asked = set(engines)
        self._greet(engines)
        with self._news:
            self._news.wait_for(lambda: len(self._able) + len(self._unable) >= len(engines), timeout)
            if self._proving:  # they are there, and import what they need
                self._news.wait_for(lambda: self._able or self._unable, COMING)
            if self._unable:
                raise CapabilityError(next(iter(self._unable.values())))
            if not self._able:
                raise BackendUnreachableError(
                    f"None of the {len(engines)} engines of the ipyparallel cluster answers within {timeout:g} s. They may be "
                    "busy with other work; wait for that, or give a longer timeout."
                )

    @property
    def sites(self) -> list[Site]:
        """Where performers can stand: in engines that are there and have answered."""
        with self._guard:
            present = [self._able[engine] for engine in sorted(self._able) if engine in self.client.ids]
            return present[: self._limit]

    def follow(self, crew: Crew) -> None:
        """Tell a crew from now on where its sites are."""
        self._crew = crew
        self._told = self.sites
        self._watcher.start()

    def retire(self) -> None:
        """Look no more, and start no engine any more."""
        self._ended.set()
        if threading.current_thread() is not self._watcher:
            self._watcher.join(PARTING)

    def end(self) -> None:
        """Let performers that were dismissed hear of it."""
        until = monotonic() + PARTING
        with suppress(Exception):  # the client is closed
            for farewell in self._farewells:
                farewell.wait(max(0.0, until - monotonic()))

    def seat(self, site: Site) -> Channel:
        """Return the channel to a new performer."""
        return Channel(self, site)

    def ask(self, engine: int, fn: Callable[[bytes], Any], argument: Any, landed: Callable[[Any], None]) -> None:
        """Let an engine call a function, and `landed` with the result to come; it may be called from any thread.

        `landed` is called in a thread of the client, or within this one if the result has come already.

        Raises:
            Exception: whatever ipyparallel has to say; there may be no such engine any more.
        """
        with self._speaking:  # the numbers of messages are not made for several threads
            result = self._view(engine).apply_async(fn, argument)
        self._under_way[result] = monotonic()
        result.add_done_callback(partial(self._landed, landed))

    def has(self, site: Site) -> bool:
        """Return whether an engine is there, as far as is known."""
        with self._guard:
            return site in self._able.values()

    def dismiss(self, engine: int, farewell: bytes) -> None:
        """Send the last words to a performer."""
        with suppress(Exception), self._speaking:  # the engine may be gone, or the client closed
            self._farewells = [each for each in self._farewells if not each.done()]
            self._farewells.append(self._view(engine).apply_async(exchange, farewell))

    def kill(self, engine: int) -> None:
        """End an engine, whatever it does; another one is started."""
        with suppress(Exception), self._speaking:  # it may be dead
            self.client.send_signal(int(signal.SIGKILL), targets=engine, block=False)
        with self._guard:
            self._able.pop(engine, None)
        self.look()

    def look(self) -> None:
        """See which engines are there, and tell the crew."""
        there = set(self.client.ids)
        with self._guard:
            lost = self._able.keys() - there
            for engine in lost:
                del self._able[engine]
            new = there - self._asked
            self._asked = there
        self._greet(new)
        if self._crew is not None and self.sites != self._told:
            self._crew.command(self._align)

    def _align(self) -> None:
        """Tell the crew what has changed, in its thread."""
        sites = self.sites
        if self._crew is None or sites == self._told or self._silent:
            return
        if sites:
            self._deserted_at = 0.0
        elif not self._deserted_at:
            self._deserted_at = monotonic()
            self._last = self._told
        self._told = sites
        self._crew.resite(sites, "the IPython engine has ended")

    def _give_up(self, why: str) -> None:
        """Let everything fail that is to be performed from now on, in the crew's thread."""
        if self._crew is None or self._silent:
            return
        self._silent = True
        error = BackendUnreachableError(f"{why} Start the cluster again, and make a new backend.")
        self._crew.resite(self._told or self._last, why)  # what waits for a worker is to get one that refuses it
        self._crew.refuse(error)

    def _view(self, engine: int) -> Any:
        """Return a view, which takes long to make; the caller holds the lock."""
        view = self._views.get(engine)
        if view is None:
            view = self._views[engine] = self.client[engine]
        return view

    def _landed(self, landed: Callable[[Any], None], result: Any) -> None:
        self._under_way.pop(result, None)
        self._answered = monotonic()
        landed(result)

    # Who is there.

    def _watch(self) -> None:
        while not self._ended.wait(LOOK):
            with suppress(Exception):  # the client was closed by who gave it: nothing comes any more, calls fail
                self.look()
                self._restock()
            self._listen_for_controller()
            if self._crew is not None and self._deserted_at and monotonic() - self._deserted_at > DESERTED:
                self._crew.command(self._give_up, "There are no engines left in the ipyparallel cluster.")

    def _greet(self, engines: Sequence[int] | set[int]) -> None:
        for engine in engines:
            with suppress(Exception):  # it has gone meanwhile
                self.ask(engine, eval, FACTS, partial(self._introduced, engine))

    def _introduced(self, engine: int, result: Any) -> None:
        try:
            python, host, _, labels, has_dagrid = result.result()
        except Exception as error:  # noqa: BLE001 - whatever ipyparallel says
            self._refuse(engine, f"it does not say what it is: {told(error)}")
            return
        theirs, ours = (".".join(map(str, version)) for version in (python, PYTHON))
        if theirs != ours:
            self._refuse(
                engine,
                f"it runs Python {theirs} and this process Python {ours}, between which functions and values do not travel. "
                f"Start it with Python {ours}",
            )
        elif not has_dagrid:
            self._refuse(engine, "it does not find dagrid. Install dagrid where it runs")
        else:
            site = Site(f"engine-{engine}", 1, {**labels_of(labels), "engine": str(engine), "host": host})
            self._proving.add(engine)
            try:
                self.ask(engine, exchange, b"", partial(self._proved, engine, site))
            except Exception as error:  # noqa: BLE001 - it has gone meanwhile
                self._refuse(engine, told(error))

    def _proved(self, engine: int, site: Site, result: Any) -> None:
        try:
            result.result()
        except Exception as error:  # noqa: BLE001 - whatever importing dagrid there raises
            self._refuse(engine, f"dagrid cannot be imported there: {told(error)}")
            return
        with self._news:
            self._able[engine] = site
            self._tries = 0
            self._coming = self._coming[1:]
            self._news.notify_all()
        if self._crew is not None:
            self._crew.command(self._align)

    def _refuse(self, engine: int, why: str) -> None:
        with self._news:
            self._unable[engine] = f"The IPython engine {engine} cannot perform calls of dagrid: {why}."
            self._news.notify_all()

    def _restock(self) -> None:
        """Start engines in the place of those of our own cluster that are gone."""
        if self._cluster is None:
            return
        now = monotonic()
        self._coming = [at for at in self._coming if at + COMING > now]
        missing = self._cluster.size - len(self.client.ids) - len(self._coming)
        if missing > 0 and self._tries < TRIES:
            self._tries += 1
            self._coming += [now] * missing
            self._cluster.start_engines(missing)

    def _listen_for_controller(self) -> None:
        """Take the engines as gone when a controller that owes answers says nothing at all."""
        now = monotonic()
        oldest = min(list(self._under_way.values()), default=now)
        if self._silent or now - max(oldest, self._answered) < OVERDUE:
            return
        heard = threading.Event()

        def ask() -> None:
            with suppress(Exception):
                self.client.queue_status()
                heard.set()

        threading.Thread(target=ask, name="dagrid-ipyparallel-ask", daemon=True).start()
        if heard.wait(SILENT):
            self._answered = monotonic()
            return
        if self._crew is not None:
            self._crew.command(self._give_up, "The controller of the ipyparallel cluster does not answer any more.")


class Channel:
    """How a performer in an engine is reached: by exchanges, of which one waits in the engine while there is something to do."""

    def __init__(self, fleet: Fleet, site: Site) -> None:
        self._fleet = fleet
        self._engine = int(site.labels["engine"])
        self._packet = Packet(uuid4().hex, site.name)
        self._guard = threading.RLock()
        self._letters: deque[Letter] = deque()
        # An engine among the sites has shown that it can perform; one that is being killed never will.
        self._heard: list[Record] = [(READY, 0, site.name)] if fleet.has(site) else []
        self._listener: Future[list[Record]] | None = None
        self._error: BaseException | None = None
        self._abreast = 0
        self._open = 0  # calls that are there and have not ended
        self._over = False
        self._wait = WAITS[0]

    def tell(self, number: int, calls: Sequence[Sent], back: Sequence[int], stop: int) -> None:
        """Send a letter, or let it wait while enough are on their way."""
        with self._guard:
            self._open += len(calls)
            self._letters.append((list(calls), list(back), stop))
            self._go_on()

    def listen(self) -> Future[list[Record]]:
        """Return what will be the next records."""
        with self._guard:
            self._listener = Future()
            listener = self._listener
            self._hand_over()
        return listener

    def kill(self) -> None:
        """End the engine if it is ours to end; else the performer, which does nothing after what it performs."""
        with self._guard:
            if self._over:
                return
            self._over = True
            self._letters.clear()
            idle = not self._open
        if self._fleet.kills and not idle:
            self._fleet.kill(self._engine)
            return
        packet = Packet(self._packet.performer, self._packet.name, ends=True)
        self._fleet.dismiss(self._engine, encode_packet(packet))

    def _go_on(self) -> None:
        """Exchange, if there is a letter, or something to wait for; the caller holds the lock."""
        if self._over or self._error is not None:
            return
        if not (self._letters and self._abreast < ABREAST) and not (self._open and not self._abreast):
            return
        letters, self._letters = list(self._letters), deque()
        if letters:
            self._wait = WAITS[0]
        packet = Packet(self._packet.performer, self._packet.name, letters, self._wait)
        self._abreast += 1  # before it is asked, for an answer that is there at once lands within
        try:
            self._fleet.ask(self._engine, exchange, encode_packet(packet), self._landed)
        except Exception as error:  # noqa: BLE001 - the engine has gone, or the client is closed
            self._fail(error)

    def _landed(self, result: Any) -> None:
        """Take an answer, in a thread of the client, or in the one that asks."""
        try:
            records = decode_records(result.result())
        except BaseException as error:  # noqa: BLE001 - whatever ipyparallel says
            self._fail(error)
            return
        with self._guard:
            self._abreast -= 1
            self._wait = WAITS[0] if records else min(self._wait * LONGER, WAITS[1])
            self._open -= sum(record[0] in (FINISHED, BACK, DROPPED) for record in records)
            self._heard += [record for record in records if record[0] != READY]
            self._hand_over()
            self._go_on()

    def _fail(self, error: BaseException) -> None:
        with suppress(Exception):
            self._fleet.look()  # the crew is to know first that the site is gone, if it is
        with self._guard:
            self._error = error
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the listener what there is; the caller holds the lock."""
        listener = self._listener
        if listener is None or not (self._heard or self._error):
            return
        self._listener = None
        if self._heard:
            records, self._heard = self._heard, []
            listener.set_result(records)
        else:
            listener.set_exception(self._error)


def labels_of(text: str) -> dict[str, str]:
    """Return labels as an environment variable gives them: `gpu=true,memory=64G`; a name alone means `true`."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, value = part.partition("=")
        found[name.strip()] = value.strip() if given else "true"
    return found
