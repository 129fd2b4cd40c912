"""A Dask cluster as a backend sees it: its workers as sites, as they come and go, and channels to performers on them.

It knows Dask's client and the crew's words, and nothing of the engine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from pickle import dumps, loads
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary, ref

from distributed import Future as AnyFuture
from distributed.actor import ProxyRPC
from distributed.protocol.serialize import to_serialize

from dagrid.errors import BackendUnreachableError, CapabilityError
from dagrid.execution.backends._crew import Crew
from dagrid.execution.backends._dask_worker import Seat, introduce
from dagrid.execution.backends._lanes import Site
from dagrid.execution.backends._performer import Record, with_kept
from dagrid.execution.backends._remote import PYTHON
from dagrid.execution.backends._worker import told

REACH = 2.0
"""Seconds in which a worker must be reachable past the scheduler, or everything goes through that."""
ANSWER = 10.0
"""Seconds in which workers say who they are; the loop of one that is busy may not turn for a while."""
GRACE = 5.0
"""How many seconds the end of a performer may take."""
FIRST = 1000
"""The priority with which Dask makes the seats of performers."""

T = TypeVar("T")
Gone = Mapping[str, Collection[Any]]
"""Workers that went, and the keys of the tasks that Dask had given to each."""
Word = tuple[str, float, str, bytes]
"""What a worker says of a task: its label, when it began, where, and its report if it has ended."""


@dataclass(frozen=True, slots=True)
class Post:
    """A Dask worker: its address, how much it runs at once, and what it offers."""

    address: str
    threads: int
    nanny: bool
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, address: str, said: Mapping[str, Any]) -> Post:
        """Return a worker as it introduced itself; a resource is a label too: `zone=a` as it says, any other is "true"."""
        labels = {"name": said["name"], "host": said["host"]}
        for resource in said["resources"]:
            label, _, value = resource.partition("=")
            labels[label] = value or "true"
        return cls(address, said["threads"], said["nanny"], said["resources"], labels)


class Cluster:
    """The workers of a cluster that can perform calls.

    Args:
        client: of the cluster.
        limit: how many slots are used at most; None means all.
    """

    def __init__(self, client: Any, limit: int | None) -> None:
        self.client = client
        self.posts: dict[str, Post] = {}
        self.ends_processes = False
        self._crew: Crew | None = None
        self._noting = asyncio.Lock()
        self.mourners: list[Callable[[str, Collection[Any]], None]] = []
        self.hearers: list[Callable[[Word], None]] = []
        self._address = client.scheduler.address
        self._limit = limit
        self._sites: dict[str, Site] = {}
        self._farewells: set[Future[None]] = set()
        self._watch = _watch(client)

    def join(self, kill: bool) -> None:
        """Look who is there.

        Args:
            kill: end processes in which calls run that are to be stopped, if each has one thread, and a nanny.

        Raises:
            CapabilityError: a worker cannot perform calls.
        """
        for address, said in self.soon(self._introduced(self.client.nthreads())).result().items():
            if isinstance(said, OSError):
                continue  # it is about to go, and the scheduler does not know yet
            if isinstance(said, BaseException):
                raise CapabilityError(
                    f"The Dask worker {address} cannot perform calls of dagrid ({told(said)}). Install dagrid where it runs."
                ) from said
            theirs, ours = (".".join(map(str, version)) for version in (said["python"], PYTHON))
            if theirs != ours:
                raise CapabilityError(
                    f"The Dask worker {address} runs Python {theirs} and this process Python {ours}: functions and values do not "
                    f"travel between them. Start the workers with Python {ours}."
                )
            self.posts[address] = Post.of(address, said)
        self.ends_processes = kill and all(post.threads == 1 and post.nanny for post in self.posts.values())
        self._align()

    def follow(self, crew: Crew) -> None:
        """Tell a crew from now on where its sites are."""
        self._crew = crew
        self._watch.add(self)
        self.soon(self._watch.look())

    def leave(self) -> None:
        """Look no more, and hear no more."""
        self._watch.discard(self)

    @property
    def sites(self) -> list[Site]:
        return list(self._sites.values())

    def seat(self, site: Site) -> Channel:
        """Start a performer. Raises BackendUnreachableError."""
        self.check_connected()
        return Channel(self, site)

    def check_connected(self) -> None:
        """Raise BackendUnreachableError if the client has given up: what it is given then it keeps for ever."""
        if self.client.status in ("closing", "closed"):
            raise BackendUnreachableError(
                f"Dask's scheduler at {self._address} does not answer any more, or its client was closed. See whether it runs"
            )

    def held(self, key: str) -> Held:
        """Take what Dask keeps for this client under a key."""
        return Held(self.client, key)

    def fetch(self, held: Held) -> bytes:
        """Return what Dask keeps; not asked in the client's loop. Raises LookupError if it is lost."""
        return self.soon(self._fetch(held.key)).result()

    async def _fetch(self, key: str) -> bytes:
        found = await self.client.scheduler.gather(keys=[key])
        if found["status"] != "OK":
            raise LookupError(f"no Dask worker has {key}")
        value: bytes = found["data"][key]
        return value

    def wait(self) -> None:
        """Wait until the performers that were told to leave have left."""
        wait_for(list(self._farewells), GRACE)

    def soon(self, errand: Coroutine[Any, Any, T]) -> Future[T]:
        """Let the client's loop do something. Raises RuntimeError when it has ended."""
        try:
            return asyncio.run_coroutine_threadsafe(errand, self.client.loop.asyncio_loop)
        except RuntimeError:
            errand.close()
            raise

    def part(self, errand: Coroutine[Any, Any, None]) -> None:
        """Let the client's loop say goodbye, if it still runs."""
        with suppress(RuntimeError):
            farewell = self.soon(errand)
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)

    def _align(self) -> None:
        """Keep the sites of who is still there, and let others have what is left of the limit."""
        self._sites = {address: site for address, site in self._sites.items() if address in self.posts}
        left = float("inf") if self._limit is None else self._limit - sum(site.slots for site in self._sites.values())
        for address, post in self.posts.items():
            slots = int(min(post.threads, left))
            if address not in self._sites and slots > 0:
                left -= slots
                self._sites[address] = Site(address, slots, post.labels)

    async def note(self, present: Iterable[str], gone: Gone) -> None:
        """Other workers are there than before; what was with those that went does not wait until new ones are known."""
        here = set(present)
        for address in gone.keys() | self.posts.keys() - here:
            for mourn in self.mourners:
                mourn(address, gone.get(address, ()))
        async with self._noting:
            await self._compare(here, gone)

    async def _compare(self, here: set[str], gone: Gone) -> None:
        lost = [address for address in self.posts if address in gone or address not in here]
        for address in lost:
            del self.posts[address]
        if lost:
            self._align()
            self._tell(f"the Dask worker {', '.join(lost)} ended")
        new = [address for address in here if address not in self.posts]
        if not new:
            return
        with suppress(OSError):
            for address, said in (await self._introduced(new)).items():
                if not isinstance(said, BaseException) and tuple(said["python"]) == PYTHON:
                    self.posts[address] = Post.of(address, said)
        self._align()
        self._tell("the Dask worker has other settings now")

    async def _introduced(self, addresses: Iterable[str]) -> dict[str, Any]:
        """Return what workers say of themselves. Who does not answer soon, for its process stands still, joins when it does."""
        workers = list(addresses)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER):
                found: dict[str, Any] = await self.client.run(introduce, workers=workers, on_error="return")
                return found
        asked = [asyncio.ensure_future(self.client.run(introduce, workers=[one], on_error="return")) for one in workers]
        answered, silent = await asyncio.wait(asked, timeout=REACH)
        for one in silent:
            one.add_done_callback(self._look_again)
        return {address: said for one in answered for address, said in one.result().items()}

    def _look_again(self, late: asyncio.Future[Any]) -> None:
        if not late.cancelled() and late.exception() is None:
            self.soon(self._watch.look())

    def _tell(self, reason: str) -> None:
        if self._crew is not None:
            self._crew.command(self._crew.resite, self.sites, reason)


