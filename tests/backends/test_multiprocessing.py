"""Worker processes: what travels, how they begin, how they are used. They are real; tests wait on FIFOs and conditions."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from pickle import dumps
from typing import Any, cast

import pytest

from dagrid.errors import BackendError, InvalidSettingError, TransferError
from dagrid.execution.backends._transfer import Packed, Unopened, decode_error, encode_function
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.machine.events import Finished, Outcome, Stimulus
from dagrid.ports import AWAITED, Bundle, Call, Encoded, opened
from tests.backends import process_tasks as tasks
from tests.backends.gates import Gate
from tests.backends.recorder import PATIENCE, Recorder, call


def run_script(tmp_path: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program as its author would: a file without a guard."""
    script = tmp_path / "program.py"
    script.write_text(text, encoding="utf-8")
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, *flags, str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )


# What travels.


def test_functions_without_a_name_travel(one: MultiprocessingBackend) -> None:
    """Most tasks in a notebook are lambdas and closures."""
    offset = 40

    def add(left: int, *, right: int) -> int:
        return left + right + offset

    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, lambda: "lambda"), call(1, add, 1, right=1), call(2, tasks.nothing))
    assert [host.value(attempt) for attempt in range(3)] == ["lambda", 42, None]


def test_a_function_travels_once_for_a_worker(one: MultiprocessingBackend) -> None:
    """A closure over a table of 100 MB must not be pickled for each of 10,000 calls."""
    pickled: list[int] = []

    class Task:
        def __call__(self, value: int) -> int:
            return value

        def __reduce__(self) -> Any:
            pickled.append(1)
            return tasks.echo.__class__, (tasks.echo.__code__, {})

    host = Recorder(one)
    (worker,) = host.workers(1)
    task = Task()
    host.perform(worker, *[call(attempt, task, attempt) for attempt in range(300)])
    host.perform(worker, *[call(attempt, task, attempt) for attempt in range(300, 320)])
    assert [host.value(attempt) for attempt in range(320)] == list(range(320))
    assert len(pickled) == 1


def test_calls_without_a_key_of_their_own_are_not_mixed_up(one: MultiprocessingBackend) -> None:
    """Two functions are two, whatever key they came with."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, lambda: "first"), call(1, lambda: "second"))
    assert [host.value(0), host.value(1)] == ["first", "second"]


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """The user's program is not run again in a worker, and what it defines travels both ways as the same class."""
    done = run_script(
        tmp_path,
        """
print("once")
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
class Point:
    def __init__(self, x): self.x = x
class OddError(Exception): pass
def double(point): return Point(scale * point.x)
def fail(): raise OddError("odd")
scale = 2
with MultiprocessingBackend(2) as backend:
    futures = [backend.submit(double, Point(number)) for number in range(10)]
    points = [backend.result(future) for future in futures]
    assert all(type(point) is Point for point in points)
    assert [point.x for point in points] == list(range(0, 20, 2))
    try:
        backend.result(backend.submit(fail))
    except OddError as error:
        print(error)
    backend.result(backend.submit(lambda: print("from a task")))
""",
        "-W",
        "error",
        "-X",
        "dev",
    )
    assert sorted(done.stdout.splitlines()) == [
        "from a task",
        "odd",
        "once",
    ]  # each process writes when its buffer is full
    assert done.stderr == ""


def test_large_values_travel_and_are_passed_on_unopened(one: MultiprocessingBackend) -> None:
    """An image goes in, comes out, and goes to the next task as the bytes that it is; the parent never opens it."""
    data = bytes(range(256)) * (50 * 2**12)
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.echo, data))
    value = host.outcome(0).value
    assert isinstance(value, Encoded)
    assert value.decode() == data
    host.perform(worker, call(1, lambda first, *, second: (len(first), len(second["in"])), value, second={"in": value}))
    assert host.value(1) == (len(data), len(data))


def test_an_encoded_value_is_equal_to_itself_alone(one: MultiprocessingBackend) -> None:
    """To compare contents would open them; and each decoding is a new object, as from any process."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.echo, [1]), call(1, tasks.echo, [1]))
    first, second = host.outcome(0).value, host.outcome(1).value
    assert first == first
    assert first != second
    assert first.decode() == second.decode()
    assert first.decode() is not first.decode()


def test_what_cannot_travel_fails_its_own_node_by_name(one: MultiprocessingBackend) -> None:
    """The message must say which node and which value: a pickler's own says neither."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    lock = threading.Lock()
    host.perform(
        worker,
        call(0, tasks.echo, 1, value=tasks.Unwilling()),
        call(1, tasks.unwilling),
        call(2, lambda: lock),
        call(3, tasks.echo, "fine"),
    )
    expected = {0: "Argument 'value'.*Unwilling", 1: "value of node.*Unwilling", 2: "function of node"}
    for attempt, words in expected.items():
        outcome = host.outcome(attempt)
        assert (outcome.outcome, outcome.retryable) == (Outcome.FAILED, False)
        with pytest.raises(TransferError, match=f"(?s){words}") as caught:
            raise outcome.value
        assert caught.value.node == f"node-{attempt}"
        assert f"node-{attempt}" in caught.value.message
    assert host.value(3) == "fine"


