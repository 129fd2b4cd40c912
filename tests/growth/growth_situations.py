"""The situations for which graphs grow while they run, as adage's page describes them, as tests to inherit for any place.

A list that is found at run time is mapped over; the results are reduced; all nodes of a type are merged once no more of them can
come; a node attaches a sub-graph to itself. A subclass has a fixture `place`, which gives what `run` takes as its backend.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dagrid import DAG, Node, Patch, Rule, current
from dagrid.graph.grow import at_least, collect, map_over, map_reduce


@contextmanager
def travelling_by_value() -> Iterator[None]:
    """Let the functions of this module travel as they are, to workers that do not find the tests."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def list_files() -> list[str]:
    return [f"file_{number}" for number in range(5)]


def process(name: str) -> str:
    return name.upper()


def join(parts: list[str]) -> str:
    return "+".join(parts)


def report(title: str) -> str:
    return f"{title}.pdf"


def merge(pages: list[str]) -> str:
    return " ".join(sorted(pages))


def chapters() -> list[str]:
    return ["one", "two"]


def survey() -> int:
    """A node that finds out what it takes, and appends it behind itself."""
    me = current()
    parts = [Node(f"part[{number}]", partial(square, number), [me.node]) for number in range(4)]
    me.grow(*parts, Node("sum", add_up, [part.id for part in parts]), Node("twice", double, inputs={"value": "sum"}))
    return os.getpid()


def square(number: int) -> int:
    return number * number


def add_up(**parts: int) -> int:
    return sum(parts.values())


def double(value: int) -> int:
    return 2 * value


def print_pages() -> None:
    """A node that may make pages, and then says how many there are."""
    current().grow(*[Node(f"late page {number}", partial(report, f"late{number}"), kind="pdf") for number in range(2)])


class GrowthSituations:
    """The situations; `place` is a fixture of the subclass."""

    def here(self, place: Any) -> bool:
        """Return whether a place runs tasks in the process of the test."""
        return place in ("inline", "thread")

    def test_a_list_found_at_run_time_is_mapped_over(self, place: Any) -> None:
        """How many files there are is not known before the node that lists them has run."""
        result = DAG([Node("list_files", list_files)]).run(
            rules=[map_over("list_files", Node("process", process))], backend=place
        )
        result.raise_for_status()
        assert [result[f"process[{number}]"] for number in range(5)] == [name.upper() for name in list_files()]

    def test_the_results_of_a_map_are_reduced(self, place: Any) -> None:
        """The reduction too can only be scheduled when the number of mapped nodes is known."""
        rule = map_reduce("list_files", Node("process", process), reduce=Node("join", join))
        result = DAG([Node("list_files", list_files)]).run(rules=[rule], backend=place)
        assert result.raise_for_status()["join"] == "FILE_0+FILE_1+FILE_2+FILE_3+FILE_4"

    def test_all_nodes_of_a_type_are_merged_when_no_more_can_come(self, place: Any) -> None:
        """No node knows where else pages are made; the merge waits until nobody is left who could make one, tasks included."""
        dag = DAG(
            [
                Node("cover", partial(report, "cover"), kind="pdf"),
                Node("chapters", chapters),
                Node("print_pages", print_pages, adds={"pdf"}),
            ]
        )
        rules = [
            collect("pdf", Node("merge", merge, kind="book")),
            map_over("chapters", Node("page", report, kind="pdf")),
        ]
        result = dag.run(rules=rules, backend=place)
        assert result.raise_for_status()["merge"] == "cover.pdf late0.pdf late1.pdf one.pdf two.pdf"

    def test_a_sub_graph_is_attached_from_within_a_node(self, place: Any) -> None:
        """Only the node knows what follows from it; what it appends hangs on it by its id, and runs wherever the others do."""
        result = DAG([Node("survey", survey, adds=set())]).run(backend=place)
        assert result.raise_for_status()["twice"] == 28
        assert (result["survey"] == os.getpid()) == self.here(place)

    def test_a_rule_waits_for_a_number_of_nodes(self, place: Any) -> None:
        """One of the conditions that the page lists: so many nodes of a kind are present."""
        rules = [
            map_over("list_files", Node("process", process)),
            Rule(at_least(5, "process"), lambda view: Patch([Node("enough", list_files)]), adds=set()),
        ]
        result = DAG([Node("list_files", list_files)]).run(rules=rules, backend=place)
        assert result.raise_for_status()["enough"] == list_files()