class Held:
    """A value of ours that Dask keeps until this goes; to a worker it travels as its key."""

    __slots__ = ("future", "key")

    def __init__(self, client: Any, key: str) -> None:
        self.key = key
        self.future: Any = AnyFuture(key, client)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.key,)


class Channel:
    """How Dask reaches a performer: by calls of an actor, past the scheduler where its worker can be reached from here.

    What Dask says of an actor is awaited in the client's loop. A letter that does not arrive ends the listening.
    """

    def __init__(self, cluster: Cluster, site: Site) -> None:
        self._cluster = cluster
        self._address = site.name
        client = cluster.client
        self._seat = client.submit(
            Seat,
            site.name,
            client.id,
            key=f"dagrid-{uuid4().hex}",
            actor=True,
            workers=[site.name],
            allow_other_workers=False,
            priority=FIRST,
        )
        self._heard: Future[list[Record]] = Future()
        self._line: Future[Any] = cluster.soon(self._connect())

    def tell(self, number: int, calls: Any, back: Any, stop: int) -> None:
        letter = dumps((number, calls, back, stop), 5)
        self._cluster.soon(self._call("tell", letter)).add_done_callback(self._fail)

    def listen(self) -> Future[list[Record]]:
        heard: Future[list[Record]] = Future()
        self._heard = heard
        self._cluster.soon(self._listen(heard)).add_done_callback(self._fail)
        return heard

    def kill(self) -> None:
        """Let it leave; by force only where that is allowed, and what Dask has not made yet it need not make."""
        self._cluster.part(self._leave())

    async def _connect(self) -> Any:
        """Return how to call the actor, once it is there."""
        client = self._cluster.client
        await self._seat
        if client.direct_to_workers is False:
            return ProxyRPC(client.scheduler, self._address)
        try:
            client.rpc.reuse(self._address, await client.rpc.connect(self._address, timeout=REACH))
        except OSError:
            return ProxyRPC(client.scheduler, self._address)
        return client.rpc(self._address)

    async def _call(self, method: str, *args: Any) -> Any:
        line = await asyncio.wrap_future(self._line)
        answer = await line.actor_execute(
            function=method, actor=self._seat.key, args=[to_serialize(each) for each in args], kwargs={}
        )
        if answer["status"] != "OK":
            raise answer["exception"]
        return answer["result"]

    async def _listen(self, heard: Future[list[Record]]) -> None:
        records: list[Record] = []
        key: str | None = None
        while not records:
            records, key = loads(await self._call("listen"))
        if not heard.done():
            heard.set_result(records if key is None else with_kept(records, self._cluster.held(key)))

    def _fail(self, done: Future[Any]) -> None:
        error = BackendUnreachableError("Dask's client has been closed") if done.cancelled() else done.exception()
        if error is not None:
            with suppress(InvalidStateError):  # it has been said
                self._heard.set_exception(error)

    async def _leave(self) -> None:
        with suppress(Exception):  # it is gone, or the cluster
            if self._line.done():
                async with asyncio.timeout(GRACE):
                    await self._call("leave", self._cluster.ends_processes)
        self._line.cancel()
        with suppress(Exception):
            self._seat.release()


