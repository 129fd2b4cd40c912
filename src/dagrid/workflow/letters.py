"""Mails made and handed to a server: by steps of type mail, and after runs. It knows neither steps nor runs."""

from __future__ import annotations

import ipaddress
import mimetypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dagrid.errors import StepError

if TYPE_CHECKING:
    from email.message import EmailMessage

TLS_PORT = 465
DEFAULT_PORT = 25
TIMEOUT = 30.0
_ADDRESS = re.compile(r'[^\s"<>@]+(@[^\s"<>@]+)?')
_ASIDE = re.compile(r'"[^"]*"|\([^()]*\)')
_UNPARSED = (ValueError, IndexError, AttributeError)
"""What Python's parser of addresses comes to with some that are none."""


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """What takes mail; on port 465 by TLS from the first byte, else by STARTTLS where it is offered.

    Args:
        host: its name.
        port: its port.
        username: who logs in; nobody does if it is empty.
        password: theirs.
        timeout: how many seconds it may be silent.
    """

    host: str
    port: int = DEFAULT_PORT
    username: str = ""
    password: str = ""
    timeout: float = TIMEOUT

    @property
    def shown(self) -> str:
        """The server as messages name it."""
        return f"{self.host}:{self.port}"

    @property
    def is_near(self) -> bool:
        """Whether what is said to it does not leave this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A mail.

    Args:
        sender: who it is from.
        to, cc, bcc: who gets it.
        subject: one line.
        text: what it says.
        html: whether that is HTML.
        attachments: files that come with it.
    """

    sender: str
    to: Sequence[str] = ()
    cc: Sequence[str] = ()
    bcc: Sequence[str] = ()
    subject: str = ""
    text: str = ""
    html: bool = False
    attachments: Sequence[str] = ()
    texts: dict[str, str] = field(default_factory=dict)
    """Attachments that are no files: their texts by their names."""


def send(server: Server, letter: Letter) -> None:
    """Hand a mail to a server.

    Raises:
        StepError: the server cannot be reached, or does not take the mail for everybody.
    """
    import smtplib
    import ssl

    everybody = [address for text in (*letter.to, *letter.cc, *letter.bcc) for address in _addresses(text)]
    if not everybody:
        raise StepError("The mail is for nobody; write to: ...", retryable=False)
    message = _message(letter)
    begun = False
    try:
        with _connected(server) as connection:
            begun = True
            if server.username:
                connection.login(server.username, server.password)
            refused = connection.send_message(message, _address(letter.sender), everybody)
    except smtplib.SMTPRecipientsRefused as error:
        raise _refused(error.recipients, everybody) from None
    except smtplib.SMTPAuthenticationError as error:
        raise StepError(
            f"{server.shown} does not let {server.username!r} in ({_said(error.smtp_code, error.smtp_error)}). Check username "
            f"and password of `smtp`.",
            retryable=False,
        ) from None
    except UnicodeEncodeError:
        raise StepError(
            f"{server.shown} cannot be told who logs in: username and password of `smtp` may have letters of ASCII alone.",
            retryable=False,
        ) from None
    except smtplib.SMTPSenderRefused as error:
        raise StepError(
            f"{server.shown} takes no mail from {error.sender}: {_said(error.smtp_code, error.smtp_error)}"
        ) from None
    except smtplib.SMTPResponseException as error:
        raise StepError(f"{server.shown} does not take the mail: {_said(error.smtp_code, error.smtp_error)}") from None
    except ssl.SSLCertVerificationError as error:
        raise StepError(
            f"The certificate of {server.shown} is not to be trusted: {error.verify_message}. Name the authority with "
            f"SSL_CERT_FILE in the environment."
        ) from None
    except TimeoutError:
        raise _silent(server) from None
    except smtplib.SMTPServerDisconnected as error:
        if "timed out" in str(error):
            raise _silent(server) from None
        raise StepError(f"{server.shown} closed the connection: {error}") from None
    except smtplib.SMTPException as error:
        raise StepError(f"{server.shown}: {error}") from None
    except OSError as error:
        how = "broke off" if begun else "cannot be reached"
        raise StepError(f"{server.shown} {how}: {error.strerror or error}. Check host and port of `smtp`.") from None
    if refused:
        raise _refused(refused, everybody)


