"""Sequences: tasks that yield one thing after another to be done, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import pytest

from dagrid import DAG, Node, NodeStatus, Retry, SkipTask, current
from dagrid.commands import Command, Exit, Launch
from dagrid.errors import (
    BackendClosedError,
    CommandError,
    InvalidSettingError,
    OutputLimitError,
    TaskError,
    TaskTimeoutError,
)
from dagrid.execution.backends._submitted import Submissions
from dagrid.execution.backends.command import CommandBackend
from dagrid.machine.events import Finished, Started, WorkerJoined
from tests.backends.command_tasks import (  # noqa: F401  # a fixture
    PATIENCE,
    ROOT,
    children,
    holding,
    nothing_is_left,
    run,
    watched,
)


def script(text, **settings):
    return Launch(["/bin/sh", "-c", text], **settings)


def say(text):
    return script(f"echo {text}", capture=100)


# --- what is sent, and what comes of it --------------------------------------------------------------------------------------


def test_a_sequence_is_sent_the_end_of_each_process():
    """Whatever its code: what that means is for the sequence to say. The node's value is what it returns."""

    @Command
    def sequence(before, mark="!"):
        first = yield say(before)
        assert isinstance(first, Exit)
        second = yield script("echo no >&2; exit 3")
        number = yield script("echo 7", capture=9, done=lambda end: int(end.text))
        return first.text, second.code, second.last_words, number, mark

    nodes = [Node("before", lambda: "word"), Node("node", sequence, ["before"])]
    result = DAG(nodes).run(progress=False).raise_for_status()
    assert result["node"] == ("word", 3, ["no"], 7, "!")


def test_a_sequence_that_has_nothing_to_do_returns_at_once():
    """No process is needed to come to a value."""

    @Command
    def nothing():
        return "value"
        yield

    assert run(nothing).result == "value"


def test_what_cannot_be_done_is_raised_where_it_was_yielded():
    """So that a sequence can do something else; also what `done` raises. There is no depth at which that ends."""
    seen: list[object] = []

    def refuse(end):
        raise SkipTask(f"code {end.code}")

    @Command
    def sequence():
        for _ in range(1200):
            try:
                yield Launch(["no-such-program"])
            except CommandError as error:
                seen.append(error.code)
        try:
            yield script("exit 5", done=refuse)
        except SkipTask as error:
            seen.append(str(error))
        return (yield say("on")).text

    assert run(sequence).result == "on"
    assert Counter(seen) == {127: 1200, "code 5": 1}


@pytest.mark.parametrize("after", [0, 1])
def test_what_a_sequence_raises_is_the_failure_of_its_attempt(after):
    """At once or later; and a node may be skipped like this, as by any task."""

    @Command
    def sequence(error=None):
        for _ in range(after):
            yield say("x")
        raise LookupError("gone")
        yield

    found = run(sequence)
    assert found.status is NodeStatus.FAILED
    assert type(found.error) is LookupError

    @Command
    def skipped():
        yield say("x")
        raise SkipTask("enough")

    assert run(skipped).status is NodeStatus.SKIPPED


def test_a_sequence_that_yields_what_cannot_be_done_says_so():
    """It is a mistake in the sequence, which it cannot catch; what it has open it may close."""
    seen = []

    @Command
    def sequence():
        try:
            yield say("x")
            yield "echo"
        except TaskError:
            seen.append("caught")
        finally:
            seen.append("finally")

    found = run(sequence)
    assert type(found.error) is TaskError
    assert "yielded str" in str(found.error)
    assert "a Launch" in str(found.error)
    assert seen == ["finally"]


def test_a_sequence_knows_where_it_is_and_the_graph_grows_by_it():
    """At each of its steps, as in any task; a failed attempt adds nothing, and the next one is a new sequence."""
    seen = []

    @Command
    def sequence():
        attempt = current()
        seen.append((attempt.node, attempt.number))
        attempt.grow(Node(f"more-{attempt.number}", lambda: "grown"))
        yield say("x")
        seen.append((current().node, current().number))
        if attempt.number == 1:
            raise LookupError
        return "value"

    result = DAG([Node("node", sequence, retries=Retry(1), adds=set())]).run(progress=False).raise_for_status()
    assert result["more-2"] == "grown"
    assert "more-1" not in result.node_results
    assert seen == [("node", 1), ("node", 1), ("node", 2), ("node", 2)]