class _Watch:
    """Hears for all clusters of one client what its scheduler tells, for a client takes one listener for each topic.

    The workers come and go under the topic "all". Of their tasks they speak under the name of the client, whose topic is the only
    one that the scheduler empties when the client has gone: what was said under any other, it keeps for ever. As long as nobody
    listens, the client takes no part, or the scheduler would log that it cannot tell it of its own end.
    """

    def __init__(self, client: Any) -> None:
        self._client = ref(client)
        self._topics = {"all": self._hear_of_workers, client.id: self._hear_of_tasks}
        self._clusters: list[Cluster] = []
        self._gone: dict[str, Collection[Any]] = {}
        self._guard = threading.RLock()  # a backend that nobody closed may end anywhere, here too

    def add(self, cluster: Cluster) -> None:
        with self._guard:
            self._clusters.append(cluster)
            if len(self._clusters) == 1:
                for topic, hear in self._topics.items():
                    cluster.client.subscribe_topic(topic, hear)

    def discard(self, cluster: Cluster) -> None:
        with self._guard:
            if cluster not in self._clusters:
                return
            self._clusters.remove(cluster)
            if self._clusters or cluster.client.status != "running":
                return
            for topic in self._topics:
                with suppress(Exception):  # the connection ends just now
                    cluster.client.unsubscribe_topic(topic)

    async def _hear_of_workers(self, event: tuple[float, Any]) -> None:
        said = event[1]
        action = said.get("action") if isinstance(said, dict) else None
        if action not in ("add-worker", "remove-worker"):
            return
        if action == "remove-worker":
            self._gone[said.get("worker", "")] = said.get("processing-tasks", ())
        await self.look()

    def _hear_of_tasks(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict):
            return  # the scheduler's own, of what the client does
        for cluster in list(self._clusters):
            for hear in cluster.hearers:
                hear(event[1])

    async def look(self) -> None:
        """See who is there, and tell."""
        client = self._client()
        if client is None:
            return
        threads = dict(await client.scheduler.ncores())
        gone, self._gone = self._gone, {}
        for cluster in list(self._clusters):
            await cluster.note(threads, gone)


_watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()
_watching = threading.Lock()


def _watch(client: Any) -> _Watch:
    with _watching:
        found = _watches.get(client)
        if found is None:
            found = _watches[client] = _Watch(client)
        return found
