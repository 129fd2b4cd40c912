"""Virtual time: schedules that are known exactly, on workers that pull and on workers that are sent bundles."""

from __future__ import annotations

from typing import Any

import pytest

from dagrid import DAG, Node, NodeStatus, Retry, RunStatus
from dagrid.errors import InvalidSettingError, PoisonousTaskError, RunError
from dagrid.execution.simulate import VirtualBackend, VirtualClock, simulate

FIVE = [Node("A"), *(Node(name, None, ["A"]) for name in "BCD"), Node("E", None, ["C", "D"])]
both_ways = pytest.mark.parametrize("pulls", [False, True])


def spans(result) -> dict[str, tuple[float, float]]:
    """Return (start, end) of each node's last try."""
    return {name: (node.started, node.ended) for name, node in result.node_results.items()}


@both_ways
def test_five_nodes_take_three_seconds_on_two_workers(pulls: bool) -> None:
    """The article's example without any priority: C and D before B, because E hangs on them."""
    result = simulate(DAG(FIVE), workers=2, pulls=pulls)
    assert result.total_duration_seconds == 3.0
    assert spans(result) == {"A": (0, 1), "C": (1, 2), "D": (1, 2), "B": (2, 3), "E": (2, 3)}


@both_ways
def test_an_explicit_priority_wins_over_the_longest_path(pulls: bool) -> None:
    """Who says that B goes first gets it, and the second that it costs."""
    nodes = [node.changed(priority=1) if node.id == "B" else node for node in FIVE]
    assert simulate(DAG(nodes), workers=2, pulls=pulls).total_duration_seconds == 4.0


@both_ways
def test_computing_nodes_exclude_each_other_beside_one_that_waits(pulls: bool) -> None:
    """The article's other example: three workers, one CPU, and the run takes as long as its longer branch."""
    cpu = {"cpu": 1}
    nodes = [
        Node("fetch", cost=1.0),
        Node("B", resources=cpu, cost=1.0),
        Node("C", None, ["B"], resources=cpu, cost=1.0),
    ]
    nodes.append(Node("final", None, ["fetch", "B", "C"], cost=0.0))
    result = simulate(DAG(nodes), workers=3, resources={"cpu": 1}, pulls=pulls)
    assert result.total_duration_seconds == 2.0
    side_by_side = [Node("fetch", cost=3.0), Node("B", resources=cpu), Node("C", resources=cpu)]
    result = simulate(DAG(side_by_side), workers=3, resources={"cpu": 1}, pulls=pulls)
    assert result.total_duration_seconds == 3.0
    assert spans(result)["B"][1] <= spans(result)["C"][0]


@both_ways
def test_no_level_waits_for_another(pulls: bool) -> None:
    """A node starts with its own predecessors' end, however long an unrelated node of the same level takes."""
    dag = DAG([Node("long", cost=10.0), Node("short", cost=0.5), Node("next", None, ["short"], cost=0.5)])
    assert spans(simulate(dag, pulls=pulls))["next"] == (0.5, 1.0)


@both_ways
def test_tries_end_as_the_faults_say(pulls: bool) -> None:
    """A failure is retried after its delay, a lost try at once; the third loss is the last."""
    dag = DAG([Node("a", retries=Retry(1, delay=2.0)), Node("b", None, ["a"]), Node("c")])
    result = simulate(dag, faults={"a": ["fail"], "b": ["lost"]}, pulls=pulls)
    assert result.ok
    assert spans(result)["a"] == (3.0, 4.0)
    assert spans(result)["b"] == (4.5, 5.5)
    assert result.node_results["b"].attempts == 2
    result = simulate(dag, faults={"c": ["lost"] * 3}, pulls=pulls)
    with pytest.raises(PoisonousTaskError, match="'c' was lost 3 times"):
        result["c"]


@both_ways
def test_a_timeout_frees_the_slot(pulls: bool) -> None:
    """One worker: the node that is stopped after a second lets the next one start then."""
    dag = DAG([Node("slow", timeout=1.0, priority=1, cost=100.0), Node("next", cost=1.0)])
    result = simulate(dag, workers=1, pulls=pulls)
    assert result.node_results["slow"].status is NodeStatus.TIMED_OUT
    assert spans(result) == {"slow": (0.0, 1.0), "next": (1.0, 2.0)}


