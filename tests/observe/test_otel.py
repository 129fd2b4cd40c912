"""Runs of graphs as traces of OpenTelemetry: what arrives at a collector, and what becomes of a run when nothing does."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest

import dagrid
from dagrid import DAG, Node, Repeat, RepeatTask, Retry, SkipTask
from dagrid.observe.otel import Traces, read_traceparent, url_of
from tests.observe.otel_sink import dead, sink

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _no_trace_around(monkeypatch):
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def collector():
    with sink() as made:
        yield made


def one():
    return 1


FAILING = threading.Event()


def fails_once():
    if FAILING.is_set():
        raise ValueError("not now")


def test_every_attempt_is_a_span_below_that_of_the_run(collector):
    """With its true times, how it ended and why; what has no attempt is an event of the run."""
    tries = iter((ValueError("not yet"), None))
    again = iter((True, False))
    moments = {}

    def flaky():
        error = next(tries)
        if error is not None:
            raise error

    def twice():
        if next(again):
            raise RepeatTask

    def unwilling():
        raise SkipTask("no need")

    def broken():
        moments["began"] = time.time()
        raise KeyError("lost")

    graph = DAG(
        [
            Node(flaky, retries=Retry(1)),
            Node(twice, repeat=Repeat(interval=0)),
            Node(unwilling),
            Node(broken),
            Node("after", one, depends_on=[broken]),
        ],
        name="daily",
    )
    result = graph.run(observers=[Traces(collector.url, attributes={"who": "me"})])
    run = collector.one("daily")
    assert (run.parent, run.status, run.attributes["dagrid.run.status"]) == ("", "error", "failed")
    assert run.attributes["who"] == "me"
    assert run.resource["service.name"] == "dagrid"
    assert [(name, said["dagrid.node"]) for name, said in run.events] == [("skip", "after")]
    assert {(span.trace, span.parent) for span in collector.spans if span is not run} == {(run.trace, run.id)}
    assert len({span.id for span in collector.spans}) == len(collector.spans) == 7

    first, second = collector.named("flaky")
    assert (first.status, second.status) == ("error", "ok")
    assert "not yet" in first.why
    assert [name for name, _ in first.events] == ["retry"]
    assert [span.attributes["dagrid.attempt"] for span in (first, second)] == [1, 2]
    assert [[name for name, _ in span.events] for span in collector.named("twice")] == [["repeat"], []]
    assert collector.one("unwilling").events[0][0] == "skip"
    assert "no need" in collector.one("unwilling").events[0][1]["dagrid.reason"]
    failed = collector.one("broken")
    assert failed.status == "error"
    assert "lost" in failed.why
    assert failed.began - 0.05 <= moments["began"] <= failed.ended + 0.05
    assert run.began <= failed.began <= failed.ended <= run.ended
    lasted = failed.ended - failed.began
    took = result.node_results["broken"].duration_seconds
    assert (
        took - 1e-6 <= lasted <= took + 0.05
    )  # who reads on at that very moment has it begin when it was given to its worker


def test_a_trace_goes_on_below_what_calls_it(collector, monkeypatch):
    """What is given, else the variable of the environment; one that is not sampled is not sent."""
    DAG([Node(one)]).run(observers=[Traces(collector.url, name="given", parent=PARENT)])
    monkeypatch.setenv("TRACEPARENT", PARENT)
    DAG([Node(one)]).run(observers=[Traces(collector.url, name="found")])
    for name in ("given", "found"):
        span = collector.one(name)
        assert (span.trace, span.parent) == tuple(PARENT.split("-")[1:3])
    lines: list[str] = []
    DAG([Node(one)]).run(observers=[Traces(collector.url, name="left", parent=PARENT[:-1] + "0", say=lines.append)])
    assert (collector.named("left"), lines) == ([], [])


def test_what_goes_on_in_a_task_can_join(collector):
    """The traceparent of an attempt is known while it runs."""
    seen = []

    def task():
        seen.append(traces.of_attempt(dagrid.current().node, dagrid.current().number))

    traces = Traces(collector.url)
    DAG([Node(task)]).run(observers=[traces])
    assert seen == [f"00-{collector.one('task').trace}-{collector.one('task').id}-01"]


def test_who_goes_on_with_a_run_sends_only_what_is_new(collector, tmp_path):
    """What an earlier process has sent is not sent again; nor is a run that had ended and is only read."""
    graph = DAG([Node(one), Node(fails_once, depends_on=[one])])
    FAILING.set()
    graph.run(checkpoint=tmp_path, run_id="r", observers=[Traces(collector.url, name="first", run_id="r")])
    FAILING.clear()
    dagrid.resume(tmp_path, "r", again=True, observers=[Traces(collector.url, name="second", run_id="r")])
    assert [len(collector.named(name)) for name in ("first", "second", "one", "fails_once")] == [1, 1, 1, 2]
    assert [span.status for span in collector.named("fails_once")] == ["error", "ok"]
    assert collector.named("fails_once")[1].parent == collector.one("second").id
    dagrid.resume(tmp_path, "r", observers=[Traces(collector.url, name="third", run_id="r")])
    assert collector.named("third") == []


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_collector_that_does_not_answer_is_one_line(kind, caplog, capfd):
    """The run succeeds, waits at its end no longer than an answer may take, and nobody else says anything."""
    with dead(kind) as url:
        began = time.monotonic()
        result = DAG([Node(one)]).run(observers=[Traces(url, timeout=0.5)])
        took = time.monotonic() - began
    assert result.succeeded == 1
    assert took < 5
    assert [(record.name, record.levelno) for record in caplog.records] == [("dagrid", logging.WARNING)]
    assert caplog.messages[0].startswith("traces: 2 of 2 spans were not sent: ")
    assert capfd.readouterr().err == ""


def test_a_collector_that_stands_still_does_not_hold_up_the_nodes():
    """More spans than the queue takes: the oldest are dropped, and all nodes run at once."""
    lines: list[str] = []
    with dead("hangs") as url:
        began = time.monotonic()
        result = DAG([Node(f"n{number}", one) for number in range(10_000)]).run(
            observers=[Traces(url, timeout=0.3, say=lines.append)], progress=False
        )
        took = time.monotonic() - began
    assert result.succeeded == 10_000
    assert took < 20
    assert len(lines) == 1
    assert "10001 of 10001 spans" in lines[0]


def test_without_the_packages_the_error_is_said_before_anything_runs():
    """It names the command that installs them; importing the reader needs none of them."""
    program = """
