"""A mail server of the tests' own, on a free port of this machine: it keeps what it takes, and refuses whom it is told to."""

from __future__ import annotations

import email
import ssl
import subprocess
from contextlib import contextmanager
from email import policy
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

USER, PASSWORD = "robot", "open-sesame"


class Sink:
    """What was taken: envelopes and messages."""

    def __init__(self, refused=()):
        self.refused = refused
        self.envelopes = []
        self.logins = []
        self.was_secret = []

    @property
    def messages(self):
        return [email.message_from_bytes(one.content, policy=policy.default) for one in self.envelopes]

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if address in self.refused:
            return "550 no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.envelopes.append(envelope)
        self.was_secret.append(session.ssl is not None)
        return "250 OK"

    def let_in(self, server, session, envelope, mechanism, data):
        self.logins.append(data.login.decode())
        is_right = (data.login.decode(), data.password.decode()) == (USER, PASSWORD)
        return AuthResult(success=is_right, handled=False)


class Anywhere(Controller):
    """A controller that takes whatever port is free."""

    def factory(self):
        return SMTP(self.handler, **self.SMTP_kwargs)

    def _trigger_server(self):
        server: Any = self.server
        self.port = server.sockets[0].getsockname()[1]
        super()._trigger_server()


def certificate(folder):
    """Make a key and a certificate for this machine, signed by itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


@contextmanager
def mail_server(sink, *, starttls=None, login=False):
    """Start a server; its port is `port` of what this gives."""
    settings = {"tls_context": starttls} if starttls is not None else {}
    if login:
        settings |= {"authenticator": sink.let_in, "auth_require_tls": False, "auth_required": True}
    controller = Anywhere(sink, hostname="127.0.0.1", port=0, **settings)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()
