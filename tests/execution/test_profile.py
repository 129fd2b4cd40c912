"""Where the time of a run went: exact figures of simulated runs, what holds for every run, and a real one."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid import DAG, Node, Retry
from dagrid.execution.profile import Profile, Step
from dagrid.execution.simulate import simulate
from dagrid.graph.grow import map_reduce

FIVE = [Node("A"), *(Node(name, None, ["A"]) for name in "BCD"), Node("E", None, ["C", "D"])]
both_ways = pytest.mark.parametrize("pulls", [False, True])


def path(profile: Profile) -> list[tuple[str, str, float, float]]:
    """Return (node, because, waiting, seconds) of each step of the critical path."""
    return [(step.node, step.because, step.waiting, step.seconds) for step in profile.critical_path]


@both_ways
def test_a_path_of_dependencies(pulls: bool) -> None:
    """With two workers nothing but its dependencies holds the end back, and one slot is idle for a second."""
    profile = simulate(DAG(FIVE), workers=2, pulls=pulls).profile()
    assert path(profile) == [("A", "start", 0, 1), ("C", "input", 0, 1), ("E", "input", 0, 1)]
    assert (profile.makespan, profile.work, profile.attempts, profile.nodes, profile.slots) == (3, 5, 5, 5, 2)
    assert (profile.critical_path_seconds, profile.critical_path_waits) == (3, 0)
    assert (profile.waiting, profile.most_waiting) == (1, (("B", 1.0),))
    assert (profile.dependencies, profile.bound, profile.over_bound) == (3, 3, 1)
    assert (profile.idle, profile.utilisation) == (1, 5 / 6)
    assert [(use.slots, use.present, use.busy + use.idle) for use in profile.workers] == [(1, 3, 3)] * 2


@both_ways
def test_a_path_through_the_only_worker(pulls: bool) -> None:
    """With one worker each node waits for the one before it, whatever it depends on, and the bound is the work."""
    profile = simulate(DAG(FIVE), workers=1, pulls=pulls).profile()
    assert path(profile) == [
        ("A", "start", 0, 1),
        ("C", "input", 0, 1),
        ("D", "slot", 1, 1),
        ("B", "slot", 2, 1),
        ("E", "slot", 1, 1),
    ]
    assert (profile.dependencies, profile.bound, profile.makespan, profile.idle, profile.waiting) == (3, 5, 5, 0, 4)


@both_ways
def test_a_path_through_a_resource(pulls: bool) -> None:
    """Three workers and one CPU: what the second node waited for is the CPU, not a worker."""
    nodes = [Node("fetch"), *(Node(name, resources={"cpu": 1}) for name in "BC")]
    profile = simulate(DAG(nodes), workers=3, resources={"cpu": 1}, pulls=pulls).profile()
    assert path(profile) == [("B", "start", 0, 1), ("C", "resource", 1, 1)]
    assert (profile.bound, profile.over_bound, profile.idle) == (1, 2, 3)
    plenty = simulate(DAG(nodes), workers=1, resources={"cpu": 9}, pulls=pulls).profile()
    assert [step.because for step in plenty.critical_path] == ["start", "slot", "slot"], "there was CPU enough"


@both_ways
def test_a_path_through_limits(pulls: bool) -> None:
    """What max_concurrency and sequential nodes cost is named, and the bound counts the slots that may be used."""
    limited = simulate(DAG([Node("a"), Node("b")]), workers=3, max_concurrency=1, pulls=pulls).profile()
    assert path(limited) == [("a", "start", 0, 1), ("b", "limit", 1, 1)]
    assert (limited.slots, limited.bound) == (1, 2)
    nodes = [Node("first", priority=2), Node("alone", priority=1, is_sequential=True), Node("last")]
    alone = simulate(DAG(nodes), workers=3, pulls=pulls).profile()
    assert path(alone) == [("first", "start", 0, 1), ("alone", "alone", 1, 1), ("last", "alone", 2, 1)]


@both_ways
def test_tries_and_their_delays(pulls: bool) -> None:
    """Each try is a step; the delay between is a gap, but no waiting, and no number of workers would have saved it."""
    dag = DAG([Node("a", retries=Retry(1, delay=2.0)), Node("b", None, ["a"])])
    profile = simulate(dag, faults={"a": ["fail"]}, pulls=pulls).profile()
    assert path(profile) == [("a", "start", 0, 1), ("a", "retry", 0, 1), ("b", "input", 0, 1)]
    assert [(step.attempt, step.gap, step.ended) for step in profile.critical_path] == [(1, 0, 1), (2, 2, 4), (1, 0, 5)]
    assert (profile.critical_path_seconds, profile.critical_path_waits, profile.work) == (3, 2, 3)
    assert (profile.dependencies, profile.over_bound) == (5, 1)


@both_ways
def test_a_worker_that_was_lost_is_idle_no_longer(pulls: bool) -> None:
    """It counts until it left, the one that replaced it from then on; together they had the time of one slot."""
    profile = simulate(DAG([Node("a")]), workers=1, faults={"a": ["lost"]}, pulls=pulls).profile()
    assert [(use.attempts, use.present, use.busy, use.idle) for use in profile.workers] == [
        (1, 0.5, 0.5, 0),
        (1, 1, 1, 0),
    ]
    assert (profile.slots, profile.utilisation, profile.makespan) == (1, 1, 1.5)
    assert path(profile) == [("a", "start", 0, 0.5), ("a", "retry", 0, 1)]


def test_a_failure_and_what_it_skips() -> None:
    """A node that was skipped took no time and no slot; the one that failed did."""
    dag = DAG([Node("x"), Node("y", None, ["x"]), Node("z", None, ["y"]), Node("other", cost=2.0)])
    profile = simulate(dag, faults={"x": ["fail"]}).profile()
    assert (profile.attempts, profile.nodes, profile.work, profile.makespan) == (2, 4, 3, 2)
    assert path(profile) == [("other", "start", 0, 2)]


def test_a_node_without_a_task_is_a_step_without_time() -> None:
    """What depends on it waited for it, and through it for what it depends on."""
    dag = DAG([Node("a", list), Node("joint", None, ["a"]), Node("b", list, ["joint"])])
    profile = simulate(dag, call=True).profile()
    assert path(profile) == [("a", "start", 0, 1), ("joint", "input", 0, 0), ("b", "input", 0, 1)]
    assert profile.attempts == 2


@both_ways
def test_a_graph_that_grew(pulls: bool) -> None:
    """Nodes that a rule appended belong to the path, and one that depends on nothing followed what let the rule grow it."""
    dag = DAG([Node("source", lambda: [1, 2, 3])])
    rule = map_reduce("source", Node("square", lambda x: x * x), reduce=Node("total", sum))
    result = simulate(dag, call=True, workers=2, rules=[rule], pulls=pulls)
    assert result["total"] == 14
    profile = result.profile()
    assert (profile.makespan, profile.work, profile.nodes, profile.dependencies) == (4, 5, 5, 3)
    assert [(step.because, step.waiting) for step in profile.critical_path] == [
        ("start", 0),
        ("input", 0),
        ("slot", 1),
        ("input", 0),
    ]


def test_a_run_of_nothing() -> None:
    """There is no path, no division by zero and still a text."""
    profile = simulate(DAG([])).profile()
    assert (profile.critical_path, profile.over_bound, profile.bound) == ((), 1, 0)
    assert "makespan" in str(profile)


def test_the_text_and_the_data() -> None:
    """Who reads it sees names and units; a program gets every figure."""
    profile = simulate(DAG(FIVE), workers=1).profile()
    lines = str(profile).splitlines()
    assert lines[0].split() == ["makespan", "5.000", "s", "1.00", "x", "the", "bound"]
    assert any("B" in line and "the step before freed its worker" in line for line in lines)
    assert len(lines) <= 16
    assert len({line.index(".") for line in lines[:5]}) == 1, "figures stand beneath each other"
    data = json.loads(json.dumps(profile.to_dict()))
    assert data["critical_path"][2]["because"] == "slot"
    assert (data["over_bound"], data["workers"][0]["idle"]) == (1.0, 0.0)


def test_a_long_path_is_shown_by_its_largest_steps() -> None:
    """A thousand nodes still give a text that fits a screen, and a quick run is told in milliseconds."""
    nodes = [Node(f"n{number}", None, [f"n{number - 1}"] if number else [], cost=1e-4) for number in range(1000)]
    nodes.append(Node("slow", None, ["n999"], cost=0.1))
    text = str(simulate(DAG(nodes)).profile())
    assert len(text.splitlines()) <= 17
    assert "(the 7 largest of 1001 steps)" in text
    assert "slow" in text
    assert "200.000 ms" in text


QUARTERS = st.integers(0, 12).map(lambda number: number / 4)


@st.composite
def runs(draw: st.DrawFn) -> tuple[DAG, dict[str, Any]]:
    """Return a small graph with everything that can hold a node back, and what to simulate it with."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 9)))]
    nodes = [
        Node(
            name,
            None,
            draw(st.lists(st.sampled_from(names[:number]), unique=True, max_size=3)) if number else [],
            cost=draw(QUARTERS),
            resources=draw(st.sampled_from([None, None, {"cpu": 1}, {"cpu": 2}])),
            is_sequential=draw(st.integers(0, 9)) == 0,
            priority=draw(st.integers(0, 1)),
            retries=draw(st.sampled_from([None, Retry(2, delay=0.5)])),
        )
        for number, name in enumerate(names)
    ]
    pulls = draw(st.booleans())
    faults = st.lists(st.sampled_from(["ok", "fail", "lost"]), max_size=2)
    return DAG(nodes), {
        "workers": draw(st.integers(1, 3)),
        "slots": 1 if pulls else draw(st.integers(1, 2)),
        "pulls": pulls,
        "resources": {"cpu": 2},
        "max_concurrency": draw(st.sampled_from([None, None, 1, 2])),
        "on_failure": draw(st.sampled_from(["skip", "continue", "stop"])),
        "faults": draw(st.dictionaries(st.sampled_from(names), faults, max_size=3)),
    }


