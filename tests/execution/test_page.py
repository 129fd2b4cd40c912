"""The page of a run, read as a browser reads it: as elements, not as a string."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid import DAG, Node, Patch, Retry, Rule
from dagrid.execution.simulate import simulate

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; --> ]]>"
VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """What is on a page: elements with their attributes, the text in each of them; it insists on closed elements."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts[tag][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.texts["main"][-1].split())

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts["script"][0])
        return found

    @property
    def graph(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.source[self.source.index("<svg id=") : self.source.index("</svg>") + 6])

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]

    def boxes(self) -> dict[str, str]:
        """Return the class of each box by the first line of its title."""
        return {
            (group.findtext(f"{SVG}title") or "").split("\n")[0]: group.get("class", "")
            for group in self.graph.iter(f"{SVG}g")
        }


def fails(error: BaseException) -> Callable[..., Any]:
    def task(**results: Any) -> None:
        raise error

    return task


def fine(**results: Any) -> str:
    return "a value of the user's"


def split(view: Any) -> Patch:
    """Append three nodes, then one behind them."""
    parts = [Node(f"part_{number}", fine, depends_on=["start"]) for number in range(3)]
    return Patch(parts, [Rule(lambda view: view.succeeded("part_2"), join)])


def join(view: Any) -> Patch:
    return Patch([Node("join", fine, depends_on=["part_0", "part_1", "part_2"])])


def test_a_page_shows_every_node_and_edge() -> None:
    """The drawing is the graph: nothing is missing, nothing is added."""
    dag = DAG([Node("a", fine), Node("b", fine, depends_on=["a"]), Node("c", fine, depends_on=["a", "b"])])
    page = Page(dag.run().to_html(title="Three nodes"))
    assert page.texts["h1"] == ["Three nodes"]
    assert set(page.boxes()) == {"a", "b", "c"}
    names = [box["label"] for box in page.told["boxes"]]
    edges = {
        (names[int(path.get("data-a", ""))], names[int(path.get("data-b", ""))])
        for path in page.graph.iter(f"{SVG}path")
    }
    assert edges == {("a", "b"), ("a", "c"), ("b", "c")}
    assert "3 completed" in page.text
    assert "a value of the user's" not in page.source


def test_a_page_is_written_as_it_is_returned(tmp_path: Path) -> None:
    """The file is for others; the text is for those who serve it themselves."""
    result = DAG([Node("a", fine)]).run()
    text = result.to_html(tmp_path / "run.html")
    assert (tmp_path / "run.html").read_bytes() == text.encode()
    assert result.to_html() == text


def test_a_page_asks_nothing_of_a_network() -> None:
    """It is opened years later, on a train: what it needs is in it."""
    page = Page(DAG([Node("a", fine)]).run().to_html())
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data")
    ]
    assert links == ["data:,"]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page.source)


def test_only_the_script_of_the_page_is_allowed() -> None:
    """A browser runs what has the hash in the policy; a wrong hash would stop the page's own script."""
    page = Page(DAG([Node("a", fine)]).run().to_html())
    policy = next(each["content"] for _, each in page.elements if each.get("http-equiv") == "Content-Security-Policy")
    script = page.texts["script"][-1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_names_and_messages_stay_text() -> None:
    """A name from a form, or a message from a server, must not become a part of the page."""
    dag = DAG(
        [
            Node(HOSTILE, fails(ValueError(HOSTILE)), kind=HOSTILE),
            Node("behind", fine, depends_on=[HOSTILE]),
            Node("\x00\x1b[31m\ud800\u202eend", fine),
        ]
    )
    result = dag.run()
    page = Page(result.to_html(title=HOSTILE))
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.texts["h1"] == [HOSTILE]
    assert f"ValueError: {HOSTILE}" in page.text
    assert page.told["boxes"][0]["label"] == HOSTILE
    assert len(page.boxes()) == 3
    assert not re.search("[\x00\x1b\ud800\u202e]", page.source)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True))
def test_no_name_breaks_the_page(names: list[str]) -> None:
    """Whatever a name is made of, the page can be written, and the drawing is well-formed."""
    dag = DAG([Node(name, before, depends_on=names[:at]) for at, name in enumerate(names)])
    page = Page(dag.run(backend="inline").to_html())
    page.source.encode()
    assert len(list(page.graph.iter(f"{SVG}g"))) == len(names)


def before(**results: Any) -> int:
    return len(results)


def test_an_empty_graph_has_a_page() -> None:
    """A program that found nothing to do still writes its report."""
    page = Page(DAG([]).run().to_html())
    assert "The graph has no nodes." in page.text
    assert "succeeded" in page.text
    assert page.told["boxes"] == []


def test_failures_are_told_with_their_tracebacks() -> None:
    """Who reads the page was not there when it happened."""
    lost = ConnectionError("gone away")
    lost.__cause__ = OSError("the cable")
    dag = DAG(
        [
            Node("flaky", fails(lost), retries=Retry(max_retries=2, delay=0)),
            Node("behind", fine, depends_on=["flaky"]),
            Node("far", fine, depends_on=["behind"]),
            Node("beside", fine),
        ]
    )
    page = Page(dag.run().to_html())
    boxes = page.boxes()
    assert "failed" in boxes["flaky"]
    assert "skipped" in boxes["behind"]
    assert "skipped" in boxes["far"]
    assert "completed" in boxes["beside"]
    assert "1 failed" in page.text
    assert "after 3 attempts" in page.text
    (trace,) = page.texts["pre"]
    assert "raise error" in trace
    assert "OSError: the cable" in trace
    assert trace.endswith("ConnectionError: gone away")
    assert "1 node skipped: 'flaky'" in page.text
    assert len(page.with_class("retry")) == 2


