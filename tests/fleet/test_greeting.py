"""Who calls and who is called show each other that they hold the signing key before anything is said that matters."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

import dagrid
from dagrid import DAG, Node
from dagrid.errors import BackendUnreachableError, FleetError, FleetKeyError, FleetRefusedError, InvalidSettingError
from dagrid.execution.backends.cluster import calling, session
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.ledger import PROTOCOL
from dagrid.execution.backends.cluster.listener import is_public
from dagrid.execution.backends.cluster.tls import CallerTLS
from tests.fleet.wire import Run, Stranger, Worker, hub, to
from tests.service.processes import until

KEY = b"a key that both sides hold"


@pytest.mark.parametrize("key", [None, KEY])
def test_a_worker_is_welcome_and_given_work(key: bytes | None) -> None:
    with hub(key=key) as coordinator, Worker(to(coordinator, key=key), labels={"gpu": "true"}):
        run = Run()
        run.line = coordinator.borrow(run.opening(), run.tells.add)
        joined = run.joined()
        assert dict(joined.labels) == {"gpu": "true"}
        run.assign(joined, pb.Call(attempt=1, arguments=b"value"))
        assert run.ends(1)[1].value == b"value"
        run.close()


@pytest.mark.parametrize("key", [None, KEY])
def test_a_run_elsewhere_is_welcome_too(key: bytes | None) -> None:
    with hub(key=key) as coordinator, Worker(to(coordinator, key=key)):
        run = Run()
        run.line = borrow(to(coordinator, key=key), run.reopen, run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1, arguments=b"value"))
        assert run.ends(1)[1].value == b"value"
        run.close()


@pytest.mark.parametrize("python", ["2.7", ""])
def test_a_run_whose_functions_nobody_can_perform_waits_and_says_why(python: str, caplog, monkeypatch) -> None:
    """A worker of another Python has joined, and is of no use; or there is none at all."""
    monkeypatch.setattr(session, "CALM", 0.1)
    mine = ".".join(map(str, sys.version_info[:2]))
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), hub() as coordinator, ExitStack() as there:
        if python:
            there.enter_context(Worker(to(coordinator), python=python)).events.wait(lambda found: "welcome" in found)
        run = DAG([Node("n", os.getpid)]).start(backend=f"grpc://127.0.0.1:{coordinator.port}", progress=False)
        why = f": 'w1' cannot perform it, for it has Python 2.7, and the functions of this run are of Python {mine}"
        words = f"waits for a worker{why if python else ', and there is none'}"
        there.callback(run.wait)
        there.callback(run.cancel)
        until(lambda: len([record for record in caplog.records if words in record.message]) == 2)  # there, and here
        until(lambda: (why if python else ": none has joined yet") in run.explain("n"))


@pytest.mark.parametrize(
    ("theirs", "mine", "why"),
    [
        (KEY, None, "wants to see a signing key"),
        (KEY, b"another", "has another signing key"),
        (None, KEY, "does not prove that it holds the signing key"),
    ],
)
def test_keys_that_differ_end_the_try_with_the_reason(
    theirs: bytes | None, mine: bytes | None, why: str, caplog
) -> None:
    """Trying again would not help: the worker ends, and the run is told; both hear what to do."""
    with hub(key=theirs) as coordinator:
        worker = Worker(to(coordinator, key=mine))
        with pytest.raises(FleetKeyError, match=why):
            raise worker.error()
        worker.close()
        run = Run()
        line = borrow(to(coordinator, key=mine), run.reopen, run.tells.add)
        assert (
            why in run.tells.wait(lambda found: [tell for tell in found if tell.HasField("refusal")])[0].refusal.reason
        )
        assert isinstance(line.error, FleetKeyError)
        assert coordinator.workers() == []


def test_the_coordinator_too_says_who_has_another_key_and_says_it_once(caplog) -> None:
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), hub(key=KEY) as coordinator:
        for _ in range(5):
            worker = Worker(to(coordinator, key=b"another"))
            worker.error()
            worker.close()
        assert len(re.findall("does not hold the signing key", caplog.text)) == 1


def test_without_the_key_nothing_is_given(caplog) -> None:
    """A stranger that skips the proof, or guesses one, hears nothing but the challenge and the refusal."""
    for proof in (b"", bytes(32)):
        with hub(key=KEY) as coordinator, Stranger(coordinator.port) as stranger:
            stranger.say(pb.Up(hello=pb.Hello(id="w", slots=1, protocol=PROTOCOL, nonce=bytes(32))))
            stranger.say(pb.Up(proof=pb.Proof(proof=proof), drained=True))
            first, second = stranger.hear(), stranger.hear()
            assert first is not None
            assert [field.name for field, _ in first.ListFields()] == ["challenge"]
            assert second is not None
            assert [field.name for field, _ in second.ListFields()] == ["refusal"]
            assert stranger.hear() is None
            assert coordinator.workers() == []


def test_a_nonce_that_is_none_is_refused() -> None:
    """Else who recorded a greeting could have the coordinator say the same again."""
    with hub(key=KEY) as coordinator, Stranger(coordinator.port) as stranger:
        stranger.say(pb.Up(hello=pb.Hello(id="w", slots=1, protocol=PROTOCOL)))
        down = stranger.hear()
        assert down is not None
        assert "signing key" in down.refusal.reason


def test_a_recorded_stream_does_not_count_again() -> None:
    """The coordinator draws a nonce for each stream."""
    with hub(key=KEY) as coordinator:
        with Stranger(coordinator.port) as once:
            once.greet(KEY, "w")
            assert once.hear() is not None
        with Stranger(coordinator.port) as again:
            for raw in once.sent:
                again.send(raw)
            while (down := again.hear()) is not None:
                assert not down.HasField("welcome")


def test_a_worker_of_another_protocol_is_told_both_versions() -> None:
    with hub(version="1.2.3") as coordinator:
        worker = Worker(to(coordinator), protocol=99, version="9.9.9")
        error = worker.error()
        assert isinstance(error, FleetRefusedError)
        assert error.final
        assert "1.2.3" in str(error)
        assert "9.9.9" in str(error)
        worker.close()


def test_a_run_of_another_protocol_is_told_both_versions(monkeypatch) -> None:
    """Whoever calls from a script says what it is of, as a worker does."""
    monkeypatch.setattr(session, "PROTOCOL", 99)
    with ClusterBackend.listening() as listening:
        both = rf"protocol {PROTOCOL} \(dagrid {dagrid.__version__}\).*protocol 99 \(dagrid {dagrid.__version__}\)"
        with (
            ClusterBackend(f"grpc://127.0.0.1:{listening.port}") as backend,
            pytest.raises(FleetRefusedError, match=both),
        ):
            DAG([Node("a", int)]).run(backend=backend)


def test_other_words_are_another_protocol() -> None:
    """Who does not know a word passes over it: a worker that did not say whose large values it brought brought none. Whoever
    changes fleet.proto, or what it means, changes PROTOCOL, so that the two sides are told instead, and then this test.
    """
    said = Path(calling.__file__).with_name("fleet.proto").read_text()
    words = " ".join(re.sub(r"//.*", "", said).split())
    assert (PROTOCOL, sha256(words.encode()).hexdigest()[:12]) == (4, "4a5881ae5155")


def test_a_second_worker_of_the_same_id_waits_until_the_first_one_leaves(caplog) -> None:
    """It may be the first one's successor, so it tries again; that is said once."""
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), hub() as coordinator:
        first = Worker(to(coordinator))
        first.events.wait(lambda found: "welcome" in found)
        with Worker(to(coordinator), incarnation="another") as second:
            second.events.wait(lambda found: found.count("failed") > 2)
            assert "welcome" not in second.events.all
            first.say(pb.Up(drained=True))
            first.close()
            second.events.wait(lambda found: "welcome" in found)
        mine = [record for record in caplog.records if record.message.startswith("There is a worker")]
        assert len(mine) == 1


