"""Mails after runs: of real runs of graphs whose nodes are named as the steps, to a real server on this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dagrid.graph.dag import DAG
from dagrid.graph.node import Node
from dagrid.workflow.mailing import MOST_OF_A_LOG, send_mails, send_waiting_mail
from tests.steps.smtp_place import PASSWORD, USER, Sink, mail_server

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")

FLOW = """
name: nightly
params: [WHO=ops, PORT=0]
secrets: [{name: T, provider: env, key: TOKEN}]
smtp: {host: 127.0.0.1, port: "${PORT}"}
errorMail: {from: robot@x.org, to: ["${WHO}@x.org", "a@x.org, b@x.org"], prefix: "[down]", attachLogs: true}
infoMail: {from: robot@x.org, to: boss@x.org}
waitMail: {from: robot@x.org, to: boss@x.org}
%s
steps:
  - {name: good, command: "true"}
  - {name: bad, command: "false"%s}
"""


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cr3t-token")


def result_of(fails):
    def bad():
        if fails:
            raise ValueError("it broke with s3cr3t-token")

    return DAG([Node("good", lambda: None), Node("bad", bad, depends_on=["good"])]).run(progress=False)


def after(perform, sink, top, fails=True, step="", **server):
    """Send the mails of a run; returns what the log of the run says of them."""
    with mail_server(sink, **server) as port:
        context = perform.context(FLOW % (top, step), [f"PORT={port}"])
        send_mails(context, result_of(fails))
    log = context.logs.log
    return log.read_text() if log.exists() else ""


def test_after_a_failure(perform, sink):
    out, err = map(Path, perform.logs.files("bad"))
    out.write_text("x" * (MOST_OF_A_LOG + 5) + "\nlast words\n")
    err.write_text("why\n")
    log = after(perform, sink, "mailOn: {failure: true, success: true}")
    (message,) = sink.messages
    assert sink.envelopes[0].rcpt_tos == ["ops@x.org", "a@x.org", "b@x.org"]
    assert message["Subject"] == "[down] nightly: failed"
    text = message.get_body().get_content()
    assert "good: succeeded" in text
    assert "bad: failed" in text
    assert "it broke with *******" in text
    attached = {one.get_filename(): one.get_content() for one in message.iter_attachments()}
    assert sorted(attached) == ["bad.err", "bad.out"]
    assert attached["bad.out"].startswith(f"[the last {MOST_OF_A_LOG} of {MOST_OF_A_LOG + 17} bytes]")
    assert attached["bad.out"].rstrip().endswith("last words")
    assert "a mail was sent to ops@x.org, a@x.org, b@x.org (failed)" in log


@pytest.mark.parametrize(
    ("top", "fails", "to"),
    [
        ("mailOn: {success: true}", False, ["boss@x.org"]),
        ("mailOn: {success: true}", True, None),
        ("mailOn: {failure: true}", False, None),
        ("", True, None),
    ],
)
def test_only_what_is_asked_for_is_sent(perform, sink, top, fails, to):
    after(perform, sink, top, fails)
    assert [one.rcpt_tos for one in sink.envelopes] == ([to] if to else [])


def test_a_step_may_ask_for_a_mail_of_its_own(perform, sink):
    """One mail tells of a failure, not two."""
    after(perform, sink, "", step=", mailOnError: true")
    assert [one["Subject"] for one in sink.messages] == ["[down] nightly: step bad failed"]
    assert "good" not in sink.messages[0].get_body().get_content()
    after(perform, sink, "mailOn: {failure: true}", step=", mailOnError: true")
    assert [one["Subject"] for one in sink.messages][1:] == ["[down] nightly: failed"]


def test_a_handler_is_told_of_by_the_name_that_it_has_in_the_run(perform, sink):
    """In the history it is onExit, whatever its step is called, so its failure was told to nobody, or that of a step twice."""
    text = FLOW.replace("%s\nsteps", "handlerOn: {exit: {name: bad, command: 'false', mailOnError: true}}\nsteps") % ""
    nodes = [Node("good", lambda: None), Node("bad", lambda: None), Node("onExit", lambda: 1 / 0, handler="exit")]
    with mail_server(sink) as port:
        context = perform.context(text, [f"PORT={port}"])
        Path(context.logs.files("onExit")[1]).write_text("why\n")
        send_mails(context, DAG(nodes).run(progress=False))
    (message,) = sink.messages
    assert message["Subject"] == "[down] nightly: step onExit failed"
    assert "onExit: failed" in message.get_body().get_content()
    assert [one.get_filename() for one in message.iter_attachments()] == ["onExit.err"]


def test_what_need_not_run_is_no_failure(perform, sink):
    """Who lets a workflow run on working days only got a mail about a failure each Sunday."""
    with mail_server(sink) as port:
        context = perform.context(FLOW % ("mailOn: {failure: true}", ""), [f"PORT={port}"])
        run = DAG([Node(name, lambda: None) for name in ("good", "bad")]).start(
            progress=False, cancelled="it is Sunday"
        )
        send_mails(context, run.wait())
    assert sink.messages == []


def test_when_a_person_is_waited_for(perform, sink):
    with mail_server(sink) as port:
        context = perform.context(FLOW % ("mailOn: {wait: true}", ""), [f"PORT={port}"])
        send_waiting_mail(context, {"bad": "Shall it go on?"})
    assert sink.messages[0]["Subject"] == "nightly: waiting"
    assert "bad: Shall it go on?" in sink.messages[0].get_body().get_content()


def test_the_workflow_logs_in(perform, sink):
    top = f"mailOn: {{failure: true}}\nsmtp: {{host: 127.0.0.1, port: '${{PORT}}', username: {USER}, password: {PASSWORD}}}"
    with mail_server(sink, login=True) as port:
        text = (FLOW % (top, "")).replace('smtp: {host: 127.0.0.1, port: "${PORT}"}\n', "")
        context = perform.context(text, [f"PORT={port}"])
        send_mails(context, result_of(True))
    assert sink.logins == [USER]
    assert len(sink.envelopes) == 1


@pytest.mark.parametrize("said", ["dead", "nobody", "no server"])
def test_a_mail_that_cannot_be_sent_is_a_line_in_the_log(perform, said):
    """The run has ended as it has ended, and says why nobody was told."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    text = FLOW % ("mailOn: {failure: true}", "")
    if said == "nobody":
        text = text.replace('to: ["${WHO}@x.org", "a@x.org, b@x.org"], ', "")
    if said == "no server":
        text = text.replace("host: 127.0.0.1, ", "")
    context = perform.context(text, [f"PORT={port}"])
    send_mails(context, result_of(True))
    line = context.logs.log.read_text()
    assert "no mail was sent (failed): " in line
    assert {"dead": "Connection refused", "nobody": "who gets it", "no server": "no server is named"}[said] in line
    assert line.count("\n") == 1
