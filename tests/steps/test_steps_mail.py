"""Steps of type mail, and mails after runs, against a real server on this machine."""

from __future__ import annotations

import socket
import threading

import pytest

from dagrid.errors import StepError
from dagrid.workflow import letters
from dagrid.workflow.letters import Letter, Server, send
from tests.steps.conftest import wrong
from tests.steps.smtp_place import PASSWORD, USER, Sink, certificate, mail_server

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")


@pytest.fixture
def sink():
    return Sink()


def flow(port, config, more=""):
    return f"""
        smtp: {{host: 127.0.0.1, port: {port}}}
        params: [WHO=you]
        steps:
          - name: a
            type: mail
            config: {config}
            {more}
    """


def test_a_mail_is_sent_with_all_that_it_says(perform, sink, tmp_path):
    (tmp_path / "report.csv").write_text("a,b\n")
    config = (
        '{from: Robot <robot@example.com>, to: [a@example.com, "${WHO}@example.com"], cc: c@example.com, bcc: [b@example.com], '
        'subject: "for ${WHO}", message: "Grüße, ${WHO}", attachments: [report.csv]}'
    )
    with mail_server(sink) as port:
        assert not perform(flow(port, config)).error
    (envelope,), (message,) = sink.envelopes, sink.messages
    assert envelope.mail_from == "robot@example.com"
    assert envelope.rcpt_tos == ["a@example.com", "you@example.com", "c@example.com", "b@example.com"]
    assert message["To"] == "a@example.com, you@example.com"
    assert (message["Cc"], message["Bcc"], message["Subject"]) == ("c@example.com", None, "for you")
    assert message.get_body().get_content().split() == ["Grüße,", "you"]
    (attachment,) = message.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content().replace("\r", "")) == ("report.csv", "a,b\n")


def test_html_from_a_script(perform, sink):
    with mail_server(sink) as port:
        assert not perform(flow(port, "{from: a@x.org, to: b@x.org, html: true}", "script: <b>${WHO}</b>")).error
    body = sink.messages[0].get_body()
    assert (body.get_content_type(), body.get_content().strip()) == ("text/html", "<b>you</b>")


def test_the_server_may_be_in_the_step(perform, sink):
    with mail_server(sink) as port:
        smtp = f"smtp: {{host: 127.0.0.1, port: {port}}}"
        assert not perform(flow(1, f"{{from: a@x.org, to: b@x.org, {smtp}}}")).error
    assert len(sink.envelopes) == 1


def letter(*to):
    return Letter(sender="a@x.org", to=to, subject="s", text="t")


def test_login_and_its_refusal(sink):
    with mail_server(sink, login=True) as port:
        send(Server("127.0.0.1", port, USER, PASSWORD), letter("b@x.org"))
        with pytest.raises(StepError, match=r"does not let 'robot' in \(535 .*Check username and password") as refusal:
            send(Server("127.0.0.1", port, USER, "wrong-one"), letter("b@x.org"))
    assert "wrong-one" not in str(refusal.value)
    assert not refusal.value.retryable
    assert len(sink.envelopes) == 1


def test_it_is_secret_where_the_server_can_that(sink, tmp_path, monkeypatch):
    context = certificate(tmp_path)
    with mail_server(sink, starttls=context, login=True) as port:
        send(Server("127.0.0.1", port, USER, PASSWORD), letter("b@x.org"))
    assert sink.was_secret == [True]


