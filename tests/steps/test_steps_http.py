"""Steps of type http, against a real server on this machine."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.steps.conftest import wrong

RELEASED = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Tells what it was asked, or behaves as its path says."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        path = self.path.partition("?")[0]
        length = int(self.headers.get("Content-Length") or 0)
        asked = {
            "method": self.command,
            "path": self.path,
            "body": self.rfile.read(length).decode(),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        if path.startswith("/moved"):
            return self.say(int(path[6:] or 302), b"", Location=self.headers.get("X-To", "/here"))
        if path == "/klingon":
            return self.say(200, "\u00e9".encode(), **{"Content-Type": "text/plain; charset=klingon"})
        if path == "/garbage":
            self.wfile.write(b"hello there\r\n\r\n")
            self.close_connection = True
            return None
        if path == "/refused":
            return self.say(403, b'{"why": "not you"}' + b"x" * 5000)
        if path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(200):
                data = f"{number}\n".encode() * 50
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return None
        if path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
            return None
        if path == "/late":
            RELEASED.wait(20)
        return self.say(200, json.dumps(asked).encode(), **{"Content-Type": "application/json"})

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815

    def say(self, status, body, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "X-Two": "a"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # clients that give up are part of these tests


def serving():
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    return server, thread


@pytest.fixture(scope="module")
def servers():
    made = [serving(), serving()]
    yield [f"http://127.0.0.1:{server.server_address[1]}" for server, _ in made]
    for server, thread in made:
        RELEASED.set()
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def url(servers):
    return servers[0]


def step(command, config="{}", more=""):
    return f"""
        params: [WHO=you]
        steps:
          - name: a
            type: http
            command: {command}
            config: {config}
            {more}
    """


def test_the_body_of_the_answer_is_the_output(perform, url):
    ended = perform(step(f"GET {url}/${{WHO}}?a=1", '{query: {b: [x, "y z"]}, headers: {X-Who: "${WHO}"}}'))
    asked = json.loads(ended.out)
    assert asked["path"] == "/you?a=1&b=x&b=y+z"
    assert asked["headers"]["x-who"] == "you"
    assert ended.err == ""


@pytest.mark.parametrize(
    ("config", "more", "body", "kind"),
    [
        ("{body: 'hello ${WHO}'}", "", "hello you", "text/plain; charset=utf-8"),
        ("{}", "script: 'hello ${WHO}'", "hello you", "text/plain; charset=utf-8"),
        ("{json: {a: ['${WHO}', 1]}}", "", '{"a": ["you", 1]}', "application/json"),
        ("{form: {a: 'x y', b: '${WHO}'}}", "", "a=x+y&b=you", "application/x-www-form-urlencoded"),
        ("{body: '<a/>', headers: {content-type: text/xml}}", "", "<a/>", "text/xml"),
    ],
)
def test_bodies(perform, url, config, more, body, kind):
    asked = json.loads(perform(step(f"POST {url}/", config, more)).out)
    assert (asked["method"], asked["body"], asked["headers"]["content-type"]) == ("POST", body, kind)


def test_method_and_address_may_be_settings(perform, url):
    asked = json.loads(perform(f"steps: [{{type: http, config: {{method: put, url: '{url}/x', body: y}}}}]").out)
    assert (asked["method"], asked["path"]) == ("PUT", "/x")
    assert json.loads(perform(step(f"{url}/only")).out)["method"] == "GET"


def test_a_refusal_fails_with_its_status_and_the_beginning_of_what_it_says(perform, url):
    ended = perform(step(f"GET {url}/refused?token=hidden"))
    assert ended.error.startswith(f'GET {url}/refused answered 403 Forbidden: {{"why": "not you"}}xxx')
    assert len(ended.error) < 700
    assert "hidden" not in ended.error


def test_status_and_headers_are_shown_beside_the_output(perform, url):
    ended = perform(step(f"GET {url}/", "{silent: false}"))
    assert ended.err.startswith("HTTP 200 OK\n")
    assert "X-Two: a" in ended.err
    assert json.loads(ended.out)
    debug = perform(step(f"GET {url}/", "{debug: true, headers: {Authorization: Basic hidden}}"))
    assert "> Authorization: ..." in debug.err
    assert "hidden" not in debug.err


def test_the_whole_answer_as_json(perform, url):
    told = json.loads(perform(step(f"GET {url}/x", "{json: true}")).out)
    assert told["status_code"] == 200
    assert told["headers"]["X-Two"] == ["a"]
    assert told["body"]["path"] == "/x"


def test_answers_in_chunks_stream(perform, url):
    out = perform(step(f"GET {url}/chunks")).out
    assert out.splitlines() == [str(number) for number in range(200) for _ in range(50)]


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [("POST", 307, "POST"), ("PUT", 308, "PUT"), ("POST", 302, "GET"), ("PUT", 301, "GET"), ("DELETE", 303, "GET")],
)
def test_redirections_of_all_methods_are_followed(perform, url, method, status, then):
    """307 and 308 ask for the same again at another place; the others for what is to be read there."""
    body = "{body: all of it, headers: {X-Own: o}}" if method != "DELETE" else "{headers: {X-Own: o}}"
    asked = json.loads(perform(step(f"{method} {url}/moved{status}", body)).out)
    assert (asked["method"], asked["path"], asked["headers"]["x-own"]) == (then, "/here", "o")
    assert asked["body"] == ("all of it" if then == method else "")
    assert ("content-type" in asked["headers"]) is (then == method)


def test_who_asks_for_the_head_gets_no_body_behind_a_redirection(perform, url):
    ended = perform(step(f"HEAD {url}/moved", "{silent: false}"))
    assert (ended.out, ended.error) == ("", "")
    assert ended.err.startswith("HTTP 200 OK")


def test_a_redirection_in_a_circle_is_said_on_one_line(perform, url):
    ended = perform(step(f"GET {url}/moved", "{headers: {X-To: /moved}}"))
    assert ended.error == f"GET {url}/moved answered 302 and leads in a circle, or too far: Found."


def test_credentials_do_not_follow_to_another_server(perform, servers):
    """Who controls one server must not get at the token for another one by sending the client there."""
    here, there = servers
    config = f'{{headers: {{Authorization: Bearer t, X-To: "{there}/x", X-Own: o}}}}'
    moved = json.loads(perform(step(f"GET {here}/moved", config)).out)
    assert moved["path"] == "/x"
    assert "authorization" not in moved["headers"]
    same = json.loads(perform(step(f"GET {here}/moved", "{headers: {Authorization: Bearer t}}")).out)
    assert same["headers"]["authorization"] == "Bearer t"
    ended = perform(step(f"GET {here}/moved", "{headers: {X-To: 'ftp://me:secret@127.0.0.1/x'}}"))
    assert ended.error == "The server leads to 'ftp://127.0.0.1/x', which is no address for HTTP."
    ended = perform(step(f"GET {here}/moved", "{headers: {X-To: 'file:///etc/passwd'}}"))
    assert "is not allowed" in ended.error
    assert "root:" not in ended.out


def test_what_goes_wrong_on_the_way_is_said(perform, url):
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    assert perform(step(f"GET http://127.0.0.1:{port}/")).error == (
        f"GET http://127.0.0.1:{port}/ cannot be reached: Connection refused."
    )
    assert "96 bytes before the end" in perform(step(f"GET {url}/broken")).error
    assert (
        "has not answered within 0.2 s. Raise `timeout`" in perform(step(f"GET {url}/late", "{timeout: 200ms}")).error
    )
    assert perform(step(f"GET {url}/garbage")).error.endswith("the connection broke: BadStatusLine: hello there")
    assert "must be a port" in perform(step("GET http://127.0.0.1:${WHO}/")).error


def test_what_must_not_be_in_a_header_is_named_and_the_rest_not_shown(perform, url):
    """A token that ends with a newline is still one that others must not read."""
    ended = perform(step(f"GET {url}/", "{headers: {A: '${TOKEN}'}}", 'env: [TOKEN: "Bearer hidden\\n"]'))
    assert ended.error.endswith(r"the header 'A' has '\n' in it, which no header can have; leave it out, or encode it.")
    assert "hidden" not in ended.error
    ended = perform(step(f"GET {url}?key=${{WHO}}"), ["WHO='hid den'"])
    assert ended.error == f"GET {url} cannot be asked: the address has ' ' in it; write %20 in its place."


def test_an_encoding_that_nobody_knows_is_taken_for_utf_8(perform, url):
    assert json.loads(perform(step(f"GET {url}/klingon", "{json: true}")).out)["body"] == "\u00e9"


def test_who_logs_in_may_stand_in_the_address(perform, url):
    """As with curl: the name and the password go in a header, to that server alone, and into no message."""
    address = url.replace("://", "://me:p%40ss@")
    asked = json.loads(perform(step(f"GET {address}/")).out)
    assert asked["headers"]["authorization"] == "Basic bWU6cEBzcw=="
    assert asked["headers"]["host"] == url.partition("://")[2]
    asked = json.loads(perform(step(f"GET {address}/", "{headers: {authorization: mine}}")).out)
    assert asked["headers"]["authorization"] == "mine"
    assert "cannot be asked" in perform(step("GET http://[/")).error
    assert perform(step(f"GET {address}/refused")).error.startswith(f"GET {url}/refused answered 403")


@pytest.mark.parametrize(
    ("params", "config", "message"),
    [
        ("a b", "{}", "the address has ' ' in it; write %20 in its place."),
        ("\u00e9", "{}", "the address has '\u00e9' in it; write %C3%A9 in its place."),
        ("x", "{headers: {A: '${SNOW}'}}", "the header 'A' has '\u2603' in it, which no header can have"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_remedy(perform, url, params, config, message):
    ended = perform(step(f"GET {url}/${{WHO}}", config, "env: [SNOW: \u2603]"), [f"WHO='{params}'"])
    assert message in ended.error
    assert not ended.retryable


def test_a_late_step_is_stopped(perform, url):
    ended = perform(step(f"GET {url}/late", more="timeoutSec: 0.5"))
    assert "0.5" in ended.error


def test_secrets_are_masked_in_output_and_error(perform, url, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cr3t-token")
    secret = "secrets: [{name: T, provider: env, key: TOKEN}]"
    ended = perform(secret + f"\nsteps: [{{type: http, command: 'POST {url}/', config: {{body: 'x ${{T}}'}}}}]")
    assert json.loads(ended.out)["body"] == "x *******"
    ended = perform(secret + f"\nsteps: [{{type: http, command: 'GET {url}/refused/${{T}}'}}]")
    assert "s3cr3t" not in ended.error + ended.out + ended.err
    ended = perform("params: [H: '[bad']\nsteps: [{type: http, command: 'GET http://me:s3cr3t@${H}/?key=s3cr3t'}]")
    assert ended.error.startswith("GET http://[bad/ cannot be asked")
    ended = perform("params: [U: 'ftp://me:s3cr3t@x/']\nsteps: [{type: http, command: 'GET $U'}]")
    assert "s3cr3t" not in ended.error


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: http}", "a step of type http needs an address; write command: GET https://..."),
        ("{type: http, command: GET ftp://x}", "the address must begin with http:// or https://, and it is 'ftp://x'"),
        ("{type: http, command: GET ftp://me:secret@x/}", "and it is 'ftp://x/'"),
        (
            "{type: http, command: GET http://x, config: {timeout: soon}}",
            "'timeout' must be seconds, or text such as 30s",
        ),
        (
            "{type: http, command: GET http://x, config: {bdy: a}}",
            "unknown setting 'bdy' of a step of type http. Did you mean 'body'?",
        ),
        (
            "{type: http, command: GET http://x, script: b, config: {body: a}}",
            "one body, and this one has `body` and `script`",
        ),
        ("{type: http, command: GET http://x/a b}", "the address has ' ' in it; write %20 in its place"),
        ("{type: http, command: GET http://x/, config: {headers: {A: \u2603}}}", "the header 'A' has '\u2603' in it"),
        ("{type: http, command: [GET http://x, GET http://y]}", "a step of type http makes one request"),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
