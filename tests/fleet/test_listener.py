"""The port is open to anybody, so anything may come in: it is refused, that is said once, and work goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagrid.errors import BackendError, InvalidSettingError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster import listener
from dagrid.execution.backends.cluster import loop as fleet_loop
from dagrid.execution.backends.cluster.calling import call, converse
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.link import clock
from dagrid.execution.backends.cluster.listener import SERVICE
from tests.fleet.papers import Authority
from tests.fleet.wire import PATIENCE, Run, Stranger, Worker, hub, to

KEY = b"a key that both sides hold"
BURST = int(os.environ.get("DAGRID_FLEET_BURST", "300"))


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Hub]:
    with hub(key=KEY) as made:
        yield made


def works(coordinator: Hub, name: str = "w1") -> None:
    """Assert that a worker is welcome, and work done."""
    with Worker(to(coordinator, key=KEY), name):
        run = Run(f"run of {name}")
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        run.assign(run.joined(name), pb.Call(attempt=1, arguments=b"value"))
        assert run.ends(1)[1].value == b"value"
        run.close()


def test_health_is_told(coordinator: Hub) -> None:
    """What kubernetes and load balancers ask."""
    with grpc.insecure_channel(f"127.0.0.1:{coordinator.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", SERVICE):
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            check(health_pb2.HealthCheckRequest(service="other"), timeout=PATIENCE)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        os.urandom(1000),
    ],
    ids=["http", "tls", "broken http2", "noise"],
)
def test_what_is_not_grpc_is_hung_up_on(coordinator: Hub, raw: bytes, capfd) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", coordinator.port), PATIENCE) as connection:
            connection.sendall(raw)
            with _any_end():
                while connection.recv(4096):
                    pass
    works(coordinator)
    assert capfd.readouterr().err == ""


class _any_end:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, ConnectionError)


def test_noise_on_a_port_with_tls_is_hung_up_on(tmp_path: Path, capfd) -> None:
    tls = Authority(tmp_path / "authority").listener()
    with hub(tls=tls) as coordinator:
        for raw in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000)):
            with socket.create_connection(("127.0.0.1", coordinator.port), PATIENCE) as connection, _any_end():
                connection.sendall(raw)
                while connection.recv(4096):
                    pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("way", ["Work", "Borrow"])
@pytest.mark.parametrize("raw", [b"", b"\xff" * 100, pb.Envelope(number=1, body=b"\xff\xff").SerializeToString()])
def test_what_is_no_envelope_ends_the_stream_and_nothing_else(coordinator: Hub, way: str, raw: bytes) -> None:
    with Stranger(coordinator.port, way) as stranger:
        stranger.send(raw)
        assert stranger.why() != ""
    works(coordinator)


def test_a_first_word_that_does_not_say_who_calls_is_refused(coordinator: Hub) -> None:
    for up in (
        pb.Up(),
        pb.Up(drained=True),
        pb.Up(hello=pb.Hello(slots=1, protocol=PROTOCOL)),
    ):
        with Stranger(coordinator.port) as stranger:
            stranger.say(up)
            down = stranger.hear()
            assert down is not None
            assert down.refusal.final


@pytest.mark.parametrize(
    ("hello", "wrong"),
    [
        *(
            (pb.Hello(id=name), "--worker.id")
            for name in ("two\nlines", "x" * 501, " ", "\u2028", " before", "after ", "\x1b[31m")
        ),
        (pb.Hello(id="w", labels={"gpu": "true", "zone": "a\nb"}), "label 'zone'"),
        (pb.Hello(id="w", labels={"zo\rne": "a"}), r"label 'zo\rne'"),
        (pb.Hello(id="w", labels={" zone": "a"}), "label ' zone'"),
        (pb.Hello(id="w", host="here\nthere"), "host"),
        (pb.Hello(id="w", version="1\n2"), "version"),
    ],
)
def test_what_a_worker_says_of_itself_fits_into_a_line(coordinator: Hub, hello: pb.Hello, wrong: str, caplog) -> None:
    """Else whoever may call writes lines of his own into the log of the coordinator, or has a name that nobody can tell."""
    hello.slots, hello.protocol = 1, PROTOCOL
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), Stranger(coordinator.port) as stranger:
        stranger.say(pb.Up(hello=hello))
        down = stranger.hear()
    assert down is not None
    assert down.refusal.final
    assert wrong in down.refusal.reason
    assert all(record.message.isprintable() for record in caplog.records)


def test_a_run_with_a_name_in_two_lines_is_told_of_in_one(coordinator: Hub, caplog) -> None:
    """A graph may be called anything; what it lacks is one line in the log."""
    with caplog.at_level(logging.WARNING, "dagrid.fleet"):
        run = Run("nameless")
        opening = run.opening()
        opening.name = "two\nlines"
        opening.lacks.add(labels={"gpu": "a\nb"}, node="first")
        run.line = coordinator.borrow(opening, run.tells.add)
        run.tells.wait(lambda tells: any(tell.HasField("welcome") for tell in tells))
        run.close()
        works(coordinator, "after two lines")
    (said,) = [record.message for record in caplog.records if "waits for" in record.message]
    assert said.isprintable()
    assert "two\\nlines" in said


def test_who_says_nothing_is_hung_up_on(monkeypatch) -> None:
    """Else thousands of silent streams could be held open by anybody."""
    monkeypatch.setattr(listener, "PATIENCE", 0.05)
    with hub(key=KEY) as coordinator:
        with Stranger(coordinator.port) as stranger:
            assert stranger.hear() is None
        with Stranger(coordinator.port) as stranger:
            stranger.say(pb.Up(hello=pb.Hello(id="w", slots=1, protocol=PROTOCOL, nonce=bytes(32))))
            assert stranger.hear() is not None
            assert stranger.hear() is None


@pytest.mark.parametrize("how", ["replayed", "altered", "left out", "without a seal", "of another key"])
def test_an_envelope_that_is_not_right_ends_the_stream_and_has_no_effect(coordinator: Hub, how: str, caplog) -> None:
    """Somebody in the middle can break a stream; he cannot have anything done."""
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), Stranger(coordinator.port) as stranger:
        stranger.greet(KEY, how)
        assert stranger.hear() is not None
        said = stranger.say(pb.Up(heartbeat=pb.Heartbeat(load=0.25)))
        bad = stranger.sealer.seal(pb.Up(heartbeat=pb.Heartbeat(load=0.75)).SerializeToString(), clock())
        if how == "replayed":
            stranger.send(said)
        elif how == "altered":
            bad.body = pb.Up(heartbeat=pb.Heartbeat(load=0.5)).SerializeToString()
        elif how == "left out":
            bad = stranger.sealer.seal(bad.body, clock())
        elif how == "without a seal":
            bad.mac = b""
        else:
            stranger.sealer.key = b"another"
            bad = stranger.sealer.seal(bad.body, clock())
        if how != "replayed":
            stranger.send(bad.SerializeToString())
        assert "envelope" in stranger.why().lower()
        (view,) = [view for view in coordinator.workers() if view.id == how]
        assert (view.load, view.connected) == (0.25, False)
    assert len([record for record in caplog.records if "envelope" in record.message.lower()]) <= 1


def test_a_seal_is_wanted_for_every_word_of_the_coordinator_too(coordinator: Hub) -> None:
    """A worker runs what it is told to, so it has to know who tells it: an altered word breaks its stream, and it begins anew."""
    sent: list[pb.Envelope] = []

    class Middle(Worker):
        async def _run(self, address) -> None:
            first = pb.Up(hello=self.hello())
            async with call(address, "Work", first, pb.Down, self.take, self.piece) as (link, _):
                receive = link.receive

                async def altered() -> pb.Envelope | None:
                    envelope = await receive()
                    if envelope is not None:
                        envelope.body = pb.Down(drain=True).SerializeToString()
                        sent.append(envelope)
                    return envelope

                link.receive = altered  # type: ignore[method-assign]
                self._link = link  # type: ignore[assignment]
                self.say(pb.Up(heartbeat=pb.Heartbeat(echo=1)))
                try:
                    await converse(link, self.hear)
                except BaseException as error:
                    self.events.add(error)
                    raise
                finally:
                    self._link = None

    with Middle(to(coordinator, key=KEY), "middle") as worker:
        assert "seal" in str(worker.error())
        assert sent
        assert not worker.downs.all


def test_a_bomb_is_not_unpacked(coordinator: Hub) -> None:
    import zlib

    packed = zlib.compress(bytes(64 * 2**20), 9)
    with Stranger(coordinator.port) as stranger:
        stranger.greet(KEY, "bomber")
        assert stranger.hear() is not None
        for size in (64 * 2**20,):
            stranger.send(stranger.sealer.seal(packed, clock(), size).SerializeToString())
        assert "at most" in stranger.why()
    for size in (1000, 10):
        with Stranger(coordinator.port) as stranger:
            stranger.greet(KEY, "bomber")
            assert stranger.hear() is not None
            stranger.send(
                stranger.sealer.seal(packed if size == 1000 else b"nonsense", clock(), size).SerializeToString()
            )
            assert "compressed" in stranger.why()


@pytest.mark.parametrize("lease", [0.0, 0.5, float("nan")])
def test_a_lease_that_no_worker_could_keep_is_refused(lease: float) -> None:
    with pytest.raises(InvalidSettingError, match="at least 1 s"):
        Hub(lease=lease)


def test_a_heartbeat_that_never_rests_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="more than 0 seconds"):
        Hub(heartbeat=0.0)


def test_a_port_that_is_taken_is_named() -> None:
    with hub() as coordinator, pytest.raises(BackendError, match=f"127.0.0.1:{coordinator.port}"):
        Hub(port=coordinator.port).start()


@pytest.mark.parametrize("kind", ["silent", "noise", "streams"])
def test_a_burst_of_connections_is_survived(coordinator: Hub, kind: str, capfd, caplog) -> None:
    """`make chaos` sends 5,000 of them."""

    async def burst() -> None:
        async def one(number: int) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", coordinator.port)
            if kind == "noise":
                writer.write(os.urandom(100))
            writers.append(writer)

        writers: list[asyncio.StreamWriter] = []
        await asyncio.gather(*(one(number) for number in range(BURST)))
        for writer in writers:
            writer.close()

    with caplog.at_level(logging.WARNING, "dagrid.fleet"), Worker(to(coordinator, key=KEY), "steady") as worker:
        worker.events.wait(lambda found: "welcome" in found)
        if kind == "streams":
            with grpc.insecure_channel(f"127.0.0.1:{coordinator.port}") as channel:
                way: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/Work")
                calls = [way(iter([b"noise"])) for _ in range(BURST)]
                assert all(call.code() is grpc.StatusCode.DATA_LOSS for call in calls)
        else:
            asyncio.run(burst())
        works(coordinator, f"after {kind}")
        assert "lost" not in worker.events.all
    assert len([record for record in caplog.records if "hung up on" in record.message]) <= 1
    assert capfd.readouterr().err == ""


bodies = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda name, slots, protocol, nonce, labels: pb.Up(
            hello=pb.Hello(id=name, slots=slots, protocol=protocol, nonce=nonce, labels=labels)
        ).SerializeToString(),
        st.text(max_size=5),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2),
        st.binary(max_size=40),
        st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    ),
)


@pytest.mark.parametrize("way", ["Work", "Borrow"])
@given(bodies=st.lists(bodies, min_size=1, max_size=4), key=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_greeting_wedges_the_coordinator(way: str, bodies: list[bytes], key: bool, fuzzed: dict[bool, Hub]) -> None:
    """Whatever is in the envelopes: in the end the stream is over, and others are served."""
    coordinator = fuzzed[key]
    with Stranger(coordinator.port, way) as stranger:
        for body in bodies:
            stranger.send(stranger.sealer.seal(body, clock()).SerializeToString())
        stranger.send(b"\xff")
        stranger.why()
    coordinator.workers()


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[dict[bool, Hub]]:
    with hub() as open_one, hub(key=KEY) as closed:
        yield {False: open_one, True: closed}


def test_the_loop_ends_with_the_last_who_uses_it() -> None:
    """No thread is left over from a coordinator that was closed."""
    import threading

    assert fleet_loop.join() is fleet_loop.join()
    fleet_loop.leave()
    fleet_loop.leave()
    with hub():
        pass
    # the module's own coordinators may still be there
    assert len([thread for thread in threading.enumerate() if thread.name == "dagrid-fleet"]) <= 1
