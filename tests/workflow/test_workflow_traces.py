"""`otel` of a workflow: one trace for a run and all that it calls, which steps can join; and nothing that it says is a secret."""

from __future__ import annotations

import sys
import time

import pytest

from dagrid.errors import WorkflowError
from tests.observe.otel_sink import dead, sink

SECRET = "s3cret-t0ken"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _no_trace_around(monkeypatch):
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TOKEN_OF_MINE", SECRET)


@pytest.fixture
def collector():
    with sink() as made:
        yield made


def test_one_trace_shows_a_run_and_what_it_calls(runner, collector):
    """Retries, failures, skips; the run of a sub-workflow below the step that called it; processes know their attempt."""
    (runner.folder / "tasks.py").write_text("import os\n\ndef tell():\n    print(os.environ['TRACEPARENT'])\n")
    told = runner.run(
        f"""
        name: family
        otel: {{enabled: true, endpoint: '{collector.url}'}}
        steps:
          - name: flaky
            command: 'echo "$TRACEPARENT"; test -e there || {{ touch there; exit 3; }}'
            retryPolicy: {{limit: 1, intervalSec: 0}}
          - {{name: unmet, command: 'true', precondition: 'false', continueOn: {{skipped: true}}}}
          - {{name: calls, call: child, params: 'X=1'}}
          - {{name: broken, command: exit 4}}
          - {{name: never, command: 'true'}}
        handlerOn: {{failure: {{command: 'true'}}}}
        ---
        name: child
        params: X=0
        steps:
          - {{name: inner, command: 'echo "$TRACEPARENT"'}}
          - {{name: python, python: 'tasks:tell'}}
        """
    )
    assert told.status == "failed"
    run, child = collector.one("family"), collector.one("child")
    assert len({span.trace for span in collector.spans}) == 1
    assert run.parent == ""
    assert (run.status, run.attributes["dagrid.run.status"], run.attributes["dagrid.run.id"]) == (
        "error",
        "failed",
        told.id,
    )
    assert run.attributes["dagrid.trigger"] == "manual"
    skipped = [said["dagrid.node"] for name, said in run.events if name == "skip"]
    assert "never" in skipped

    first, second = collector.named("flaky")
    assert (first.parent, first.status, second.status) == (run.id, "error", "ok")
    assert [name for name, _ in first.events] == ["retry"]
    assert told.out("flaky").split() == [f"00-{span.trace}-{span.id}-01" for span in (first, second)]
    assert collector.one("unmet").events[0][0] == "skip"
    assert "exited with code 1" in collector.one("unmet").events[0][1]["dagrid.reason"]
    assert (collector.one("broken").status, collector.one("onFailure").status) == ("error", "ok")

    calls = collector.one("calls")
    assert (child.parent, child.status) == (calls.id, "ok")
    assert child.attributes["dagrid.parent"] == told.id
    assert calls.began <= child.began <= child.ended <= calls.ended
    folder = runner.history.folder(child.attributes["dagrid.run.id"])
    for name in ("inner", "python"):
        step = collector.one(name)
        assert step.parent == child.id
        assert (folder / f"{name}.out").read_text() == f"00-{step.trace}-{step.id}-01\n"


def test_settings_are_expanded_and_secrets_go_nowhere_but_into_headers(runner, collector, monkeypatch):
    """What a step says of a secret is masked in its span; the resource is masked too."""
    monkeypatch.setenv("WHERE", collector.url)
    told = runner.run(
        """
        params: TEAM=blue
        secrets: [{name: TOK, provider: env, key: TOKEN_OF_MINE}]
        otel:
          enabled: true
          endpoint: ${WHERE}/v1/traces
          headers: {Authorization: 'Bearer ${TOK}'}
          timeout: 10s
          resource: {service.name: 'etl-${TEAM}', deployment: {environment: test}, leak: '${TOK}', number: 3}
        steps:
          - {name: a, command: 'echo "no $TOK" >&2; exit 1', precondition: 'test "$TOK" != x'}
          - {name: b, command: 'true'}
        handlerOn: {failure: {command: 'true', precondition: {condition: '$TOK', expected: other}}}
        """
    )
    assert told.status == "failed"
    path, headers = collector.requests[0]
    assert (path, headers["authorization"]) == ("/v1/traces", f"Bearer {SECRET}")
    resource = collector.one("a").resource
    assert (resource["service.name"], resource["deployment.environment"], resource["number"]) == ("etl-blue", "test", 3)
    assert resource["leak"] == "*******"
    assert "*******" in collector.one("onFailure").events[0][1]["dagrid.reason"]
    assert SECRET not in repr(collector.spans)
    assert SECRET not in told.log


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_collector_that_does_not_answer_is_a_line_in_the_log(runner, kind, capfd):
    """The run and those that it calls go on as if nobody had asked for traces; who goes on with it loses no line of the log."""
    with dead(kind) as url:
        text = f"""
            otel: {{enabled: true, endpoint: '{url}', timeout: 500ms}}
            steps: [{{call: child}}, {{call: child, params: X=2}}, {{name: a, command: 'test -e there'}}]
            ---
            name: child
            params: X=1
            steps: [{{command: 'true'}}]
        """
        began = time.monotonic()
        told = runner.run(text)
        assert time.monotonic() - began < 5
        assert told.statuses["a"] == "failed"
        lines = [line.split(" ", 1)[1] for line in told.log.splitlines()]
        (untold,) = [line for line in lines if "spans were not sent" in line]
        assert lines[-2:] == ["the run has ended", untold]
        (runner.folder / "there").touch()
        again = runner.go_on(told.id, again=True)
    assert again.status == "succeeded"
    new = [line.split(" ", 1)[1] for line in again.log.splitlines()][len(lines) :]
    assert new[0] == "the run is taken up again"
    assert capfd.readouterr().err == ""