def test_nobody_at_the_address_is_said_with_it() -> None:
    """A script whose coordinator is not there hears so, and does not wait for ever."""
    run = Run()
    line = borrow(Address("127.0.0.1", 1), run.reopen, run.tells.add, patience=0.0)
    run.tells.wait(lambda found: [tell for tell in found if tell.HasField("refusal")])
    with pytest.raises(BackendUnreachableError, match=r"grpc://127\.0\.0\.1:1 does not answer: Connection refused"):
        raise line.error or AssertionError
    line.close()


def test_what_is_no_coordinator_is_said_to_be_none() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    run = Run()
    line = borrow(Address("127.0.0.1", port), run.reopen, run.tells.add)
    run.tells.wait(lambda found: [tell for tell in found if tell.HasField("refusal")])
    with pytest.raises(FleetError, match="is not a coordinator"):
        raise line.error or AssertionError
    line.close()
    server.stop(None).wait()


def test_addresses() -> None:
    assert Address.parse("grpc://host") == Address("host", 50055)
    assert Address.parse("grpcs://[::1]:5", key=KEY) == Address("::1", 5, CallerTLS(), KEY)
    assert str(Address.parse("grpcs://[::1]:5")) == "grpcs://[::1]:5"


@pytest.mark.parametrize(
    "text", ["host:1", "http://host:1", "grpc://", "grpc://host:port", "grpc://host:1/path", "grpc://host:99999"]
)
def test_what_is_no_address_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidSettingError, match="grpc://host:port"):
        Address.parse(text)


