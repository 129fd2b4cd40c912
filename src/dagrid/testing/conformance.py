"""What every backend must do, as tests to inherit: whoever writes one makes a subclass and runs pytest on it.

    class TestMine(BackendConformance):
        def make_backend(self, slots):
            return MyBackend(slots)

It knows the sockets and the four public methods, and no backend. What a backend says that it cannot do is not left out:
then the test asks for the behaviour that is promised instead. The tasks can travel by name or by value.
"""

from __future__ import annotations

import contextvars
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from dagrid.errors import BackendClosedError, TransferError
from dagrid.machine.events import Outcome
from dagrid.ports import Backend, Bundle, Call, Encoded, FourMethods, opened
from dagrid.testing.gate import Gate, stand
from dagrid.testing.probe import PATIENCE, Probe, ProbeOutcome

VARIABLE = "DAGRID_CONFORMANCE"
_context: contextvars.ContextVar[str] = contextvars.ContextVar("dagrid_conformance", default="unset")


class _Mute:
    """A value that no pickler takes."""

    def __reduce__(self) -> str:
        raise TypeError("this value stays where it is")


class _MuteError(Exception):
    """An exception that no pickler takes."""

    def __reduce__(self) -> str:
        raise TypeError("this error stays where it is")


class _TwoWordError(Exception):
    """An exception that is pickled without complaint and cannot be unpickled, like many out there."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class _Decoder:
    """A user's value that only looks like one of ours that is encoded."""

    def decode(self, words: bytes) -> str:
        return words.decode()


def _echo(value: Any = None) -> Any:
    return value


def _raise_deep_inside(error: type[BaseException], *args: Any) -> None:
    def the_guilty_function() -> None:
        raise error(*args)

    the_guilty_function()


def _mute_value() -> Any:
    return _Mute()


def _decoder() -> Any:
    return _Decoder()


def _kill_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _surroundings() -> tuple[str | None, str]:
    return os.environ.get(VARIABLE), os.getcwd()


def _read_context() -> str:
    return _context.get()


def _set_context() -> str:
    _context.set("set by a task")
    return _context.get()