def test_a_run_that_is_taken_up_again_goes_on_with_its_trace(runner, collector):
    """In the same trace, with a span for each part; no attempt is sent twice, also not of a sub-workflow."""
    text = f"""
        name: family
        otel: {{enabled: true, endpoint: '{collector.url}'}}
        steps: [{{name: ok, command: 'true'}}, {{name: calls, call: child}}]
        ---
        name: child
        steps: [{{name: inner, command: 'true'}}, {{name: last, command: 'test -e there'}}]
    """
    told = runner.run(text)
    (runner.folder / "there").touch()
    assert runner.go_on(told.id, again=True).status == "succeeded"
    counts = {name: len(collector.named(name)) for name in ("family", "ok", "calls", "child", "inner", "last")}
    assert counts == {"family": 2, "ok": 1, "calls": 2, "child": 2, "inner": 1, "last": 2}
    assert len({span.trace for span in collector.spans}) == 1
    assert [span.parent for span in collector.named("child")] == [span.id for span in collector.named("calls")]
    assert [span.status for span in collector.named("family")] == ["error", "ok"]


def test_a_sub_workflow_may_say_otherwise(runner, collector):
    """One that turns traces off is not in the trace, but what its steps start still joins it; a caller from outside counts."""
    told = runner.run(
        f"""
        name: family
        otel: {{enabled: true, endpoint: '{collector.url}'}}
        steps: [{{name: calls, call: child}}]
        ---
        name: child
        otel: {{enabled: false}}
        steps: [{{name: inner, command: 'echo "$TRACEPARENT" > joined'}}]
        """
    )
    assert told.status == "succeeded"
    calls = collector.one("calls")
    assert {span.name for span in collector.spans} == {"family", "calls"}
    assert (runner.folder / "joined").read_text() == f"00-{calls.trace}-{calls.id}-01\n"


def test_a_run_goes_on_with_the_trace_around_it(runner, collector, monkeypatch):
    """TRACEPARENT of the environment, with traces of its own or without."""
    monkeypatch.setenv("TRACEPARENT", PARENT)
    runner.run(f"{{name: inner, otel: {{enabled: true, endpoint: '{collector.url}'}}, steps: [{{command: 'true'}}]}}")
    assert (collector.one("inner").trace, collector.one("inner").parent) == tuple(PARENT.split("-")[1:3])
    told = runner.run("steps: [{name: a, command: 'echo \"$TRACEPARENT\"'}]")
    assert told.out("a") == PARENT + "\n"


@pytest.mark.parametrize("timeout", ["soon", "0s"])
def test_a_wrong_timeout_is_said_with_its_place(runner, timeout):
    """Before anything runs, and nothing stays of the run."""
    with pytest.raises(WorkflowError, match=r"flow\.yaml:1:\d+: the timeout of otel is '.*'; write a time such as 5s"):
        runner.run(f"{{otel: {{enabled: true, timeout: {timeout}}}, steps: [{{command: touch hurt}}]}}")
    assert not (runner.folder / "hurt").exists()
    assert runner.history.runs() == []


def test_without_the_packages_nothing_runs(runner, monkeypatch):
    """The error stands at the field that asks for them."""
    monkeypatch.delattr("dagrid.observe._otlp", raising=False)
    monkeypatch.setitem(sys.modules, "dagrid.observe._otlp", None)
    with pytest.raises(WorkflowError, match=r"flow\.yaml:1:\d+: .*pip install 'dagrid\[otel\]'"):
        runner.run("{otel: {enabled: true}, steps: [{command: touch hurt}]}")
    assert not (runner.folder / "hurt").exists()
