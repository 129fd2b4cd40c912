"""A collector of traces on this machine: takes what is sent by OTLP over HTTP, and tells it in plain values."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Span:
    name: str
    trace: str
    id: str
    parent: str
    began: float
    ended: float
    status: str
    why: str
    attributes: dict
    events: list
    resource: dict = field(default_factory=dict)


class Sink:
    def __init__(self, address):
        self.url = f"http://{address[0]}:{address[1]}"
        self.requests = []
        self.spans = []

    def take(self, path, headers, data):
        self.requests.append((path, headers))
        for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.spans.append(
                        Span(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano / 1e9,
                            span.end_time_unix_nano / 1e9,
                            ("unset", "ok", "error")[span.status.code],
                            span.status.message,
                            _plain(span.attributes),
                            [(event.name, _plain(event.attributes)) for event in span.events],
                            _plain(of_resource.resource.attributes),
                        )
                    )

    def named(self, name):
        """Return the spans of a name, the first to begin first."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began)

    def one(self, name):
        (span,) = self.named(name)
        return span


def _plain(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def sink():
    """A collector that answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # the name of the library
            data = self.rfile.read(int(self.headers["Content-Length"]))
            made.take(self.path, {name.lower(): value for name, value in self.headers.items()}, data)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Sink(server.server_address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def dead(kind):
    """An address where nobody listens ("refuses"), or where somebody listens who never answers ("hangs")."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == "hangs":
            listening.listen()
        yield "http://{}:{}".format(*listening.getsockname())