def test_a_timeout_is_told() -> None:
    """It has no traceback, and must be seen all the same."""
    result = simulate(DAG([Node("slow", cost=60, timeout=5), Node("quick", cost=1)]), workers=2)
    page = Page(result.to_html())
    assert "timed_out" in page.boxes()["slow"]
    assert "took longer than its timeout of 5 s" in page.text


def test_a_failed_rule_is_told() -> None:
    """Then no node has failed, and the page must say what has."""
    result = DAG([Node("start", fine)]).run(rules=[Rule(lambda view: False, split, name="never <b>")])
    page = Page(result.to_html())
    assert "These rules never became applicable: never <b>." in page.text


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_message_that_cannot_be_made_does_not_prevent_the_page() -> None:
    """Some exceptions fail when they are printed."""
    page = Page(DAG([Node("a", fails(WordlessError()))]).run(backend="inline").to_html())
    assert "WordlessError" in page.text


def test_a_long_message_is_cut() -> None:
    """An error that carries a whole document would make a page that does not open."""
    source = DAG([Node("a", fails(ValueError("x" * 5_000_000)))]).run().to_html()
    assert len(source) < 200_000
    assert "letters left out" in source


def test_growth_has_a_step_for_each_patch() -> None:
    """The slider shows the graph as it began, and as it was after each patch."""
    dag = DAG([Node("start", fine)])
    page = Page(dag.run(rules=[Rule(lambda view: view.succeeded("start"), split)]).to_html())
    slider = next(attributes for tag, attributes in page.elements if tag == "input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "2")
    assert [nodes for nodes, _ in page.told["steps"]] == [1, 4, 5]
    assert page.told["steps"][1][1].startswith("Patch 1 of 2 by split, after")
    born = {box["label"]: box["births"] for box in page.told["boxes"]}
    assert born == {"start": [0], "part_0": [1], "part_1": [1], "part_2": [1], "join": [2]}
    assert [mark["data-step"] for _, mark in page.elements if "data-step" in mark] == ["1", "2"]


def test_a_graph_that_did_not_grow_has_no_slider() -> None:
    """A slider with one place is a riddle."""
    page = Page(DAG([Node("a", fine)]).run().to_html())
    assert not [tag for tag, _ in page.elements if tag == "input"]


def test_the_critical_path_is_marked() -> None:
    """It is what one would have to make quicker."""
    dag = DAG([Node("long", cost=9), Node("short", cost=1), Node("end", cost=2, depends_on=["long", "short"])])
    page = Page(simulate(dag, workers=2).to_html())
    marked = {name for name, kind in page.boxes().items() if "critical" in kind.split()}
    assert marked == {"long", "end"}
    assert sum("critical" in path.get("class", "").split() for path in page.graph.iter(f"{SVG}path")) == 1
    items = page.texts["li"]
    assert [item.split()[0] for item in items if item.split()[0] in ("long", "end")] == ["long", "end"]


def test_raising_an_error_leaves_the_page_as_it_is() -> None:
    """Each raise adds lines to a traceback; the page shows where the task failed, and nothing of its readers."""
    result = DAG([Node("a", fails(ValueError("no luck")))]).run()
    text = result.to_html()
    with pytest.raises(ValueError, match="no luck"):
        result["a"]
    assert result.to_html() == text


def test_a_cancelled_run_is_told() -> None:
    """Nothing failed, and it is no success either."""
    dag = DAG([Node("stop", lambda: run.cancel("enough seen")), Node("behind", fine, depends_on=["stop"])])
    run = dag.start(backend="inline")
    page = Page(run.wait().to_html())
    assert "The run was stopped: enough seen" in page.text
    assert page.texts["title"][0] == "A run of dagrid: aborted"
    assert "cancelled" in page.boxes()["behind"]


def test_ten_thousand_nodes_make_a_small_page() -> None:
    """Ten thousand boxes show nothing and take a browser a minute: they are put together, and the page says so."""
    nodes = [Node(f"load_{at}", cost=1 + at % 7) for at in range(6_000)]
    nodes += [Node(f"clean_{at}", cost=2, depends_on=[f"load_{at}"]) for at in range(3_999)]
    nodes.append(Node("total", cost=5, depends_on=[f"clean_{at}" for at in range(3_999)]))
    source = simulate(DAG(nodes), workers=16).to_html()
    page = Page(source)
    assert len(source) < 500_000
    assert {box["label"] for box in page.told["boxes"]} == {"load \xd7 6,000", "clean \xd7 3,999", "total"}
    assert "too many to draw one by one" in page.text
    assert len(page.with_class("curve")) == 16


@pytest.mark.parametrize("named_apart", [True, False])
def test_a_deep_graph_is_put_together_too(named_apart: bool) -> None:
    """A chain has one node on each level: there is nothing to put together but levels."""
    names = [f"{'abcdefghij'[at % 10]}{at}" if named_apart else f"n{at}" for at in range(3_000)]
    nodes = [Node(name, cost=1, depends_on=names[max(0, at - 1) : at]) for at, name in enumerate(names)]
    page = Page(simulate(DAG(nodes), workers=1).to_html())
    assert len(page.told["boxes"]) == 60
    assert page.told["boxes"][0]["label"] == "levels 1 to 50 \xd7 50"
    assert "nodes of 50 neighbouring levels are one box" in page.text


def test_many_edges_are_put_together() -> None:
    """A hundred nodes may have thousands of edges, which is a drawing of nothing."""
    left = [Node(f"left_{at}", fine) for at in range(60)]
    right = [Node(f"right_{at}", fine, depends_on=[node.id for node in left]) for at in range(60)]
    page = Page(DAG([*left, *right]).run(backend="inline").to_html())
    assert [box["label"] for box in page.told["boxes"]] == ["left \xd7 60", "right \xd7 60"]
