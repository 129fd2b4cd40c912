"""TLS, with certificates on one side or on both; who has the wrong ones is told so, and is not let in."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from dagrid.errors import FleetCertificateError, FleetRefusedError, InvalidSettingError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.execution.backends.cluster.calling import Address
from dagrid.execution.backends.cluster.dialer import borrow
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.execution.backends.cluster.tls import CallerTLS, Claims, ListenerTLS
from tests.fleet.papers import Authority
from tests.fleet.wire import Run, Worker, hub, to


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


def refusal(coordinator: Hub, tls: CallerTLS | None) -> str:
    """Return why a run is not let in."""
    run = Run()
    line = borrow(to(coordinator, tls=tls), run.reopen, run.tells.add)
    run.tells.wait(lambda found: [tell for tell in found if tell.HasField("refusal")])
    with pytest.raises((FleetCertificateError, FleetRefusedError)) as caught:
        raise line.error or AssertionError
    line.close()
    return str(caught.value)


@pytest.mark.parametrize("mutual", [False, True])
def test_workers_and_runs_come_in_encrypted(authority: Authority, mutual: bool) -> None:
    tls = authority.caller("worker.example") if mutual else authority.caller()
    with hub(tls=authority.listener(mutual=mutual)) as coordinator, Worker(to(coordinator, tls=tls)):
        run = Run()
        run.line = borrow(to(coordinator, tls=tls), run.reopen, run.tells.add)
        run.assign(run.joined(), pb.Call(attempt=1, arguments=b"value"))
        assert run.ends(1)[1].value == b"value"
        run.close()


def test_whom_one_does_not_trust_one_does_not_call(authority: Authority, stranger: Authority) -> None:
    with hub(tls=stranger.listener()) as coordinator:
        assert "is not accepted" in refusal(coordinator, authority.caller())


def test_a_certificate_for_another_name_is_not_accepted(authority: Authority) -> None:
    with hub(tls=authority.listener(name="elsewhere.example")) as coordinator:
        assert "is for another name" in refusal(coordinator, authority.caller())
        elsewhere = dataclasses.replace(authority.caller(), name="elsewhere.example")
        with Worker(to(coordinator, tls=elsewhere)) as worker:
            worker.events.wait(lambda found: "welcome" in found)


def test_an_expired_certificate_of_the_coordinator_is_not_accepted(authority: Authority) -> None:
    with hub(tls=authority.listener(expired=True)) as coordinator:
        assert "expired" in refusal(coordinator, authority.caller())


def test_plain_text_to_tls_and_back_is_told_apart(authority: Authority) -> None:
    with hub(tls=authority.listener()) as coordinator:
        said = refusal(coordinator, None)
        assert "If it speaks TLS, call it so: --worker.tls-ca=FILE" in said
        assert "grpcs://" in said
    with hub() as coordinator:
        said = refusal(coordinator, authority.caller())
        assert "does not speak TLS. Call it in plain text: --worker.insecure" in said


@pytest.mark.parametrize("shown", ["none", "of a stranger", "expired"])
def test_the_coordinator_wants_to_see_a_certificate_that_it_trusts(
    authority: Authority, stranger: Authority, shown: str
) -> None:
    tls = {
        "none": authority.caller(),
        "of a stranger": CallerTLS(authority.file, *stranger.issue("worker", "worker.example")),
        "expired": authority.caller("worker.example", expired=True),
    }[shown]
    with hub(tls=authority.listener(mutual=True)) as coordinator:
        why = refusal(coordinator, tls)
        assert "no certificate was shown" in why if shown == "none" else "the certificate that was shown" in why
        assert coordinator.workers() == []


def test_a_worker_goes_on_trying_with_certificates_that_may_be_renewed(authority: Authority, caplog) -> None:
    """What is expired is replaced some day; a worker must not need to be started again for that, nor fill its log meanwhile."""
    tls = authority.caller("worker.example", expired=True)
    assert tls.certificate is not None
    assert tls.key is not None
    with caplog.at_level(logging.WARNING, "dagrid.fleet"), hub(tls=authority.listener(mutual=True)) as coordinator:
        with Worker(to(coordinator, tls=tls)) as worker:
            worker.events.wait(lambda found: found.count("failed") > 2)
            assert "welcome" not in worker.events.all
            for old, new in zip((tls.certificate, tls.key), authority.issue("renewed", "worker.example"), strict=True):
                new.replace(old)
            worker.events.wait(lambda found: "welcome" in found)
        assert len([each for each in caplog.records if "It is tried again" in each.message]) == 1


def test_the_coordinator_takes_renewed_certificates_without_a_restart(
    authority: Authority, stranger: Authority, caplog
) -> None:
    tls = authority.listener(mutual=True)
    ours, theirs = authority.caller("w.example"), stranger.caller("w.example")
    with (
        caplog.at_level(logging.INFO, "dagrid.fleet"),
        hub(tls=tls) as coordinator,
        Worker(to(coordinator, tls=ours)) as worker,
    ):
        worker.events.wait(lambda found: "welcome" in found)
        refusal(coordinator, theirs)
        renewed = stranger.listener(mutual=True)
        assert tls.ca is not None
        renewed.key.replace(tls.key)
        assert "not accepted" in refusal(coordinator, theirs), "the pair does not fit yet, so the old one stays in use"
        renewed.certificate.replace(tls.certificate)
        shutil.copy(stranger.file, tls.ca)
        with Worker(to(coordinator, tls=theirs), "w2") as second:
            second.events.wait(lambda found: "welcome" in found)
        assert "not accepted" in refusal(coordinator, ours)
        assert "lost" not in worker.events.all, "streams that are there go on"
        assert "have changed" in caplog.text
        assert "stay as they are" in caplog.text


@pytest.mark.parametrize("broken", ["missing", "another's key", "no certificate", "no authority"])
def test_files_that_cannot_be_used_are_named_at_the_start(authority: Authority, tmp_path: Path, broken: str) -> None:
    tls = authority.listener(mutual=True)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    wrong: ListenerTLS = {
        "missing": dataclasses.replace(tls, certificate=tmp_path / "missing.pem"),
        "another's key": dataclasses.replace(tls, key=authority.issue("other", "other.example")[1]),
        "no certificate": dataclasses.replace(tls, certificate=nonsense),
        "no authority": dataclasses.replace(tls, ca=nonsense),
    }[broken]
    named = {"missing": "missing.pem", "another's key": "other.key"}.get(broken, "nonsense.pem")
    with pytest.raises(FleetCertificateError, match=named):
        Hub(port=0, tls=wrong)
    if broken != "no authority":
        run = Run()
        line = borrow(
            Address("127.0.0.1", 1, CallerTLS(tls.ca, wrong.certificate, wrong.key)), run.reopen, run.tells.add
        )
        assert (
            named
            in run.tells.wait(lambda found: [tell for tell in found if tell.HasField("refusal")])[0].refusal.reason
        )
        line.close()


CLAIMS = {
    "gpu.example": Claims(ids=("gpu-*",), labels={"gpu": ("true",), "zone": ("eu-*", "us")}, borrows=False),
    "script": Claims(ids=()),
}


@pytest.mark.parametrize(
    ("names", "common", "id", "labels", "why"),
    [
        (("gpu.example",), None, "gpu-1", {"gpu": "true", "zone": "eu-west"}, ""),
        (("other.example", "gpu.example"), None, "gpu-1", {}, ""),
        (("gpu.example",), None, "cpu-1", {}, "'cpu-1'"),
        (("gpu.example",), None, "gpu-1", {"gpu": "True"}, "gpu=True"),
        (("gpu.example",), None, "gpu-1", {"memory": "64G"}, "memory=64G"),
        (("other.example",), None, "gpu-1", {}, "other.example"),
        (("other.example",), "script", "w", {}, "'w'"),
    ],
)
def test_a_certificate_is_for_certain_ids_and_labels(
    authority: Authority, names: tuple[str, ...], common: str | None, id: str, labels: dict[str, str], why: str
) -> None:
    """Else whoever holds any certificate could have the work that is meant for the machines with the secrets."""
    tls = authority.caller(*names, common=common)
    with hub(tls=authority.listener(mutual=True), claims=CLAIMS) as coordinator:
        worker = Worker(to(coordinator, tls=tls), id, labels)
        if not why:
            worker.events.wait(lambda found: "welcome" in found)
            worker.close()
            return
        with pytest.raises(FleetRefusedError, match=why):
            raise worker.error()
        worker.close()


def test_a_certificate_is_for_workers_or_for_runs(authority: Authority) -> None:
    with hub(tls=authority.listener(mutual=True), claims=CLAIMS) as coordinator:
        assert "not one for who uses the workers" in refusal(coordinator, authority.caller("gpu.example"))
        run = Run()
        line = borrow(
            to(coordinator, tls=authority.caller("script.example", common="script")), run.reopen, run.tells.add
        )
        run.tells.wait(lambda found: [tell for tell in found if tell.HasField("welcome")])
        line.close()


def test_half_a_certificate_is_no_wish_for_plain_text(authority: Authority) -> None:
    """Whoever named one file of three would else find out from those who read along."""
    certificate, key = authority.issue("server", "127.0.0.1")
    halves: list[dict[str, Any]] = [{"tls_cert": certificate}, {"tls_key": key}, {"tls_ca": authority.file}]
    for named in halves:
        with pytest.raises(InvalidSettingError, match="needs a certificate and its key: tls_cert and tls_key"):
            ClusterBackend.listening(**named)


def test_plain_text_at_a_public_address_is_warned_about(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with ClusterBackend.listening(files=[]):
        assert "plain text" not in caplog.text
    certificate, key = authority.issue("server", "127.0.0.1")
    with ClusterBackend.listening("0.0.0.0", tls_cert=certificate, tls_key=key, files=[]):
        assert "plain text" not in caplog.text
    with ClusterBackend.listening("0.0.0.0", files=[]):
        assert "in plain text at 0.0.0.0" in caplog.text


def test_a_file_that_cannot_be_used_is_refused_when_the_backend_is_made(authority: Authority) -> None:
    """It is read anew for each call; but what was never there need not wait for the first one."""
    certificate, _ = authority.issue("client", "worker.example")
    wrong: list[dict[str, Any]] = [{"tls_ca": "/none"}, {"tls_ca": authority.file, "tls_cert": certificate}]
    for named in wrong:
        with pytest.raises(FleetCertificateError, match=r"/none cannot be read|go together"):
            ClusterBackend("grpcs://127.0.0.1", files=[], **named)


def test_a_script_says_what_certificates_are_for(authority: Authority) -> None:
    """As a coordinator does; what cannot be is refused before anybody can call."""
    certificate, key = authority.issue("server", "127.0.0.1")
    tls: dict[str, Any] = {"tls_cert": certificate, "tls_key": key, "tls_ca": authority.file}
    said: dict[str, Any] = {
        "gpu.example": {"ids": ["gpu-*"], "labels": {"gpu": "true", "zone": ["eu-*", "us"]}},
        "script": Claims(),
    }
    with ClusterBackend.listening(files=[], tls_claims=said, **tls) as here:
        assert here.hub is not None
        for name, labels, why in (
            ("gpu-1", {"gpu": "true", "zone": "us"}, ""),
            ("gpu-2", {"zone": "asia"}, "zone=asia"),
        ):
            worker = Worker(to(here.hub, tls=authority.caller("gpu.example")), name, labels)
            if why:
                with pytest.raises(FleetRefusedError, match=why):
                    raise worker.error()
            else:
                worker.events.wait(lambda found: "welcome" in found)
            worker.close()
    with pytest.raises(InvalidSettingError, match=r"unknown field `label`.*write ids, labels and borrows"):
        ClusterBackend.listening(files=[], tls_claims={"gpu.example": {"label": {}}}, **tls)
    with pytest.raises(InvalidSettingError, match="Say who signs them: tls_ca"):
        ClusterBackend.listening(files=[], tls_claims={"gpu.example": {}}, tls_cert=certificate, tls_key=key)
