"""Whole small graphs on a backend, as tests to inherit: that the engine and the place understand each other.

class TestMineWithTheEngine(EngineConformance):
    def make_backend(self, slots):
        return MyBackend(slots)
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

from dagrid.attempt import current
from dagrid.errors import (
    BackendClosedError,
    NoCurrentTaskError,
    RepeatTask,
    SkipTask,
    TaskError,
    TaskTimeoutError,
    TransferError,
    WaitForSignal,
)
from dagrid.graph import DAG, Node, Repeat
from dagrid.graph.arguments import Arguments, Ref
from dagrid.ports import Backend
from dagrid.testing.conformance import raised
from dagrid.testing.gate import Address, Gate, stand
from dagrid.testing.probe import PATIENCE


def _one() -> int:
    return 1


def _raw() -> bytes:
    return b"raw"


def _grow() -> int:
    me = current()
    me.grow(Node("twice", lambda value: 2 * value, inputs={"value": me.node}))
    return 21


class _Mute:
    """A value that no pickler takes."""

    def __reduce__(self) -> str:
        raise TypeError("this value stays where it is")


def _mute() -> Any:
    return _Mute()


def _hear(mute: Any) -> bool:
    return isinstance(mute, _Mute)


def _again() -> None:
    raise RepeatTask("left")


def _ask() -> None:
    raise WaitForSignal("well?", 7)


def _fail_mildly() -> None:
    error = TaskError("nobody minds")
    error.tolerated, error.retryable = True, False
    raise error


def _skip() -> None:
    raise SkipTask("nothing to do")


def _fail() -> None:
    raise LookupError("not here")


def _busy() -> tuple[int, float]:
    import os
    import time

    began = time.perf_counter()
    time.sleep(0.02)  # a task that takes time
    return os.getpid(), time.perf_counter() - began


class EngineConformance:
    """Override `make_backend`, and the attributes where the backend differs.

    Attributes:
        frees_slots: a running call can be abandoned.
        leaves: a task may leave more beside its value than the value: what its graph grows by, and where a kept value came from.
            A backend of your own sees to it with `dagrid.attempt.carried`, where a call `grows`.
        names_workers: results and traces name the worker that performed an attempt, one at a time; False where only the engine
            knows it.
        patience: seconds that a run may take; for an engine whose workers are slow to start, 30.
    """

    __test__: ClassVar[bool] = False
    frees_slots: ClassVar[bool] = True
    leaves: ClassVar[bool] = True
    names_workers: ClassVar[bool] = True
    patience: ClassVar[float] = PATIENCE

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.make_backend is not EngineConformance.make_backend

    def make_backend(self, slots: int) -> Backend:
        """Return a new backend that performs `slots` calls at once."""
        raise NotImplementedError("override make_backend(slots) and return a new backend")

    @contextmanager
    def place(self, slots: int = 2) -> Iterator[Backend]:
        """Make a backend, and close it afterwards."""
        backend = self.make_backend(slots)
        try:
            yield backend
        finally:
            backend.close()

    def test_values_flow_along_a_chain(self) -> None:
        """What one node returns the next one receives, unchanged, bytes included."""
        nodes = [Node("n0", _one)]
        nodes += [
            Node(f"n{number}", lambda value: value + 1, inputs={"value": f"n{number - 1}"}) for number in range(1, 20)
        ]
        nodes += [Node("raw", _raw), Node("last", lambda value: value, inputs={"value": "raw"})]
        with self.place() as backend:
            result = DAG(nodes).run(backend=backend)
            assert result.succeeded == 22
            assert (result["n19"], result["raw"], result["last"]) == (20, b"raw", b"raw")

    def test_a_long_chain_of_short_links(self, tmp_path: Any) -> None:
        """Links that travel together are performed once each, in order; one that fails takes none of those behind it along."""
        mark = str(tmp_path / "tried")

        def link(value: int) -> int:
            import os

            if value == 50 and not os.path.exists(mark):
                with open(mark, "w"):
                    raise OSError("not yet")
            if value == 150:
                raise LookupError("here it breaks")
            return value + 1

        nodes = [Node("n1", _one)]
        nodes += [
            Node(f"n{number}", link, inputs={"value": f"n{number - 1}"}, retries=int(number == 51))
            for number in range(2, 201)
        ]
        with self.place() as backend:
            result = DAG(nodes).run(backend=backend)
            assert [result[f"n{number}"] for number in range(1, 151)] == list(range(1, 151))
            assert (result.succeeded, result.failed, result.skipped) == (150, 1, 49)
            assert [result.node_results[name].attempts for name in ("n50", "n51", "n52")] == [1, 2, 1]

    def test_a_diamond(self) -> None:
        """Two branches of one value meet again."""
        nodes = [
            Node("top", _one),
            Node("left", lambda top: top + 1, inputs={"top": "top"}),
            Node("right", lambda top: top + 2, inputs={"top": "top"}),
            Node("end", lambda left, right: (left, right), inputs={"left": "left", "right": "right"}),
        ]
        with self.place() as backend:
            assert DAG(nodes).run(backend=backend)["end"] == (2, 3)

    def test_a_failure_skips_what_depends_on_it(self) -> None:
        """The rest is run; the error keeps its type."""
        nodes = [Node("bad", _fail), Node("after", _one, ["bad"]), Node("other", _one)]
        with self.place() as backend:
            result = DAG(nodes).run(backend=backend)
            assert (result.failed, result.skipped, result.succeeded) == (1, 1, 1)
            assert type(result.node_results["bad"].error) is LookupError

    def test_what_cannot_travel_is_named(self) -> None:
        """Among a thousand nodes the message must say which one, and what of it; where memory is shared it simply arrives."""
        nodes = [Node("mute", _mute), Node("hollow", _hear, inputs={"mute": "mute"}), Node("other", _one)]
        nodes += [Node("given", partial(_hear, _Mute()))]
        with self.place() as backend:
            result = DAG(nodes).run(backend=backend)
            if backend.capabilities.shares_memory:
                assert result.succeeded == 4
                return
            assert (result.failed, result.skipped, result.succeeded) == (2, 1, 1)
            for node, what in (("mute", "_Mute"), ("given", "given")):
                error = result.node_results[node].error
                assert isinstance(error, TransferError), error
                assert repr(node) in str(error), error
                assert what in str(error), error

    def test_a_retry_is_a_new_try(self, tmp_path: Any) -> None:
        """The second try succeeds: it is really performed again."""
        mark = str(tmp_path / "tried")

        def second_time_lucky() -> str:
            import os

            if os.path.exists(mark):
                return "done"
            with open(mark, "w"):
                raise OSError("not yet")

        with self.place() as backend:
            result = DAG([Node("node", second_time_lucky, retries=2)]).run(backend=backend)
            assert result["node"] == "done"
            assert result.node_results["node"].attempts == 2

    def test_a_task_grows_its_graph(self) -> None:
        """The nodes that a task leaves beside its value run behind it; a place that cannot tell says so, and fails the node."""
        with self.place() as backend:
            result = DAG([Node("seed", _grow, adds=set())]).run(backend=backend)
            if self.leaves:
                assert result.raise_for_status()["twice"] == 42
            else:
                assert type(result.node_results["seed"].error) is NoCurrentTaskError

    def test_a_task_says_what_it_wants_in_place_of_a_value(self) -> None:
        """It runs again, waits for somebody, or fails so that nobody minds: all by what it raises, with what is in that."""
        with self.place() as backend:
            nodes = [
                Node("again", _again, repeat=Repeat(limit=2)),
                Node("asks", _ask),
                Node("mild", _fail_mildly, retries=2),
                Node("after", str, depends_on=["mild"], arguments=Arguments((Ref("mild"),))),
            ]
            run = DAG(nodes).start(backend=backend)
            assert not run.settle(PATIENCE)
            assert run.held("asks") == ("well?", 7)
            run.signal("asks", 8)
            result = run.wait(PATIENCE)
            assert (result["again"], result["asks"], result.node_results["again"].attempts) == ("left", 8, 2)
            assert result["after"] == "None"
            assert result.node_results["mild"].attempts == 1
            assert result.status == "partially_succeeded"

    def test_a_task_skips_its_own_node(self) -> None:
        """It says so by an exception, which travels as others do, and is no failure."""
        with self.place() as backend:
            result = DAG([Node("moot", _skip), Node("after", _one, ["moot"]), Node("other", _one)]).run(backend=backend)
            assert (result.failed, result.skipped, result.succeeded) == (0, 2, 1)

    def test_a_kept_value_is_found_again(self, tmp_path: Any) -> None:
        """The second run takes the value from where the first one kept it, and remembers that it did."""
        if not self.leaves:
            return
        dag = DAG([Node("kept", _one, cache=True)])
        with self.place() as backend:
            notes = [dag.run(backend=backend, cache=tmp_path).node_results["kept"].note for _ in range(2)]
        assert notes[0] != notes[1]
        assert all(notes)

    def test_a_timeout_ends_the_node(self) -> None:
        """The node times out and what depends on it is skipped, while a neighbour is untouched."""
        with self.place() as backend, Gate(self.patience) as gate:
            address: Address = gate.address
            nodes = [
                Node("slow", lambda: stand(address), timeout=0.2),
                Node("after", _one, ["slow"]),
                Node("other", _one),
            ]
            run = DAG(nodes).start(backend=backend)
            if not self.frees_slots:
                gate.close()
            result = run.wait(self.patience)
            assert result.succeeded == 1
            assert result.skipped == 1
            if self.frees_slots:
                assert result.timed_out == 1
                assert isinstance(raised(result.__getitem__, "slow"), TaskTimeoutError)

    def test_the_trace_says_who_performed_what_and_how_long(self) -> None:
        """A worker's name never stands for two processes, and times are those of the tasks, not of their waiting."""
        with self.place() as backend:
            result = DAG([Node(f"n{number}", _busy) for number in range(6)]).run(backend=backend).raise_for_status()
            processes: dict[str, set[int]] = {}
            for name, node in result.node_results.items():
                process, seconds = result[name]
                processes.setdefault(node.worker, set()).add(process)
                assert seconds <= node.ended - node.started + 0.005, f"{name} took longer than its times say"
            assert "" not in processes
            if not self.names_workers:
                return
            assert max(map(len, processes.values())) == 1, f"one name for several processes: {processes}"
            assert result.trace is not None
            spans = sorted(result.trace, key=lambda span: (span.worker, span.started))
            for one, following in pairwise(spans):
                assert one.worker != following.worker or one.ended <= following.started + 0.005

    def test_a_cancelled_run_ends(self) -> None:
        """What runs is stopped where that can be, and nothing starts any more."""
        with self.place() as backend, Gate(self.patience) as gate:
            address: Address = gate.address
            run = DAG([Node("slow", lambda: stand(address)), Node("after", _one, ["slow"])]).start(backend=backend)
            if self.frees_slots:
                gate.meet()
            run.cancel()
            if not self.frees_slots:
                gate.close()
            result = run.wait(self.patience)
            assert result.succeeded == 0
            assert result.cancelled >= 1

    def test_a_run_ends_whose_backend_is_closed(self) -> None:
        """Whoever has the backend may close it too early: what was not done fails, and the run ends and says why."""
        with self.place() as backend, Gate(self.patience) as gate:
            address: Address = gate.address
            nodes = [Node("first", lambda: stand(address)), Node("after", _one, ["first"]), Node("other", _one)]
            run = DAG(nodes).start(backend=backend, on_failure="continue")
            with ThreadPoolExecutor(1) as waiting:
                ended = waiting.submit(run.wait, self.patience)  # some backends run in this thread
                visit = gate.meet()
                backend.close(wait=False)
                visit.release()
                result = ended.result()
            assert result.status in ("failed", "partially_succeeded")
            assert isinstance(result.node_results["after"].error, BackendClosedError)