def test_an_attempt_starts_once_and_ends_with_its_sequence():
    """However many processes it has; its times span all of them."""

    @Command
    def sequence():
        for _ in range(3):
            yield script("sleep 0.02")

    told = []

    class Told(Submissions):
        def report(self, events):
            told.extend(events)
            super().report(events)

    host = Told("command")
    with CommandBackend(1) as backend:
        host.begin(backend.open(host))
        host.submit(sequence, (), {}).result(PATIENCE)
        host.end(True)
    assert [type(event) for event in told] == [WorkerJoined, Started, Finished]
    assert told[2].started == told[1].at
    assert told[2].ended - told[2].started >= 0.06


def test_a_sequence_is_told_that_a_process_wrote_too_much():
    """As an error, for that is not an end like others; it may go on."""

    @Command
    def sequence():
        try:
            yield Launch(["yes"], max_output=10, strict=True)
        except OutputLimitError as error:
            return error.limit

    assert run(sequence).result == 10


# --- stopping ----------------------------------------------------------------------------------------------------------------


def closing(gate, seen, **settings):
    """Return a sequence that stands in its second process, and says when it is closed whether that has gone."""

    @Command
    def sequence():
        try:
            yield say("first")
            yield script(holding(gate, "trap '' TERM; sleep 1000 &"), grace=0.1, **settings)
            seen.append("went on")
        finally:
            seen.append("closed")
            gate.wait_gone()

    return sequence


def test_a_late_sequence_is_closed_when_its_process_has_gone(gate):
    """Then its `finally` may look at what that left. The whole group is gone by then."""
    seen: list[str] = []
    started = DAG([Node("node", closing(gate, seen), timeout=0.8), Node("after", lambda: 1, ["node"])]).start()
    with watched(gate.meet()) as gone:
        result = started.wait(PATIENCE)
        assert gone(0)
    assert isinstance(result.node_results["node"].error, TaskTimeoutError)
    assert (seen, result.skipped) == (["closed"], 1)


def test_a_cancelled_sequence_is_closed(gate):
    """And what it raises then makes no failure of it."""
    seen = []

    @Command
    def sequence():
        try:
            yield script(holding(gate))
        finally:
            seen.append("closed")
            raise LookupError("in vain")

    started = DAG([Node("node", sequence)]).start()
    gate.meet()
    started.cancel()
    result = started.wait(PATIENCE)
    assert (result.cancelled, seen) == (1, ["closed"])


def test_a_sequence_that_will_not_be_closed_ends_all_the_same(gate):
    """It may yield no more when it is closed; Python says so, and the run goes on."""

    @Command
    def sequence():
        while True:
            try:
                yield script(holding(gate))
            except GeneratorExit:
                yield say("more")

    started = DAG([Node("node", sequence), Node("next", Command(lambda: say("next")))]).start()
    gate.meet()
    started.cancel()
    assert started.wait(PATIENCE).cancelled >= 1


def test_a_backend_that_closes_closes_sequences(gate):
    """Those that stand in a process, and those that wait for their turn."""
    seen: list[str] = []
    called = threading.Event()

    @Command
    def waiting():
        called.set()
        try:
            yield say("x")
        finally:
            seen.append("never begun")

    with CommandBackend(2, processes=1) as backend:
        futures = [backend.submit(closing(gate, seen))]
        with watched(gate.meet()) as gone:
            futures.append(backend.submit(waiting))
            assert called.wait(PATIENCE)
            backend.close(wait=False)
            assert gone(0)
    for future in futures:
        with pytest.raises(BackendClosedError):
            future.result(0)
    assert sorted(seen) == ["closed", "never begun"]


def test_no_process_of_a_sequence_outlives_a_program_that_is_killed(gates, tmp_path):
    """The second one is watched as the first was; that of another sequence begins when it is known to the watchdog."""
    first, second = gates(), gates()
    os.mkfifo(tmp_path / "go")
    held = holding(first, f"echo go >{tmp_path}/go; sleep 1000 &")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        from dagrid import DAG, Node
        from dagrid.commands import Command, Launch

        def sequence(*scripts):
            for script in scripts:
                yield Launch(["/bin/sh", "-c", script], errors=0)

        one = Command(lambda: sequence("true", {held!r}))
        other = Command(lambda: sequence("read x <{tmp_path}/go", {holding(second)!r}))
        DAG([Node("one", one), Node("other", other)]).run(max_concurrency=2, progress=False)
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with (
        subprocess.Popen([sys.executable, str(program)], env=environment) as parent,
        watched(first.meet()) as gone,
        watched(second.meet()),
    ):
        parent.kill()
        parent.wait()
        assert gone()
        first.wait_gone()  # nor has its child


