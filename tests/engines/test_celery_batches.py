"""Short tasks share messages on Celery, and none is held back, lost or done twice for it; selectors lead to queues."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagrid import DAG, Node
from dagrid.errors import BackendError, InvalidSettingError, UnsatisfiableError
from dagrid.execution.backends.celery import CeleryBackend
from dagrid.graph.grow import map_over
from dagrid.machine.events import Outcome
from dagrid.testing import Gate, Probe
from dagrid.testing.gate import stand
from tests.engines.celery_place import installation, start_worker, stop, wait_ready

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

KEY = "of the test"


def mark(path: str, word: str) -> str:
    """Leave a line behind, so that it is seen how often this was done."""
    with open(path, "a") as file:
        file.write(f"{word}\n")
    return word


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def megabyte(number: int) -> bytes:
    return bytes([number]) * 2**20


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find the tests
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[str]:
    """Workers that take signed messages only: signatures cover batches too."""
    with installation(folder, key=KEY, options=("-Q", "dagrid")) as address:
        yield address


@pytest.fixture
def probe(broker: str) -> Iterator[Probe]:
    """A host with one lane of Celery's."""
    with CeleryBackend(broker, key=KEY, max_workers=1) as backend, Probe(backend, 20.0) as probe:
        yield probe
    probe.check()


def test_short_tasks_share_messages(broker: str) -> None:
    """The machine learns how long tasks take, and sends a millisecond of them at once; the trace names who ran which."""
    layers = [
        [Node(f"n{layer}-{i}", os.getpid, [f"n{layer - 1}-{i}"] if layer else []) for i in range(40)]
        for layer in range(5)
    ]
    with CeleryBackend(broker, key=KEY) as backend:
        result = DAG([node for layer in layers for node in layer]).run(backend=backend)
        assert backend._line is not None
        sent = next(backend._line._numbers)
    assert result.succeeded == 200
    assert sent < 100
    for name in result:
        assert result.node_results[name].worker in {f"worker{number}@test:{result[name]}" for number in range(2)}


def test_signed_calls_only(broker: str) -> None:
    """Who has another key, or none, is refused by name; who has the key is served."""
    for key, words in ((None, "not signed"), ("other", "signature of the call is wrong")):
        with CeleryBackend(broker, key=key) as backend:
            error = DAG([Node("n", lambda: 1)]).run(backend=backend).node_results["n"].error
            assert isinstance(error, BackendError)
            assert words in str(error)
    with CeleryBackend(broker, key=KEY) as backend:
        assert DAG([Node("n", lambda: 1)]).run(backend=backend)["n"] == 1


def chain(length: int, **odd: Any) -> list[Node]:
    """Nodes that each add one to what the last one gave, after some that let the machine know how short they are."""
    nodes = [Node(f"warm{i}", os.getpid) for i in range(20)]
    nodes.append(Node("n0", os.getpid, [f"warm{i}" for i in range(20)]))
    for i in range(1, length):
        fn = odd.get(f"n{i}", lambda value: value + 1)
        nodes.append(Node(f"n{i}", fn, inputs={"value": f"n{i - 1}"}))
    return nodes


def test_chains_travel_together(broker: str) -> None:
    """A node that waits for one alone goes with it, and takes its value there; so a chain is not a message a link."""
    with CeleryBackend(broker, key=KEY, max_workers=1) as backend:
        result = DAG(chain(100)).run(backend=backend).raise_for_status()
        assert backend._line is not None
        sent = next(backend._line._numbers)
    assert result["n99"] - result["n0"] == 99
    assert sent < 60


def test_a_chain_breaks_where_a_link_does(broker: str, tmp_path: Path) -> None:
    """What rides on a link that fails, takes long or kills its process is neither lost nor done twice; nor is a retry."""
    with Gate(20.0) as gate, CeleryBackend(broker, key=KEY, max_workers=1) as backend:
        result = DAG(chain(20, n10=lambda value: value / 0)).run(backend=backend)
        assert (result.succeeded, result.failed, result.skipped) == (30, 1, 9)

        address, done = gate.address, str(tmp_path / "done")
        odd = {"n10": lambda value: stand(address, "x") and value, "n11": lambda value: mark(done, "once") and value}
        run = DAG(chain(20, **odd)).start(backend=backend)
        gate.meet().release()
        result = run.wait(20).raise_for_status()
        assert result["n19"] - result["n0"] == 17
        assert Path(done).read_text().split() == ["once"]

        def die_once(value: int) -> int:
            if os.path.exists(done):
                os.remove(done)
                die()
            return value + 1

        result = DAG(chain(20, n10=die_once)).run(backend=backend).raise_for_status()
        assert result["n19"] - result["n0"] == 19


def test_a_batch_is_cut_short_by_a_long_call(probe: Probe) -> None:
    """What was finished before it is told while it runs, and what is behind it goes back; nothing is done twice."""
    with Gate(20.0) as gate:
        first = probe.submit(stand, gate.address, "first")
        visit = gate.meet()
        calls = [("a",), ("stand",), ("b",), ("c",)]
        attempts = [
            probe.submit(stand, gate.address, "long") if call == ("stand",) else probe.submit(str, *call)
            for call in calls
        ]
        probe.wait_handed_out(attempts[-1])
        visit.release()
        visit = gate.meet()
        assert probe.value(attempts[0]) == "a"
        probe.wait_recalled(attempts[2:])
        probe.wait_started(attempts[1])
        visit.release()
        assert [probe.value(attempt) for attempt in (first, *attempts)] == ["first", "a", "long", "b", "c"]
        assert {probe.terminals(attempt) for attempt in attempts} == {1}


