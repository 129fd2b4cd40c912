"""What it costs to grow: a rule that adds many nodes, a chain in which each rule appends the next, and many rules at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import sleep

from benchmarks.measure import Figure, interleaved, per, timed
from dagrid import DAG, Node, Patch, Rule, View
from dagrid.graph.grow import collect, done, map_over, until

FAN_OUT = "one rule adds all nodes"
MAPPED = "map over a list, and collect"
CHAIN = "each rule appends a node and the next rule"
LOOP = "a step until its value is good"
MANY = "as many rules as nodes"
LIMITS = {FAN_OUT: 15.0, MAPPED: 15.0, CHAIN: 25.0, LOOP: 25.0, MANY: 20.0}


def growth(quick: bool) -> Figure:
    """Growing graphs in the caller's own thread and in two threads; the second size shows whether the cost of a node stays."""
    rounds = 3 if quick else 5
    figure = Figure("growth", f"growing graphs of no-op tasks (medians of {rounds})", "us a node or rule", FAN_OUT)
    for count in (100, 200) if quick else (5_000, 10_000):
        for backend in ("inline", "thread?max_workers=2"):
            column = f"{count}, {backend.split('?')[0]}"
            cases = {
                FAN_OUT: (count, partial(_run, [_fan_out(count)], backend, count + 1)),
                MAPPED: (count, partial(_map, count, backend)),
                CHAIN: (count, partial(_run, [_next(0, count)], backend, count + 1)),
                LOOP: (count, partial(_loop, count, backend)),
                MANY: (count // 5, partial(_run, _many(count // 5), backend, count // 5 + 1)),
            }
            actions: dict[str, Callable[[], float]] = {name: partial(timed, run) for name, (_, run) in cases.items()}
            for name, samples in interleaved(actions, rounds).items():
                figure.put(name, column, [per(cases[name][0], seconds) for seconds in samples])
    for name, limit in LIMITS.items():
        figure.hold(f"{name}, inline", figure.value(name, figure.columns[2]), limit)
    figure.notes.append("of rules, a fifth of the number in the column")
    figure.notes.append("adage, which polls, asked a rule that waits 304 times in a run of a second")
    figure.hold("a rule that waits in a run of a second", _asked(0.05 if quick else 1.0), 2.0, "evaluations")
    return figure


def _start() -> int:
    return 0


def _add_one(value: int) -> int:
    return value + 1


def _run(rules: list[Rule], backend: str, expected: int) -> None:
    result = DAG([Node("start", _start)]).run(rules=rules, backend=backend, progress=False)
    assert result.raise_for_status()
    assert len(result) == expected


def _asked(seconds: float) -> int:
    """Return how often a rule is asked that waits for the last of a hundred nodes: before the run, and when that has ended."""
    asked: list[View] = []

    def has_ended(view: View) -> bool:
        asked.append(view)
        return view.succeeded("n99")

    def pause() -> None:
        sleep(seconds / 100)

    nodes = [Node(f"n{at}", pause, [f"n{at - 1}"] if at else []) for at in range(100)]
    rule = Rule(has_ended, lambda _: Patch([Node("after", _start)]), adds=set())
    assert DAG(nodes).run(rules=[rule], backend="inline", progress=False).raise_for_status()
    return len(asked)


def _fan_out(count: int) -> Rule:
    return Rule(
        done("start"), lambda _: Patch([Node(f"n{number}", _start, ["start"]) for number in range(count)]), adds=set()
    )


def _next(number: int, count: int) -> Rule:
    before = f"n{number - 1}" if number else "start"

    def body(view: View) -> Patch:
        assert view.result(before) == 0
        further = [_next(number + 1, count)] if number + 1 < count else []
        return Patch([Node(f"n{number}", _start, [before])], further)

    return Rule(done(before), body, adds=set())


def _many(count: int) -> list[Rule]:
    def rule(number: int) -> Rule:
        return Rule(done("start"), lambda _: Patch([Node(f"n{number}", _start, ["start"])]), adds={f"kind{number}"})

    return [rule(number) for number in range(count)]


def _map(count: int, backend: str) -> None:
    dag = DAG([Node("numbers", partial(range, count))])
    rules = [map_over("numbers", Node("more", _add_one)), collect("more", Node("total", sum))]
    result = dag.run(rules=rules, backend=backend, progress=False)
    assert result.raise_for_status()["total"] == count * (count + 1) // 2


def _loop(count: int, backend: str) -> None:
    rule = until("start", Node("more", _add_one), lambda value: value >= count)
    result = DAG([Node("start", _start)]).run(rules=[rule], backend=backend, progress=False)
    assert result.raise_for_status()["more"] == count
