"""The search as a graph that grows: one node at the start, and the rules that append the rest.

It knows the steps and how to describe a graph; it knows nothing of where the graph runs or how it is shown.

    coarse_grid -> coarse[i] -> coarse[i].fold[j] -> coarse[i].mean -> coarse_scores -> finer_grid -> finer[i] -> ... -> best
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dagrid import DAG, Node, Patch, Rule
from dagrid.graph.grow import collect, done, nested_map_reduce
from examples.search import trials
from examples.search.trials import Task


def graph(costs: Sequence[float], gammas: Sequence[float]) -> DAG:
    """Return what is known before anything ran: the candidates of the first round."""
    return DAG([Node("coarse_grid", partial(trials.grid, costs, gammas))])


def rules(task: Task) -> list[Rule]:
    """Return the rules that append both rounds, and at their end the best of them."""
    second = one_round("finer", task)
    then = Rule(
        done("coarse_scores"),
        lambda _: Patch([Node("finer_grid", trials.finer, inputs={"found": "coarse_scores"})], [second]),
        "a finer grid around the best",
        adds=second.adds,
    )
    return [one_round("coarse", task), then, collect("scores", Node("best", trials.best_of_all))]


def one_round(name: str, task: Task) -> Rule:
    """Return the rule that appends a round: each candidate of `name`_grid on each fold, its mean, and the scores of all."""
    return nested_map_reduce(
        f"{name}_grid",
        Node(name, partial(trials.folds_of, task=task)),
        Node("fold", partial(trials.score, task=task)),
        reduce=Node("mean", trials.join),
        into=Node(f"{name}_scores", list, kind="scores"),
    )