def test_a_call_of_a_batch_is_cancelled(probe: Probe, tmp_path: Path) -> None:
    """Its process is killed, yet what the batch had finished stays finished, and what had not begun is done elsewhere, once."""
    done = str(tmp_path / "done")
    with Gate(20.0) as gate:
        first = probe.submit(stand, gate.address, "first")
        visit = gate.meet()
        before = probe.submit(mark, done, "before")
        long = probe.submit(stand, gate.address, "long")
        after = probe.submit(mark, done, "after")
        probe.wait_handed_out(after)
        visit.release()
        visit = gate.meet()
        probe.cancel(long)
        visit.wait_gone()
        assert probe.outcome(long).kind is Outcome.CANCELLED
        assert [probe.value(attempt) for attempt in (first, before, after)] == ["first", "before", "after"]
    assert Path(done).read_text().split() == ["before", "after"]


def test_who_kills_a_batch_is_found(probe: Probe) -> None:
    """Nobody says which call it was that killed the process: the others are tried one by one, and only that one is lost."""
    with Gate(20.0) as gate:
        first = probe.submit(stand, gate.address, "first")
        visit = gate.meet()
        calls = [probe.submit(str, "a"), probe.submit(die), probe.submit(str, "b")]
        probe.wait_handed_out(calls[-1])
        visit.release()
        assert probe.outcome(calls[1]).kind is Outcome.LOST
        assert [probe.value(attempt) for attempt in (first, calls[0], calls[2])] == ["first", "a", "b"]
        assert {probe.terminals(attempt) for attempt in calls} == {1}


def test_large_values_do_not_gather_in_a_batch(probe: Probe) -> None:
    """A message ends when its values are many bytes, and what is large is fetched, past the listeners of Redis."""
    with Gate(20.0) as gate:
        probe.submit(stand, gate.address)
        visit = gate.meet()
        attempts = [probe.submit(megabyte, number) for number in range(6)]
        large = probe.submit(bytes, 10 * 2**20)
        probe.wait_handed_out(large)
        visit.release()
        assert [probe.value(attempt) for attempt in attempts] == [megabyte(number) for number in range(6)]
        assert len(probe.value(large)) == 10 * 2**20


def test_selectors_lead_to_queues(broker: str, folder: Path) -> None:
    """Nodes with a selector go to its queue and no others do, grown ones too; what no queue is for is refused before it runs.

    The worker of that queue takes plain nodes as well, and so a run learns that there are three processes.
    """
    worker = start_worker(folder, broker, "special", key=KEY, options=("-Q", "gpu-queue,dagrid"))
    try:
        wait_ready(folder, "special")
        with CeleryBackend(broker, key=KEY, queues={"gpu=true": "gpu-queue"}) as backend:
            nodes = [Node("plain", os.getpid), Node("special", os.getpid, selector={"gpu": "true"})]
            nodes.append(Node("numbers", lambda: [1, 2]))
            rule = map_over("numbers", Node("each", lambda number: os.getpid(), selector={"gpu": "true"}))
            result = DAG(nodes).run(backend=backend, rules=[rule]).raise_for_status()
            for name in ("special", "each[0]", "each[1]"):
                assert result.node_results[name].worker == f"special@test:{result[name]}"
            with pytest.raises(UnsatisfiableError, match=r"'gpu=false'.*'n'.*'gpu=true'"):
                DAG([Node("n", os.getpid, selector={"gpu": "false"})]).run(backend=backend)
            with pytest.raises(UnsatisfiableError, match="'cores'"):
                DAG([Node("n", os.getpid, resources={"cores": 2})]).run(backend=backend)
            grown = map_over("numbers", Node("each", lambda number: number, selector={"tpu": "true"}))
            late = DAG([Node("numbers", lambda: [1])]).run(backend=backend, rules=[grown])
            assert isinstance(late.node_results["each[0]"].error, UnsatisfiableError)
            with Probe(backend, 20.0) as probe:
                probe.wait_slots(3)
    finally:
        stop(worker, signal.SIGQUIT)


@pytest.mark.parametrize("queues", [{"gpu": "q"}, {"": "q"}, {"gpu=true": ""}, [({}, "q")], {3: "q"}])
def test_a_map_that_is_none_is_refused(queues: Any) -> None:
    """Where it is written, with the way in which it is written."""
    with pytest.raises(InvalidSettingError):
        CeleryBackend("redis://x", queues=queues)


@pytest.mark.parametrize(
    "queues", [{"gpu=true,zone=a": "q"}, [({"zone": "a", "gpu": "true"}, "q")], {(("gpu", "true"), ("zone", "a")): "q"}]
)
def test_a_map_may_be_written_in_several_ways(queues: Any) -> None:
    """As text, with dicts, or with tuples; the order of labels does not matter."""
    assert CeleryBackend("redis://x", queues=queues).queues == {frozenset({("gpu", "true"), ("zone", "a")}): "q"}