@pytest.mark.parametrize(
    "text", ["GRPC://HOST", "grpc://host/", "grpc://host:", " grpc://host:50055\n", "Grpc://Host//"]
)
def test_an_address_is_read_however_it_is_written(text: str) -> None:
    """Capitals, a slash at its end and blanks around it mean nothing, as in any other URL that one copies."""
    assert Address.parse(text) == Address("host", 50055)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "grpc://host:0",
            "grpc:// host:1",
            "grpc://ho st:1",
            "grpc://ho\nst:1",
            "grpc://[zz]:1",
            "grpc://::1",
            "grpc://::1:5",
        ),
        *("grpc://host:1#x", "grpc://one,two:1", "grpc://host\\x:1", "grpc://host:1?x=1", ""),
    ],
)
def test_what_cannot_be_called_is_refused_before_it_is_called(text: str) -> None:
    """It was called for ten seconds, under a name that nobody has, or was an error of Python's."""
    with pytest.raises(InvalidSettingError, match=r"grpc://host:port.*\[::1\]"):
        Address.parse(text)


def test_a_coordinator_listens_at_what_is_a_port() -> None:
    """Port 70000 was taken for 4464, of which no worker knew."""
    for port in (70_000, 65_536, -1):
        with pytest.raises(InvalidSettingError, match="from 0 to 65535"):
            Hub(port=port)


def test_a_coordinator_listens_at_an_address_in_brackets() -> None:
    """As it stands in a URL. `localhost` is this machine alone, also in capitals."""
    with hub(host="[::1]") as coordinator, Worker(Address("::1", coordinator.port)) as worker:
        worker.events.wait(lambda found: "welcome" in found)
    assert not is_public("LOCALHOST")


@pytest.mark.parametrize("tls", [None, CallerTLS()])
@pytest.mark.parametrize("answers", ["accepted", "full"])
def test_who_does_not_answer_is_not_said_to_know_no_encryption(
    tls: CallerTLS | None, answers: str, monkeypatch
) -> None:
    """A firewall that drops what is sent, or a machine that hangs: who looks for a fault in the certificates finds none."""
    monkeypatch.setattr(calling, "CONNECT_MS", 200)
    with ExitStack() as closing:
        silent = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if answers == "full" else 9))
        for _ in range(3 if answers == "full" else 0):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        run = Run()
        line = borrow(Address("127.0.0.1", silent.getsockname()[1], tls), run.reopen, run.tells.add, patience=0.0)
        run.tells.wait(lambda found: [tell for tell in found if tell.HasField("refusal")])
    assert isinstance(line.error, BackendUnreachableError)
    assert "does not answer" in str(line.error)
    line.close()


def test_certificates_for_plain_text_are_a_mistake() -> None:
    with pytest.raises(InvalidSettingError, match="grpcs://"):
        Address.parse("grpc://host", CallerTLS())


def test_an_empty_key_is_a_mistake() -> None:
    """It would be one that everybody holds."""
    for make in (lambda: Hub(key=b""), lambda: Address("host", key=b"")):
        with pytest.raises(InvalidSettingError, match="empty"):
            make()