def _stand_timed(address: tuple[str, int], label: str) -> tuple[float, float]:
    entered = time.perf_counter()
    stand(address, label)
    return entered, time.perf_counter()


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """Return how many of these (begin, end) spans overlap at most."""
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def raised(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException | None:
    """Call a function and return what it raises, or None."""
    try:
        fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - the caller judges it
        return error
    return None


class BackendConformance:
    """The suite. Override `make_backend`, and the attributes where the backend differs.

    Attributes:
        slots_limit: the most slots that the backend ever has, whatever it is asked for; None if there is no limit.
        transfers: values are pickled; None asks the capabilities, which is right where `shares_memory` is told
            truthfully.
        transfer_error: what a call fails with whose value or error cannot be pickled.
        frees_slots: the slot of a cancelled attempt is free at once, even where its code cannot be stopped.
        isolates_contexts: what a task sets in its context variables no other one sees.
        blocks_submit: the public `submit` performs the call before it returns.
        carries_surroundings: tasks see the environment variables and the directory that the caller had when it made
            the backend.
        patience: seconds after which a wait has failed; for an engine whose workers are slow to start, 30.
    """

    __test__: ClassVar[bool] = False
    slots_limit: ClassVar[int | None] = None
    transfers: ClassVar[bool | None] = None
    transfer_error: ClassVar[type[BaseException]] = TransferError
    frees_slots: ClassVar[bool] = True
    isolates_contexts: ClassVar[bool] = True
    blocks_submit: ClassVar[bool] = False
    carries_surroundings: ClassVar[bool] = True
    patience: ClassVar[float] = PATIENCE

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.make_backend is not BackendConformance.make_backend

    def make_backend(self, slots: int) -> Backend:
        """Return a new backend that performs `slots` calls at once."""
        raise NotImplementedError("override make_backend(slots) and return a new backend")

    @contextmanager
    def serving(self, slots: int = 1) -> Iterator[Probe]:
        """Open a new backend; afterwards close everything and check that nothing broke the contract."""
        backend = self.make_backend(slots)
        try:
            with Probe(backend, self.patience) as probe:
                probe.wait_slots(self._slots(slots))
                yield probe
        finally:
            backend.close()
        probe.check()

    def gate(self) -> Gate:
        """Return a gate. Leave it before the backend is closed, so that no task is left waiting."""
        return Gate(self.patience)

    def _slots(self, slots: int) -> int:
        return slots if self.slots_limit is None else min(slots, self.slots_limit)

    def _pickles(self, probe: Probe) -> bool:
        return not probe.backend.capabilities.shares_memory if self.transfers is None else self.transfers

    # What comes back.

    def test_a_value_returns(self) -> None:
        """Positional and named arguments go in, the value comes out, and the times are the host's."""
        with self.serving() as probe:
            before = probe.now()
            attempt = probe.submit(lambda left, *, right: (left, right), 1, right="2")
            outcome = probe.outcome(attempt)
            assert (outcome.kind, outcome.value) == (Outcome.COMPLETED, (1, "2"))
            assert before <= outcome.started <= outcome.ended <= probe.now()
            assert probe.terminals(attempt) == 1

    def test_nothing_is_a_value(self) -> None:
        """None is a value like any other, not the lack of one."""
        with self.serving() as probe:
            assert probe.value(probe.submit(_echo)) is None

    def test_values_that_resemble_encoded_ones_are_left_alone(self) -> None:
        """Bytes and a user's tokenizer have a method `decode` as well; nobody may call it."""
        with self.serving() as probe:
            assert probe.value(probe.submit(_echo, b"raw")) == b"raw"
            assert probe.value(probe.submit(_decoder)).decode(b"raw") == "raw"

    def test_an_error_keeps_type_message_and_traceback(self) -> None:
        """Whoever reads the error must find the line that raised it."""
        with self.serving() as probe:
            outcome = probe.outcome(probe.submit(_raise_deep_inside, KeyError, "no such thing"))
            assert outcome.kind is Outcome.FAILED
            assert type(outcome.error) is KeyError
            assert outcome.error.args == ("no such thing",)
            assert "the_guilty_function" in "".join(traceback.format_exception(outcome.error))

    def test_a_value_that_cannot_travel(self) -> None:
        """It fails its own attempt, by a name that says why; where memory is shared it simply arrives."""
        with self.serving() as probe:
            outcome = probe.outcome(probe.submit(_mute_value))
            if self._pickles(probe):
                assert outcome.kind is Outcome.FAILED
                assert isinstance(outcome.error, self.transfer_error), outcome
            else:
                assert isinstance(outcome.value, _Mute)
            assert probe.value(probe.submit(_echo, "still there")) == "still there"
            assert probe.lost_workers() == 0

    def test_an_argument_that_cannot_travel(self) -> None:
        """It fails its own attempt and is never raised at the engine."""
        with self.serving() as probe:
            outcome = probe.outcome(probe.submit(_echo, _Mute()))
            if self._pickles(probe):
                assert outcome.kind is Outcome.FAILED
                assert isinstance(outcome.error, self.transfer_error), outcome
            else:
                assert isinstance(outcome.value, _Mute)
            assert probe.value(probe.submit(_echo, "still there")) == "still there"

    def test_errors_that_cannot_travel(self) -> None:
        """The words survive, even if the object cannot; the second kind fails only when it is unpickled."""
        with self.serving() as probe:
            for kind, words in ((_MuteError, ("left behind",)), (_TwoWordError, ("left", "behind"))):
                outcome = probe.outcome(probe.submit(_raise_deep_inside, kind, *words))
                assert outcome.kind is Outcome.FAILED
                if not self._pickles(probe):
                    assert type(outcome.error) is kind
                assert "left behind" in f"{outcome.error} {outcome.text}"
            assert probe.value(probe.submit(_echo, "still there")) == "still there"
            assert probe.lost_workers() == 0

    def test_a_task_cannot_end_its_worker_by_exiting(self) -> None:
        """SystemExit and KeyboardInterrupt raised in a task are failures of that task, and nobody else's."""
        with self.serving() as probe:
            for kind in (SystemExit, KeyboardInterrupt):
                outcome = probe.outcome(probe.submit(_raise_deep_inside, kind, "away"))
                assert outcome.kind is Outcome.FAILED
                assert type(outcome.error) is kind
                assert probe.value(probe.submit(_echo, "still there")) == "still there"
            assert probe.lost_workers() == 0

    def test_a_large_value(self) -> None:
        """50 MB go in and come out."""
        data = random.Random(1).randbytes(50 * 2**20)
        with self.serving() as probe:
            assert probe.value(probe.submit(_echo, data), timeout=3 * self.patience) == data

    def test_a_value_goes_on_as_it_was_reported(self) -> None:
        """What a backend reports it takes again among the arguments of other calls, and the task finds the value itself.

        A backend that passes references must not report the value itself; the engine opens it when somebody reads it.
        """
        data = random.Random(2).randbytes(2**20)
        with self.serving() as probe:
            first = probe.outcome(probe.submit(_echo, data))
            if probe.backend.capabilities.passes_references:
                assert isinstance(first.reported, Encoded), first.reported
            for _ in range(2):
                assert probe.value(probe.submit(_echo, first.reported)) == data
                assert probe.value(probe.submit(_echo, value=first.reported)) == data
            assert opened(first.reported) == data

    def test_a_burst(self) -> None:
        """1,000 calls at once: each gets its own answer, once."""
        with self.serving(2) as probe:
            attempts = [probe.submit(_echo, number) for number in range(1000)]
            assert [probe.value(attempt, timeout=3 * self.patience) for attempt in attempts] == list(range(1000))
            assert {probe.terminals(attempt) for attempt in attempts} == {1}

    def test_surroundings_are_carried(self, monkeypatch: Any, tmp_path: Any) -> None:
        """A task sees the caller's environment and directory, and where memory is shared its context variables."""
        monkeypatch.setenv(VARIABLE, "carried")
        monkeypatch.chdir(tmp_path)
        token = _context.set("carried")
        try:
            with self.serving() as probe:
                variable, directory = probe.value(probe.submit(_surroundings))
                carried = (variable, os.path.realpath(directory)) == ("carried", os.path.realpath(tmp_path))
                assert carried is self.carries_surroundings
                if probe.backend.capabilities.shares_memory:
                    assert probe.value(probe.submit(_read_context)) == "carried"
        finally:
            _context.reset(token)

    def test_a_task_keeps_its_context_to_itself(self) -> None:
        """What a task sets in its context variables no other task sees, wherever they run one after the other."""
        with self.serving() as probe:
            assert probe.value(probe.submit(_set_context)) == "set by a task"
            assert probe.value(probe.submit(_read_context)) == ("unset" if self.isolates_contexts else "set by a task")

    # How many at once.

    def test_as_many_as_slots_at_once_and_no_more(self) -> None:
        """Both halves count: all slots are used, and none is used twice."""
        slots = self._slots(2)
        with self.serving(2) as probe, self.gate() as gate:
            attempts = [probe.submit(_stand_timed, gate.address, str(number)) for number in range(4 * slots)]
            at_the_gate = [gate.meet() for _ in range(slots)]
            for _ in attempts[slots:]:
                # All of them, for nobody takes back what waits behind one that stands here.
                for visit in at_the_gate:
                    visit.release()
                at_the_gate = [gate.meet()]
            at_the_gate[0].release()
            assert most_at_once([probe.value(attempt) for attempt in attempts]) == slots

    # Cancelling, taking back, dying.

    def test_cancel_before_the_start(self) -> None:
        """What has not begun never begins, where the place can take it back; anywhere it ends once."""
        with self.serving() as probe, self.gate() as gate:
            first = probe.submit(stand, gate.address, "first")
            visit = gate.meet()
            second = probe.submit(_echo, "second")
            self._wait_until_with_the_worker(probe, second)
            probe.cancel(second)
            if probe.backend.capabilities.cancels:
                assert probe.outcome(second).kind is Outcome.CANCELLED
            visit.release()
            assert probe.value(first) == "first"
            assert probe.outcome(second).kind in (Outcome.CANCELLED, Outcome.COMPLETED)
            assert [probe.terminals(attempt) for attempt in (first, second)] == [1, 1]

    def test_cancel_while_it_runs(self) -> None:
        """The slot is free at once for another call, and a place that kills really stops the code.

        This is what a timeout does. Where nothing can be stopped the attempt ends in its own time, and then the slot is
        free.
        """
        with self.serving() as probe, self.gate() as gate:
            attempt = probe.submit(stand, gate.address, "done")
            visit = gate.meet()
            probe.wait_started(attempt)
            probe.cancel(attempt)
            after = probe.submit(_echo, "next")
            if probe.backend.capabilities.kills:
                visit.wait_gone()
            if self.frees_slots:
                assert probe.outcome(attempt).kind is Outcome.CANCELLED
                assert probe.value(after) == "next"
            visit.release()
            visit.wait_gone()
            assert probe.outcome(attempt).kind in (Outcome.CANCELLED, Outcome.COMPLETED)
            assert probe.value(after) == "next"
            assert [probe.terminals(number) for number in (attempt, after)] == [1, 1]

    def test_cancel_again_while_it_ends(self) -> None:
        """Who insists changes nothing for a plain call, and never reaches the one that has its slot next."""
        with self.serving() as probe, self.gate() as gate:
            attempt = probe.submit(stand, gate.address, "done")
            visit = gate.meet()
            probe.wait_started(attempt)
            for _ in range(3):
                probe.cancel(attempt)
            if not probe.backend.capabilities.kills:
                visit.release()
            after = probe.submit(stand, gate.address, "next")
            following = gate.meet()
            probe.cancel(attempt)
            following.release()
            assert probe.value(after) == "next"
            assert probe.outcome(attempt).kind in (Outcome.CANCELLED, Outcome.COMPLETED)
            assert [probe.terminals(number) for number in (attempt, after)] == [1, 1]
            assert probe.lost_workers() <= 1

    def test_cancel_after_the_end(self) -> None:
        """Too late is no error and changes nothing."""
        with self.serving() as probe:
            attempt = probe.submit(_echo, "done")
            assert probe.value(attempt) == "done"
            probe.cancel(attempt)
            assert probe.value(probe.submit(_echo, "next")) == "next"
            assert probe.terminals(attempt) == 1
            assert probe.lost_workers() == 0

    def test_cancel_at_any_moment(self) -> None:
        """Cancels that race with starts and ends: every attempt ends exactly once, and the slots survive."""
        chance = random.Random(7)
        with self.serving(2) as probe:
            attempts: list[int] = []
            for number in range(60):
                attempts.append(
                    probe.submit(_echo, number) if number % 5 else probe.submit(_raise_deep_inside, OSError)
                )
                if chance.random() < 0.4:
                    probe.cancel(chance.choice(attempts))
            outcomes = [probe.outcome(attempt, timeout=3 * self.patience) for attempt in attempts]
            assert Outcome.LOST not in {outcome.kind for outcome in outcomes}
            assert probe.value(probe.submit(_echo, "still there")) == "still there"
            assert {probe.terminals(attempt) for attempt in attempts} == {1}

    def test_recall_gives_back_only_what_has_not_started(self) -> None:
        """Attempts that wait behind another are given back on demand and performed later; a running one stays."""
        with self.serving() as probe, self.gate() as gate:
            running = probe.submit(stand, gate.address, "running")
            visit = gate.meet()
            waiting = [probe.submit(_echo, number) for number in range(3)]
            room = self._room(probe)
            for attempt in waiting[:room]:
                self._wait_until_with_the_worker(probe, attempt)
            probe.recall(running, *waiting)
            if probe.backend.capabilities.cancels:
                probe.wait_recalled(waiting[:room])
            visit.release()
            assert probe.value(running) == "running"
            assert [probe.value(attempt) for attempt in waiting] == [0, 1, 2]
            assert running not in probe.recalled()
            assert {probe.terminals(attempt) for attempt in (running, *waiting)} == {1}

    def test_a_killed_worker_costs_only_what_it_ran(self) -> None:
        """A crash is one lost attempt: neighbours and those that waited behind it go on, and a new worker comes.

        Where memory is shared there is no process to kill but the caller's own: then tasks must really run in it.
        """
        with self.serving(2) as probe, self.gate() as gate:
            if not probe.backend.capabilities.kills:
                same = probe.value(probe.submit(os.getpid)) == os.getpid()
                assert same or not probe.backend.capabilities.shares_memory
                return
            neighbour = probe.submit(stand, gate.address, "neighbour")
            visit = gate.meet()
            crash = probe.submit(_kill_own_process)
            behind = [probe.submit(_echo, number) for number in range(20)]
            assert probe.outcome(crash).kind is Outcome.LOST
            visit.release()
            assert probe.value(neighbour) == "neighbour"
            assert [probe.value(attempt) for attempt in behind] == list(range(20))
            assert {probe.terminals(attempt) for attempt in (neighbour, crash, *behind)} == {1}
            probe.wait_slots(2)

    # The end.

    def test_close_twice(self) -> None:
        """Sessions and backends are closed by whoever comes first, and by the others too."""
        with self.serving() as probe:
            assert probe.value(probe.submit(_echo, 1)) == 1
            probe.session.close()
            probe.session.close()
            probe.backend.close()
            probe.backend.close(wait=False)

    def test_nothing_is_reported_after_close(self) -> None:
        """With work running and work waiting: the end of the session is the end of its reports."""
        with self.serving() as probe, self.gate() as gate:
            running = probe.submit(stand, gate.address, "running")
            visit = gate.meet()
            waiting = [probe.submit(_echo, number) for number in range(5)]
            workers = probe.workers()
            probe.close()
            if probe.backend.capabilities.kills:
                visit.wait_gone()
            for worker in workers:
                probe.session.recall(worker.worker, waiting)
                probe.session.cancel(worker.worker, running)
                probe.session.wake(worker.worker)
                if not worker.pulls:
                    probe.session.perform(Bundle(worker.worker, [Call(99, "late", _echo)]))
            visit.release()
            visit.wait_gone()
            probe.session.attend()
            probe.backend.close()
            assert not probe.after_close

    def test_closing_under_a_run(self) -> None:
        """Whose backend is closed by others is not left waiting: what runs ends, and all else fails and says why."""
        with self.serving() as probe, self.gate() as gate:
            running = probe.submit(stand, gate.address, "running")
            visit = gate.meet()
            waiting = [probe.submit(_echo, number) for number in range(3)]
            probe.backend.close(wait=False)
            visit.release()
            for attempt in (*waiting, probe.submit(_echo, "late")):
                outcome = probe.outcome(attempt)
                assert outcome.kind is Outcome.FAILED, outcome
                assert isinstance(outcome.error, BackendClosedError), outcome
                assert probe.terminals(attempt) == 1
            assert probe.outcome(running).kind in (Outcome.COMPLETED, Outcome.FAILED, Outcome.LOST)

    def test_a_closed_backend_refuses(self) -> None:
        """An error that says what to do, from both doors."""
        backend = self.make_backend(1)
        public = self._public(backend)
        assert public.result(public.submit(_echo, 1), timeout=self.patience) == 1
        backend.close()
        assert isinstance(raised(public.submit, _echo, 1), BackendClosedError)
        assert isinstance(raised(Probe, backend), BackendClosedError)

    # Several at once.

    def test_two_hosts_at_once(self) -> None:
        """Equal attempt numbers of two runs are never mixed up, and the end of one run is not that of the other."""
        with self.serving(2) as first, self.gate() as gate, Probe(first.backend, self.patience) as second:
            ones = [first.submit(_echo, ("first", number)) for number in range(50)]
            twos = [second.submit(_echo, ("second", number)) for number in range(50)]
            assert [second.value(attempt) for attempt in twos] == [("second", number) for number in range(50)]
            assert [first.value(attempt) for attempt in ones] == [("first", number) for number in range(50)]
            held = first.submit(stand, gate.address, "mine")
            mine = gate.meet()
            # Where the runs share workers, one of these may wait behind the first run's.
            for _ in range(self._slots(2)):
                second.submit(stand, gate.address, "other's")
            other = gate.meet()
            second.close()
            if first.backend.capabilities.kills:
                other.wait_gone()
            other.release()
            mine.release()
            assert first.value(held) == "mine"
            assert first.value(first.submit(_echo, "still there")) == "still there"
        second.check()

    # The four public methods.

    def test_the_four_methods(self) -> None:
        """What the reference's users know: name, submit, result, shutdown."""
        public = self._public(self.make_backend(2))
        try:
            assert isinstance(public.name, str)
            assert public.name
            futures = [public.submit(lambda left, *, right: left + right, number, right=1) for number in range(20)]
            assert [public.result(future) for future in futures] == list(range(1, 21))
            failing = public.submit(_raise_deep_inside, LookupError, "lost")
            error = raised(public.result, failing, timeout=self.patience)
            assert type(error) is LookupError
            assert "the_guilty_function" in "".join(traceback.format_exception(error))
        finally:
            public.shutdown(wait=True)
        public.shutdown()

    def test_a_result_is_waited_for_only_so_long(self) -> None:
        """`result` gives up after its timeout, and the call goes on: asked again, it answers."""
        public = self._public(self.make_backend(1))
        try:
            with self.gate() as gate:
                if self.blocks_submit:
                    assert public.result(public.submit(_echo, "done"), timeout=0.01) == "done"
                    return
                future = public.submit(stand, gate.address, "done")
                visit = gate.meet()
                assert isinstance(raised(public.result, future, timeout=0.01), TimeoutError)
                visit.release()
                assert public.result(future, timeout=self.patience) == "done"
        finally:
            public.shutdown()

    def _public(self, backend: Any) -> FourMethods:
        assert isinstance(backend, FourMethods), f"{backend!r} lacks one of name, submit, result and shutdown"
        return backend

    def _room(self, probe: Probe) -> int:
        """Return how many more calls the only worker takes in while its slots are busy."""
        (worker,) = probe.workers()
        return 0 if worker.pulls else min(3, worker.window - 1)

    def _wait_until_with_the_worker(self, probe: Probe, attempt: int) -> None:
        if self._room(probe):
            probe.wait_handed_out(attempt)


__all__ = ["BackendConformance", "ProbeOutcome", "most_at_once", "raised"]