def _silent(server: Server) -> StepError:
    return StepError(f"{server.shown} has not answered within {server.timeout:g} s. Check host and port of `smtp`.")


def _connected(server: Server) -> Any:
    """Return a connection, secret where the server can that."""
    import smtplib
    import ssl

    context = ssl.create_default_context()
    if server.is_near:  # nobody is in between, and such servers have certificates of their own making
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if server.port == TLS_PORT:
        return smtplib.SMTP_SSL(server.host, server.port, timeout=server.timeout, context=context)
    connection = smtplib.SMTP(server.host, server.port, timeout=server.timeout)
    try:
        connection.ehlo_or_helo_if_needed()
        if connection.has_extn("starttls"):
            connection.starttls(context=context)
        elif server.username and not server.is_near:
            raise StepError(
                f"{server.shown} offers no TLS, and the password would be readable on the way. Take port 465, or a server that "
                f"offers STARTTLS.",
                retryable=False,
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _message(letter: Letter) -> EmailMessage:
    """Return a mail as it is sent. Raises StepError: an address or an attachment is not sound."""
    from email.message import EmailMessage
    from email.utils import formatdate, make_msgid

    message = EmailMessage()
    try:
        message["From"] = letter.sender
        for name, addresses in (("To", letter.to), ("Cc", letter.cc)):
            if said := ", ".join(filter(str.strip, addresses)):
                message[name] = said
        message["Message-ID"] = make_msgid(domain=_address(letter.sender).rpartition("@")[2] or "localhost")
        message["Subject"] = " ".join(letter.subject.split())
    except _UNPARSED as error:
        raise StepError(f"An address of the mail is none: {error}", retryable=False) from None
    message["Date"] = formatdate(localtime=True)
    message.set_content(letter.text, subtype="html" if letter.html else "plain")
    for path in letter.attachments:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise StepError(f"The attachment {path!r} cannot be read: {error.strerror}.", retryable=False) from None
        kind, encoding = mimetypes.guess_type(path)
        main, _, sub = (kind if kind and not encoding else "application/octet-stream").partition("/")
        message.add_attachment(data, maintype=main, subtype=sub, filename=os.path.basename(path))
    for name, text in letter.texts.items():
        message.add_attachment(text, filename=name)
    return message


def _refused(refused: dict[str, tuple[int, bytes]], everybody: Sequence[str]) -> StepError:
    shown = "; ".join(f"{address} ({_said(*why)})" for address, why in refused.items())
    others = len(set(everybody)) - len(refused)
    rest = f" {others} other{'s' if others > 1 else ''} got it." if others else ""
    return StepError(f"The mail was refused for {shown}.{rest}", retryable=not others)


def _said(code: int, text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(said.split())}"


def _addresses(text: str) -> list[str]:
    """Return the addresses alone of a text that has one or several, with commas. Raises StepError: one is none."""
    from email.message import EmailMessage

    header = EmailMessage()
    try:
        header["To"] = text
    except _UNPARSED as error:
        raise StepError(f"{text!r} is no address of a mail: {error}", retryable=False) from None
    found: list[str] = [one.addr_spec for one in header["To"].addresses]
    rest = _ASIDE.sub("", text)
    for one in found:
        rest = rest.replace(one, "", 1)
    if "@" in rest or not all(_ADDRESS.fullmatch(one) for one in found):
        raise StepError(
            f"{text!r} is no address of a mail; write name@host, and commas between several.", retryable=False
        )
    return found


def _address(text: str) -> str:
    """Return the address alone, without the name before it."""
    from email.utils import parseaddr

    return parseaddr(text)[1] or text