def test_slots_and_windows() -> None:
    """Two slots halve the time; a window lets short nodes wait at the worker and changes no result."""
    dag = DAG([Node(f"n{number}", cost=0.0001) for number in range(40)])
    assert simulate(dag, workers=1, slots=2).total_duration_seconds == pytest.approx(0.002)
    assert simulate(dag, workers=2, window=10).total_duration_seconds == pytest.approx(0.002)


def test_functions_are_called_only_when_asked_for() -> None:
    """Simulating must not send the mails; a simulation that needs the values can have them."""
    called = []

    def twenty() -> int:
        called.append("a")
        return 20

    dag = DAG([Node("a", twenty), Node("b", lambda a: a + 1, ["a"])])
    assert simulate(dag)["b"] is None
    assert called == []
    assert simulate(dag, call=True)["b"] == 21
    assert called == ["a"]


def test_selectors_hold_and_a_standstill_says_why() -> None:
    """Labelled workers take what selects them; where there is none, the simulation does not hang but explains."""
    dag = DAG([Node("a"), Node("gpu", selector={"gpu": "true"})])
    result = simulate(dag, labels=[{}, {"gpu": "true"}])
    assert result.node_results["gpu"].worker == "virtual-1"
    with pytest.raises(RunError, match="'gpu' is ready and waits for a worker with the labels gpu=true"):
        simulate(dag)


def test_two_simulations_are_alike() -> None:
    """The same input gives the same trace, jitter included when it is seeded."""
    dag = DAG([Node("a", retries=Retry(2, delay=1.0, jitter=1.0)), Node("b", None, ["a"])])
    traces = [list(simulate(dag, faults={"a": ["fail", "fail"]}, seed=7).trace or ()) for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) == 4


def test_a_clock_moves_only_when_it_is_moved() -> None:
    """Actions come in order of time, then of arrival; one that was prevented does not come."""
    clock = VirtualClock(5.0)
    came: list[str] = []
    clock.call_at(7.0, lambda: came.append("late"))
    clock.call_at(6.0, lambda: came.append("soon"))
    clock.call_at(6.0, lambda: came.append("second"))
    prevent = clock.call_at(5.5, lambda: came.append("never"))
    prevent()
    assert (clock.now(), clock.due) == (5.0, 6.0)
    clock.advance_to(6.5)
    assert (clock.now(), came) == (6.5, ["soon", "second"])
    assert clock.advance()
    assert not clock.advance()
    assert (clock.now(), clock.due, came[2:]) == (7.0, None, ["late"])


def test_mistakes_are_refused() -> None:
    """Each says what to write instead."""
    with pytest.raises(InvalidSettingError, match="workers is a whole number"):
        VirtualBackend(workers=0)
    with pytest.raises(InvalidSettingError, match="leave slots and window at 1"):
        VirtualBackend(pulls=True, slots=2)
    with pytest.raises(InvalidSettingError, match=r"pass clock=backend\.clock"):
        DAG([Node("a", int)]).run(backend=VirtualBackend())
    with pytest.raises(InvalidSettingError, match="duration of node 'a'"):
        simulate(DAG([Node("a")]), durations={"a": -1.0})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"faults": {"a": "lost"}}, r"faults of node 'a' are a list of 'ok', 'fail' and 'lost', .* not 'lost'"),
        ({"faults": {"a": ["ok", "late"]}}, r"not \['ok', 'late'\]"),
        ({"faults": ["a"]}, "faults are lists by the name of a node"),
        ({"labels": {"gpu": "true"}}, r"labels are a list .* not {'gpu': 'true'}"),
    ],
)
def test_faults_and_labels_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    """A word that is none of the three would count as "ok", and the prediction would be wrong without a word."""
    with pytest.raises(InvalidSettingError, match=says):
        simulate(DAG([Node("a")]), **settings)


def test_a_cancelled_simulation_says_so() -> None:
    """The handle of a virtual run is a handle like any other."""
    backend = VirtualBackend()
    run = DAG([Node("a", int), Node("b", int, ["a"])]).start(backend=backend, clock=backend.clock)
    backend.clock.advance_to(0.5)
    run.cancel()
    result = run.wait(0)
    assert result.status is RunStatus.ABORTED
    assert spans(result)["a"] == (0.0, 0.5)
    assert result.node_results["b"].attempts == 0