import sys
sys.modules["opentelemetry"] = None
from dagrid.observe.otel import Traces
from dagrid.errors import InvalidSettingError
try:
    Traces("http://127.0.0.1:1")
except InvalidSettingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("pip install 'dagrid[otel]'")


@pytest.mark.parametrize(
    ("endpoint", "insecure", "url"),
    [
        ("http://h:4318", False, "http://h:4318/v1/traces"),
        ("https://h/", True, "https://h/v1/traces"),
        ("https://h/otlp/v1/traces", False, "https://h/otlp/v1/traces"),
        ("h:4318", True, "http://h:4318/v1/traces"),
        ("h:4318", False, "https://h:4318/v1/traces"),
        ("", True, ""),
    ],
)
def test_where_an_endpoint_is(endpoint, insecure, url):
    """A path is added where there is none; `insecure` counts where nothing says how."""
    assert url_of(endpoint, insecure) == url


@pytest.mark.parametrize(
    "text", ["", "x", PARENT[:-1], PARENT.upper(), "ff" + PARENT[2:], "00-" + "0" * 32 + PARENT[35:]]
)
def test_what_is_no_traceparent_begins_a_trace_of_its_own(text):
    """As the specification of W3C wants it."""
    assert read_traceparent(text) is None
    assert str(read_traceparent(PARENT)) == PARENT