@pytest.mark.parametrize("kind", [tasks.UnwillingError, tasks.TwoWordError])
def test_an_error_that_cannot_travel_keeps_its_words(one: MultiprocessingBackend, kind: type[Exception]) -> None:
    """The failure was real: its type, message and traceback are what the user needs."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.fail, kind, "left", "behind"), call(1, tasks.echo, "fine"))
    error = host.outcome(0).value
    assert isinstance(error, TransferError)
    assert kind.__name__ in error.message
    assert "left" in error.message
    assert "the_guilty_function" in str(error.__cause__)
    assert host.value(1) == "fine"


@pytest.mark.parametrize("kind", [KeyError, SystemExit, KeyboardInterrupt, RecursionError])
def test_errors_keep_type_message_and_traceback(one: MultiprocessingBackend, kind: type[BaseException]) -> None:
    """Also those that would end an interpreter: a task's exit is its own failure, not its worker's death."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.fail, kind, "reason"), call(1, tasks.echo, "fine"))
    outcome = host.outcome(0)
    assert (outcome.outcome, outcome.draw) == (Outcome.FAILED, 0.25)
    assert type(outcome.value) is kind
    assert outcome.value.args == ("reason",)
    assert "the_guilty_function" in str(outcome.value.__cause__)
    assert host.value(1) == "fine"


def test_times_are_those_of_the_host(one: MultiprocessingBackend) -> None:
    """A trace is made of them; an offset between two clocks would draw tasks that end before they begin."""
    host = Recorder(one)
    before = host.now()
    (worker,) = host.workers(1)
    host.perform(worker, *[call(attempt, tasks.nothing) for attempt in range(20)])
    outcomes = [host.outcome(attempt) for attempt in range(20)]
    times = [before, *[at for outcome in outcomes for at in (outcome.started, outcome.ended)], host.now()]
    assert times == sorted(times)