def test_runs_share_the_watchdog_of_the_process():
    """To start one takes as long as a short run, so the next run finds it there."""
    before = children()

    @Command
    def looking():
        yield say("x")
        return children()

    assert run(looking).value == run(looking).value == before


# --- many --------------------------------------------------------------------------------------------------------------------


def test_many_sequences_at_once():
    """Each is sent its own, in order, though one thread serves them all and descriptors change hands."""

    def sequence(number):
        texts = []
        for at in range(3):
            end = yield say(f"{number}-{at}")
            texts.append(end.text)
        return texts

    nodes = [Node(f"n{number}", Command(lambda number=number: sequence(number))) for number in range(500)]
    result = DAG(nodes).run(max_concurrency=8, progress=False).raise_for_status()
    for number in range(500):
        assert result[f"n{number}"] == [f"{number}-{at}" for at in range(3)]


def test_more_attempts_may_be_under_way_than_processes(gates):
    """Who wants a process waits for its turn, in order, and has not started until its first one has."""
    first, second = gates(), gates()
    order = []
    called = {name: threading.Event() for name in "ab"}

    def holds(gate):
        yield script(holding(gate))
        order.append("held")
        yield say("again")
        order.append("held again")

    def waits(name):
        order.append(name)
        called[name].set()
        yield say(name)
        order.append(f"{name} has had one")

    with CommandBackend(10, processes=1) as backend:
        nodes = [Node("hold", Command(lambda: holds(first)), priority=1)]
        nodes += [Node(name, Command(lambda name=name: waits(name))) for name in "ab"]
        nodes.append(Node("late", Command(lambda: script(holding(second))), timeout=0.001))
        started = DAG(nodes).start(places={"command": backend})
        first.meet()
        assert all(event.wait(PATIENCE) for event in called.values())
        assert started.counts()["running"] == 1
        first.release("go\n")
        result = started.wait(PATIENCE)
    assert order == ["a", "b", "held", "a has had one", "b has had one", "held again"]
    spans = sorted((node.started, node.ended) for node in result.node_results.values())
    assert isinstance(result.node_results["late"].error, TaskTimeoutError), "the time in the queue does not count"
    assert spans[1][0] >= spans[0][0]


def test_who_is_cancelled_in_the_queue_is_not_begun(gate):
    """It gives its place to those behind."""
    seen = []

    @Command
    def queued():
        try:
            yield say("x")
        except GeneratorExit:
            seen.append("closed")
            raise

    with CommandBackend(10, processes=1) as backend:
        nodes = [Node("hold", Command(lambda: script(holding(gate))), priority=1)]
        nodes += [Node(f"n{number}", queued) for number in range(5)]
        started = DAG(nodes).start(places={"command": backend})
        gate.meet()
        started.cancel()
        assert started.wait(PATIENCE).cancelled == 6
    assert len(seen) in (0, 5)  # called before the run was cancelled, or not at all


def test_a_place_that_is_lent_serves_one_run_after_another():
    """It is open until its owner closes it, also for the setup of a graph and for the run itself."""
    graph = DAG(
        [Node("before", Command(lambda: say("a")), setup=True), Node("node", Command(lambda: say("b")), ["before"])]
    )
    with CommandBackend(2) as backend:
        for _ in range(2):
            assert graph.run(places={"command": backend}, progress=False)["node"] == "b"
        assert backend.submit(Command(lambda: say("c"))).result(PATIENCE) == "c"
    with pytest.raises(BackendClosedError):
        graph.run(places={"command": backend}, progress=False)
    for places, message in (({"comand": backend}, "Did you mean 'command'"), ({"command": "thread"}, "is a backend")):
        with pytest.raises(InvalidSettingError, match=message):
            graph.run(places=places, progress=False)  # type: ignore[arg-type]


def test_limits_are_numbers_from_one_up():
    """And there are no fewer attempts than processes, where only these are said."""
    with pytest.raises(InvalidSettingError, match="processes"):
        CommandBackend(1, processes=0)
    assert (CommandBackend(3).processes, CommandBackend(processes=1000).max_workers) == (3, 1000)
