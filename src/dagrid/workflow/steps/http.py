"""Requests over HTTP: `command: GET https://...`, or the same in settings; the body of the answer is the standard output."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from typing import Any

from dagrid.errors import StepError
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps.settings import Found, Setting, Settings, at, is_late
from dagrid.workflow.steps.writing import emit, note
from dagrid.workflow.warm import Returned
from dagrid.workflow.work import Work

SETTINGS = Settings(
    "http",
    [
        Setting("method", "text", "The method, where `command` does not say it.", "GET"),
        Setting("url", "text", "The address, where `command` does not say it."),
        Setting("headers", "table", "Headers of the request."),
        Setting("query", "table", "What is added to the address behind `?`; a list gives a name several times."),
        Setting("body", "text", "The body; `script` is one too."),
        Setting(
            "json",
            "any",
            "A value that is sent as JSON. `true`: the answer is printed as JSON, with its status and headers.",
        ),
        Setting("form", "table", "Fields that are sent as a form."),
        Setting("timeout", "seconds", "How long the server may say nothing.", 60.0),
        Setting(
            "silent", "flag", "`false` shows the status and the headers of the answer on the standard error.", True
        ),
        Setting("debug", "flag", "Shows the request there too, without the values of its headers.", False),
        Setting("skip_tls_verify", "flag", "Takes any certificate.", False, spelling="skipTLSVerify"),
    ],
)
"""The settings."""

_BEHIND_SERVER = re.compile(r"\A[^:]*://[^/?#]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SECRET_IN_ADDRESS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)
BEGINNING = 500
"""How much of the body of a refusal its message shows, in bytes."""
_OWN = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers that are for one server alone, in lower case."""
_OF_BODY = frozenset({"content-length", "content-type", "content-encoding", "transfer-encoding"})
"""Those that tell of the body."""
_BODIES = ("body", "json", "form")