@given(runs())
def test_what_holds_for_every_run(case: tuple[DAG, dict[str, Any]]) -> None:
    """The path is a chain without gaps that have no name, and every second of every slot is work or idle."""
    dag, how = case
    result = simulate(dag, **how)
    profile = result.profile()
    spans = list(result.trace or ())
    end = max((span.ended for span in spans), default=0.0)
    assert profile.critical_path_seconds + profile.critical_path_waits == end
    assert profile.work == sum(span.ended - span.started for span in spans)
    room = sum(use.slots * use.present for use in profile.workers)
    assert profile.idle + profile.work == room == how["workers"] * how["slots"] * profile.makespan
    assert profile.bound <= profile.makespan == result.total_duration_seconds
    assert profile.attempts == len(spans)
    assert profile.waiting >= max(step.waiting for step in profile.critical_path)
    steps = profile.critical_path
    assert steps[0].gap == steps[0].started == 0
    assert steps[-1].ended == end
    assert {(step.node, step.attempt - 1, step.started) for step in steps if step.worker} <= {
        (span.node, span.number, span.started) for span in spans
    }
    for before, step in pairwise(steps):
        _check(before, step, dag)


def _check(before: Step, step: Step, dag: DAG) -> None:
    """Nothing in a simulation takes time but nodes, the delays of retries and workers that are not there."""
    assert before.ended + step.gap == step.started
    if step.because == "input":
        assert before.node in dag.node(step.node).required()
        assert (step.gap, step.waiting) == (0, 0)
    elif step.because == "retry":
        assert (before.node, before.attempt + 1, step.waiting) == (step.node, step.attempt, 0)
        assert step.gap in (0, 0.5, 1)
    elif step.because == "slot":
        assert before.worker == step.worker
        assert step.gap == 0 < step.waiting
    elif step.because == "resource":
        assert dag.node(before.node).resources
        assert dag.node(step.node).resources
        assert step.gap == 0 < step.waiting
    elif step.because == "alone":
        assert dag.node(before.node).is_sequential or dag.node(step.node).is_sequential
        assert step.gap == 0 < step.waiting
    elif step.because == "worker":
        assert step.gap == step.waiting > 0
    else:
        assert step.because == "limit"
        assert step.gap == 0 < step.waiting


def test_a_real_run() -> None:
    """On threads nothing is exact, but the accounts are: a chain from the start to the end, and all of each slot's time."""
    both = threading.Barrier(2)
    dag = DAG(
        [
            Node("a", both.wait),
            Node("b", both.wait),
            *(Node(f"c{number}", list, ["a", "b"]) for number in range(20)),
            Node("end", lambda **_: None, [f"c{number}" for number in range(20)]),
        ]
    )
    result = dag.run(backend="thread?max_workers=2", progress=False)
    assert result.ok
    profile = result.profile()
    assert profile.critical_path[-1].node == "end"
    end = result.node_results["end"].ended
    assert profile.critical_path_seconds + profile.critical_path_waits == pytest.approx(end)
    assert all(step.started >= before.ended for before, step in pairwise(profile.critical_path))
    assert profile.idle + profile.work == pytest.approx(sum(use.slots * use.present for use in profile.workers))
    assert profile.bound <= profile.makespan
    assert (profile.attempts, profile.slots, len(profile.workers)) == (23, 2, 2)