def test_surroundings_are_those_of_the_start(
    one: MultiprocessingBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Environment and directory are carried, input is empty, and the terminal's Ctrl-C does not reach a worker."""
    monkeypatch.setenv("DAGRID_TEST", "carried")
    monkeypatch.chdir(tmp_path)
    assert one.submit(tasks.surroundings).result(PATIENCE) == ("carried", str(tmp_path), "", True)


# How they begin, and how a program ends.


def test_an_initializer_runs_in_each_worker(tmp_path: Path) -> None:
    """That is where a model is loaded or a licence taken."""
    log = tmp_path / "log"
    with MultiprocessingBackend(2, initializer=lambda: tasks.append(str(log))) as backend:
        host = Recorder(backend)
        for worker in host.workers(2):
            host.perform(worker, call(worker, tasks.nothing))
        assert [host.value(worker) for worker in host.workers(2)] == [None, None]
    assert log.read_text() == "started\n" * 2


def test_an_initializer_that_fails_is_reported_not_repeated(tmp_path: Path) -> None:
    """A pool that starts processes for ever burns a machine in silence; a call that waits for ever says nothing."""
    log = tmp_path / "log"
    with MultiprocessingBackend(2, initializer=lambda: tasks.append_and_fail(str(log))) as backend:
        for _ in range(3):
            with pytest.raises(BackendError, match=r"(?s)initializer.*no licence.*append_and_fail"):
                backend.submit(tasks.nothing).result(PATIENCE)
        late = Recorder(backend)
        late.perform(late.workers(1)[0], call(0, tasks.nothing))
        assert late.outcome(0).outcome == Outcome.FAILED
    assert len(log.read_text().splitlines()) <= 2


def test_forks_that_tasks_make_do_no_harm(one: MultiprocessingBackend, gate: Gate) -> None:
    """A fork that returns into our loop leaves; one that outlives its worker does not hide the worker's death."""
    host = Recorder(one)
    (worker,) = host.workers(1)
    host.perform(worker, call(0, tasks.fork_and_go), call(1, tasks.fork_that_stays, gate.path))
    assert host.value(0) > 0
    assert host.value(1) > 0
    gate.meet()
    host.perform(worker, call(2, tasks.kill_self))
    assert host.gone().worker == worker
    gate.wait_gone()


def test_a_program_that_forgets_to_close_ends(tmp_path: Path) -> None:
    """It must not hang at its end, nor complain, with work still running."""
    done = run_script(
        tmp_path,
        """
import threading
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
backend = MultiprocessingBackend(2)
assert backend.submit(lambda: 1).result() == 1
backend.submit(lambda: __import__("threading").Event().wait())
""",
        "-X",
        "dev",
        "-W",
        "error",
    )
    assert (done.returncode, done.stderr) == (0, "")


# How it is used.


def test_any_thread_may_use_it() -> None:
    """A server opens runs from the threads of its requests."""
    found: list[int] = []

    def use() -> None:
        with MultiprocessingBackend(1) as backend:
            found.append(backend.submit(lambda: 6 * 7).result(PATIENCE))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [42]


def test_settings_are_checked_and_shown() -> None:
    """Zero workers would wait for ever."""
    with pytest.raises(InvalidSettingError, match="max_workers"):
        MultiprocessingBackend(0)
    lock = threading.Lock()
    with pytest.raises(TransferError, match="initializer"):
        MultiprocessingBackend(1, initializer=lambda: lock)
    backend = MultiprocessingBackend(3)
    assert repr(backend) == "<MultiprocessingBackend of 3 workers>"
    backend.close()
    assert "closed" in repr(backend)
    assert MultiprocessingBackend().max_workers == os.cpu_count()


class TestPassedOn:
    """Who passes on what comes from elsewhere opens nothing of it, and says what each attempt finds around it."""

    @pytest.fixture
    def host(self) -> Iterator[PassingOn]:
        with MultiprocessingBackend(1) as backend:
            host = PassingOn(backend)
            yield host
            host.session.close()

    def test_what_came_pickled_goes_on_as_it_is(self, host: PassingOn) -> None:
        """A function and arguments of which this process knows nothing are opened where they are performed; so is a failure."""
        call = Call(1, "node", len)
        call.fn, call.args = Packed(encode_function(Call(0, "", _divided))), cast(Any, Packed(dumps(((6, 3), None))))
        failing = Call(2, "node", call.fn, cast(Any, Packed(dumps(((6, 0), None)))))
        host.session.perform(Bundle(host.worker, [call, failing]))
        assert opened(host.finished(1).value) == 2
        failure = host.finished(2).value
        assert isinstance(failure, Unopened)
        assert isinstance(decode_error(failure.data, "node"), ZeroDivisionError)
        assert not failure.stuck

    def test_a_key_is_in_the_environment(self, host: PassingOn) -> None:
        """An attempt finds its own key, whatever ran in its process before."""
        calls = [Call(number, "node", _key, key=f"run/{number}") for number in range(3)]
        host.session.perform(Bundle(host.worker, calls))
        assert [opened(host.finished(number).value) for number in range(3)] == ["run/0", "run/1", "run/2"]

    def test_projects_take_turns(self, host: PassingOn, tmp_path: Path) -> None:
        """Two versions of one module are kept apart in one process, and each is imported once."""
        paths = []
        for version in ("old", "new"):
            paths.append(str(tmp_path / version))
            (tmp_path / version).mkdir()
            (tmp_path / version / "of_project.py").write_text(f"count = iter(range(9))\nversion = {version!r}\n")
        calls = [Call(number, "node", _version, path=(paths[number % 2],)) for number in range(4)]
        host.session.perform(Bundle(host.worker, [*calls, Call(4, "node", _finds_project)]))
        found = [opened(host.finished(number).value) for number in range(5)]
        assert found == [("old", 0), ("new", 0), ("old", 1), ("new", 1), False]

    def test_riders_find_the_value_before_them(self, host: PassingOn) -> None:
        """A chain in one bundle runs in the process, and what rides on a failure is dropped without a word."""
        first = [
            Call(0, "a", int, [20]),
            Call(1, "b", _twice, [AWAITED], rides=0),
            Call(2, "c", _twice, [AWAITED], rides=1),
        ]
        bad = [
            Call(3, "d", _divided, [1, 0]),
            Call(4, "e", _twice, [AWAITED], rides=3),
            Call(5, "f", _twice, [AWAITED], rides=4),
        ]
        host.session.perform(Bundle(host.worker, [*first, *bad, Call(6, "g", int, [7])]))
        assert opened(host.finished(6).value) == 7
        assert [opened(host.finished(number).value) for number in range(3)] == [20, 40, 80]
        assert isinstance(host.finished(3).value, Unopened)
        assert not [event for event in host.events if isinstance(event, Finished) and event.attempt in (4, 5)]

    def test_a_function_is_forgotten(self, host: PassingOn) -> None:
        """Sessions that last as long as the process let go of functions that nobody will call again."""
        fn = Packed(encode_function(Call(0, "", _key)))
        host.session.perform(Bundle(host.worker, [Call(0, "node", fn, key="k")]))
        host.finished(0)
        gone = weakref.ref(fn)
        host.session.forget([fn])
        host.events.clear()
        del fn
        host.session.perform(Bundle(host.worker, [Call(1, "node", int)]))
        host.finished(1)
        gc.collect()
        assert gone() is None


class PassingOn(Recorder):
    def __init__(self, backend: MultiprocessingBackend) -> None:
        self.changed = threading.Condition()
        self.numbers = 0
        self.events: list[Stimulus] = []
        self.session = backend.open_packed(self)
        (self.worker,) = self.workers(1)

    def finished(self, attempt: int) -> Finished:
        found: list[Finished] = self.wait(lambda event: isinstance(event, Finished) and event.attempt == attempt)
        return found[0]


def _divided(one: int, other: int) -> float:
    return one / other


def _twice(value: int) -> int:
    return 2 * value


def _key() -> str | None:
    return os.environ.get("DAGRID_ATTEMPT_KEY")


def _version() -> tuple[str, int]:
    import of_project  # type: ignore[import-not-found]

    return of_project.version, next(of_project.count)


def _finds_project() -> bool:
    from importlib.util import find_spec

    return find_spec("of_project") is not None