class Http:
    """A step of type http."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step)
        url = SETTINGS.says(step, "url") or ""
        if len(step.command) > 1:
            yield place(step, "command", 1), "a step of type http makes one request; make a step of each"
            return
        if step.command:
            _, url = _line(step.command[0], str(url))
        if not url:
            yield place(step, "command"), "a step of type http needs an address; write command: GET https://..."
        elif not is_late(url) and not str(url).lower().startswith(("http://", "https://")):
            yield (
                place(step, "command") if step.command else at(step, "url"),
                f"the address must begin with http:// or https://, and it is {_shown(str(url))[:60]!r}",
            )
        else:
            headers = SETTINGS.says(step, "headers")
            said = {name: one for name, one in headers.items() if not is_late(one)} if isinstance(headers, dict) else {}
            why = _unsayable("http://late" if is_late(url) else str(url), said)
            if why:
                yield place(step, "command") if step.command else at(step, "url"), why
        sent = [f"`{name}`" for name in _BODIES if SETTINGS.says(step, name) is not None and not _is_flag(step, name)]
        sent += ["`script`"] if step.script else []
        if len(sent) > 1:
            yield at(step), f"a request has one body, and this one has {' and '.join(sent)}; keep one"

    def perform(self, work: Work) -> Generator[Any, Any, Returned]:
        """Make the request."""
        step = work.step
        config = SETTINGS.read((yield from work.config()))
        line = (yield from work.text(step.command[0])) if step.command else ""
        method, url = _line(line, config["url"] or "", config["method"])
        if not url.lower().startswith(("http://", "https://")):
            raise StepError(
                f"A request needs an address that begins with http:// or https://, not {_shown(url)[:60]!r}.",
                retryable=False,
            )
        body = config["body"]
        if step.script:
            body = yield from work.text(step.script)
        value = config["json"]
        whole = value is True
        if value is not None and not isinstance(value, bool):
            body = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        kind = "application/json" if value is not None and not isinstance(value, bool) else "text/plain; charset=utf-8"
        if config["form"] is not None:
            body, kind = _encoded(config["form"]), "application/x-www-form-urlencoded"
        if config["query"]:
            before, mark, fragment = url.partition("#")
            url = f"{before}{'&' if '?' in before else '?'}{_encoded(config['query'])}{mark}{fragment}"
        headers = {str(name): _plain(one) for name, one in (config["headers"] or {}).items()}
        if body is not None and "content-type" not in {name.lower() for name in headers}:
            headers["Content-Type"] = kind
        return (
            yield from work.call(
                request,
                method,
                url,
                headers,
                None if body is None else body.encode(),
                timeout=config["timeout"],
                shows=config["debug"] or not config["silent"],
                debug=config["debug"],
                verify=not config["skip_tls_verify"],
                whole=whole,
            )
        )


def request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    timeout: float,
    shows: bool = False,
    debug: bool = False,
    verify: bool = True,
    whole: bool = False,
) -> None:
    """Make a request, and write the body of the answer to the standard output as it comes.

    Raises:
        StepError: there is no answer, or one that refuses.
    """
    import http.client
    import urllib.error
    import urllib.request

    shown = f"{method} {_shown(url)}"
    why = _unsayable(url, headers)
    if why:
        raise StepError(f"{shown} cannot be asked: {why}.", retryable=False)
    if debug:
        note(f"> {shown}")
        for name in headers:
            note(f"> {name}: ...")
    try:
        url, headers = _logging_in(url, headers)
        asked = urllib.request.Request(url, body, {"User-Agent": "dagrid", **headers}, method=method)
        with _opener(verify).open(asked, timeout=timeout or None) as answer:
            _take(shown, answer, shows, whole)
    except urllib.error.HTTPError as refusal:  # a redirection that leads nowhere
        raise StepError(f"{shown} answered {refusal.code} {_line_of(refusal.reason)}.") from None
    except TimeoutError:
        raise StepError(
            f"{shown} has not answered within {timeout:g} s. Raise `timeout` if the server needs longer."
        ) from None
    except urllib.error.URLError as error:
        raise _unreached(shown, error.reason, timeout) from None
    except http.client.InvalidURL:
        why = "the address is none that can be asked; what stands behind the colon of its server must be a port"
        raise StepError(f"{shown} cannot be asked: {why}.", retryable=False) from None
    except (OSError, http.client.HTTPException) as error:
        raise StepError(f"{shown}: the connection broke: {type(error).__name__}: {_line_of(error)}") from None
    except (ValueError, UnicodeError) as error:
        raise StepError(f"{shown} cannot be asked: {error}", retryable=False) from None


def _opener(verify: bool) -> Any:
    """Return what opens addresses: http and https alone, redirections that keep credentials at home, every status an answer."""
    import ssl
    import urllib.request
    from urllib.parse import urlsplit

    class Redirections(urllib.request.HTTPRedirectHandler):
        inf_msg = "and leads in a circle, or too far: "

        def redirect_request(self, req: Any, _fp: Any, code: int, _msg: str, _headers: Any, newurl: str) -> Any:
            if urlsplit(newurl).scheme not in ("http", "https"):
                where = _shown(newurl)[:60]
                raise StepError(f"The server leads to {where!r}, which is no address for HTTP.", retryable=False)
            left = set() if _origin(req.full_url) == _origin(newurl) else _OWN
            method, body = req.get_method(), req.data
            if code not in (307, 308) and method not in ("GET", "HEAD"):
                method, body, left = "GET", None, left | _OF_BODY
            kept = {name: value for name, value in req.headers.items() if name.lower() not in left}
            return urllib.request.Request(newurl.replace(" ", "%20"), body, kept, method=method)

    class Answers(urllib.request.HTTPErrorProcessor):
        def http_response(self, request: Any, response: Any) -> Any:
            return (
                super().http_response(request, response) if response.status in (301, 302, 303, 307, 308) else response
            )

        https_response = http_response

    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        Redirections(),
        Answers(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _take(shown: str, answer: Any, shows: bool, whole: bool) -> None:
    """Write what an answer holds. Raises StepError: it is a refusal."""
    status = f"{answer.status} {answer.reason}".strip()
    if shows:
        note(f"HTTP {status}")
        for name, value in answer.headers.items():
            note(f"{name}: {value}")
    beginning = b""
    pieces = []
    while piece := answer.read1(1 << 16):
        if len(beginning) < BEGINNING:
            beginning += piece[: BEGINNING - len(beginning)]
        if whole:
            pieces.append(piece)
        else:
            emit(piece)
    if answer.length:  # read1 takes an early end for the end
        raise StepError(f"{shown}: the connection broke {answer.length} bytes before the end of the answer.")
    if whole:
        _print_whole(answer, b"".join(pieces))
    if answer.status >= 400:
        said = " ".join(beginning.decode("utf-8", "replace").split())
        raise StepError(f"{shown} answered {status}{f': {said}' if said else '.'}")


def _line_of(said: object) -> str:
    return " ".join(str(said).split())


def _print_whole(answer: Any, body: bytes) -> None:
    try:
        text = body.decode(answer.headers.get_content_charset() or "utf-8", "replace")
    except LookupError:  # an encoding that nobody knows
        text = body.decode("utf-8", "replace")
    value: Any = text
    if "json" in answer.headers.get_content_type():
        try:
            value = json.loads(text)
        except ValueError:
            pass
    headers = {name: answer.headers.get_all(name) for name in answer.headers}
    emit(
        json.dumps({"status_code": answer.status, "headers": headers, "body": value}, ensure_ascii=False, indent=4)
        + "\n"
    )


def _unreached(shown: str, reason: Any, timeout: float) -> StepError:
    import ssl

    if isinstance(reason, TimeoutError):
        return StepError(f"{shown} has not answered within {timeout:g} s. Raise `timeout` if the server needs longer.")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return StepError(
            f"{shown}: the certificate of the server is not to be trusted: {reason.verify_message}. Name the authority with "
            f"SSL_CERT_FILE in `env`, or set skipTLSVerify: true."
        )
    why = getattr(reason, "strerror", None) or str(reason)
    return StepError(f"{shown} cannot be reached: {why}.")


def _line(line: str, url: str, method: str = "GET") -> tuple[str, str]:
    """Return the method and the address that `command` says, or what the settings say."""
    first, _, rest = line.strip().partition(" ")
    if rest.strip():
        return first.upper(), rest.strip()
    if "://" in first or (first and not first.isalpha()):
        return method.upper(), first
    return (first or method).upper(), url


def _is_flag(step: Step, name: str) -> bool:
    return isinstance(SETTINGS.says(step, name), bool)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encoded(fields: Mapping[str, Any]) -> str:
    from urllib.parse import urlencode

    pairs = []
    for name, value in fields.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            pairs.append((str(name), _plain(one)))
    return urlencode(pairs)


def _unsayable(url: str, headers: Mapping[str, Any]) -> str:
    """Return what of an address or of headers cannot be sent, and what to do about it; empty if all of it can."""
    from urllib.parse import quote

    for mark in _BEHIND_SERVER.sub("", url).partition("#")[0]:
        if not "!" <= mark <= "~":
            return f"the address has {mark!r} in it; write {quote(mark, errors='replace')} in its place"
    for name, value in headers.items():
        for text, encoding in ((str(name), "ascii"), (_plain(value), "latin-1")):
            try:
                text.encode(encoding)
            except UnicodeEncodeError as error:
                return _unfit(name, text[error.start])
            if control := _CONTROL.search(text):
                return _unfit(name, control[0])
    return ""


def _unfit(name: str, mark: str) -> str:
    return f"the header {name!r} has {mark!r} in it, which no header can have; leave it out, or encode it"


def _logging_in(url: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Return an address without who logs in, and the headers with it, if they do not say so themselves."""
    from base64 import b64encode
    from urllib.parse import unquote_to_bytes, urlsplit

    parts = urlsplit(url)
    who, at_sign, host = parts.netloc.rpartition("@")
    if not at_sign:
        return url, headers
    url = parts._replace(netloc=host).geturl()
    if "authorization" in {name.lower() for name in headers}:
        return url, headers
    user, _, password = who.partition(":")
    told = b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()
    return url, {**headers, "Authorization": f"Basic {told}"}


def _shown(url: str) -> str:
    """Return an address without what may be secret in it: who logs in, and the query; any text may be meant as one."""
    return _SECRET_IN_ADDRESS.sub("", url)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