def test_a_certificate_must_be_known_where_somebody_may_be_in_between(sink, tmp_path, monkeypatch):
    """On this machine nobody is; so for this test it is not taken to be near."""
    monkeypatch.setattr(Server, "is_near", False)
    with mail_server(sink, starttls=certificate(tmp_path)) as port:
        with pytest.raises(StepError, match=r"is not to be trusted: .*SSL_CERT_FILE"):
            send(Server("localhost", port), letter("b@x.org"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        send(Server("localhost", port), letter("b@x.org"))
    with mail_server(sink) as port, pytest.raises(StepError, match="offers no TLS, and the password would be readable"):
        send(Server("localhost", port, USER, PASSWORD), letter("b@x.org"))
    assert sink.was_secret == [True]
    assert not sink.logins


def test_the_port_of_tls_is_secret_from_the_first_byte(tmp_path, monkeypatch):
    """A server that waits for the beginning of TLS gets that, and no greeting is waited for."""
    monkeypatch.setattr(letters, "TLS_PORT", 0)
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        monkeypatch.setattr(letters, "TLS_PORT", port)
        first = []

        def take():
            connection, _ = door.accept()
            with connection:
                first.append(connection.recv(1))

        thread = threading.Thread(target=take)
        thread.start()
        with pytest.raises(StepError):
            send(Server("127.0.0.1", port, timeout=5), letter("b@x.org"))
        thread.join(10)
    assert first == [b"\x16"]


def test_refused_people_are_named_and_the_others_get_it():
    """A second try would send it again to those who have it: so there is none."""
    sink = Sink(refused=("gone@x.org",))
    with mail_server(sink) as port:
        with pytest.raises(StepError, match=r"refused for gone@x.org \(550 no such person\). 1 other got it.") as some:
            send(Server("127.0.0.1", port), letter("gone@x.org", "b@x.org"))
        with pytest.raises(StepError, match=r"refused for gone@x.org \(550 no such person\).$") as all_of_them:
            send(Server("127.0.0.1", port), letter("gone@x.org"))
    assert [one.rcpt_tos for one in sink.envelopes] == [["b@x.org"]]
    assert (some.value.retryable, all_of_them.value.retryable) == (False, True)


def test_a_server_that_is_not_there_or_says_nothing(perform):
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        config = f"{{from: a@x.org, to: b@x.org, smtp: {{host: 127.0.0.1, port: {port}, timeout: 300ms}}}}"
        assert "has not answered within 0.3 s" in perform(flow(1, config)).error
    assert (
        "cannot be reached: Connection refused. Check host and port"
        in perform(flow(port, "{from: a@x.org, to: b@x.org}")).error
    )
    assert "No server takes the mail" in perform("steps: [{type: mail, config: {from: a@x.org, to: b@x.org}}]").error
    assert "attachment" in perform(flow(port, "{from: a@x.org, to: b@x.org, attachments: [none.txt]}")).error


def test_several_may_stand_in_one_text(perform, sink):
    """All of them stand in the mail, so all of them must get it."""
    config = "{from: a@x.org, to: ['Ann <b@x.org>, c@x.org', '${NOBODY}', root], cc: 'd@x.org,e@x.org', message: hello}"
    with mail_server(sink) as port:
        assert not perform(flow(port, config, "env: [NOBODY: '']")).error
    assert sink.envelopes[0].rcpt_tos == ["b@x.org", "c@x.org", "root", "d@x.org", "e@x.org"]
    assert sink.messages[0]["To"] == "Ann <b@x.org>, c@x.org, root"


@pytest.mark.parametrize("to", ["not an address", "b@x.org c@x.org", "b@x.org; c@x.org", "b@", "<>", "@x.org"])
def test_what_is_no_address_is_not_sent_to_a_part_of_it(sink, to):
    with mail_server(sink) as port, pytest.raises(StepError, match="is no address of a mail"):
        send(Server("127.0.0.1", port), Letter(sender="a@x.org", to=[to]))
    assert not sink.envelopes


def test_a_mail_for_nobody_is_a_failure(sink):
    with mail_server(sink) as port, pytest.raises(StepError, match="The mail is for nobody"):
        send(Server("127.0.0.1", port), Letter(sender="a@x.org", to=[""]))


def test_a_password_that_the_protocol_cannot_say_is_said_to_be_one(sink):
    with mail_server(sink, login=True) as port, pytest.raises(StepError, match="may have letters of ASCII alone"):
        send(Server("127.0.0.1", port, USER, "pässword"), Letter(sender="a@x.org", to=["b@x.org"]))


def test_no_header_can_be_smuggled_in(sink):
    with mail_server(sink) as port:
        send(Server("127.0.0.1", port), Letter(sender="a@x.org", to=["b@x.org"], subject="s\r\nBcc: c@x.org", text="t"))
        for sender, to in (("a@x.org", "b@x.org\r\nBcc: c@x.org"), ("[", "b@x.org"), ('"', "b@x.org")):
            with pytest.raises(StepError, match=r"address of (the|a) mail"):
                send(Server("127.0.0.1", port), Letter(sender=sender, to=[to], text="t"))
    assert sink.messages[0]["Subject"] == "s Bcc: c@x.org"
    assert [one.rcpt_tos for one in sink.envelopes] == [["b@x.org"]]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: mail, config: {to: a@x.org}}", "a step of type mail needs 'from'"),
        ("{type: mail, config: {from: a, to: b, smtp: {hots: x}}}", "unknown key 'hots' in smtp"),
        (
            "{type: mail, config: {from: a, to: b, smtp: {host: x, port: y}}}",
            "in smtp: 'port' must be a port from 1 to",
        ),
        ("{type: mail, config: {from: a, to: b, message: x}, script: y}", "what the mail says is in the settings too"),
        ("{type: mail, config: {from: a, to: b}, command: x}", "a step of type mail runs no command"),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
