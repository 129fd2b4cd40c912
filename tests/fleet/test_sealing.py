"""Whoever does not hold the key must not be believed, and what was said once must not count twice."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from dagrid.errors import TamperedError
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.sealing import LIFETIME, NONCE, Opener, Sealer, Side, prove, proves, stream_key

KEY = stream_key(b"secret", "w1", bytes(NONCE), bytes(NONCE))


def ends(key: bytes = KEY, side: Side = Side.CALLER) -> tuple[Sealer, Opener]:
    sealer, opener = Sealer(side), Opener(side)
    sealer.key = opener.key = key
    return sealer, opener


def test_what_is_sealed_is_opened() -> None:
    sealer, opener = ends()
    assert [opener.open(sealer.seal(body, 0.0), 0.0) for body in (b"one", b"", b"three")] == [b"one", b"", b"three"]


@pytest.mark.parametrize(
    "other", [(b"wrong", "w1", 0, 0), (b"secret", "w2", 0, 0), (b"secret", "w1", 1, 0), (b"secret", "w1", 0, 1)]
)
def test_the_key_of_a_stream_is_of_the_signing_key_the_name_and_both_nonces(other: tuple[bytes, str, int, int]) -> None:
    """Else what was recorded of one stream would count on another."""
    signing, name, mine, theirs = other
    assert stream_key(signing, name, bytes([mine] * NONCE), bytes([theirs] * NONCE)) != KEY


def test_a_proof_counts_for_one_side_and_one_greeting() -> None:
    """Else a caller could send the coordinator its own proof back, or somebody could change the labels in a greeting."""
    proof = prove(KEY, Side.COORDINATOR, b"hello")
    assert proves(KEY, Side.COORDINATOR, b"hello", proof)
    assert not proves(KEY, Side.CALLER, b"hello", proof)
    assert not proves(KEY, Side.COORDINATOR, b"hell0", proof)
    assert not proves(KEY, Side.COORDINATOR, b"hello", b"")


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope: pb.Envelope(body=b"other"),
        lambda envelope: pb.Envelope(number=2),
        lambda envelope: pb.Envelope(expires=envelope.expires + 1),
        lambda envelope: pb.Envelope(size=7),
        lambda envelope: pb.Envelope(mac=bytes(32)),
    ],
)
def test_what_was_altered_is_not_opened(change) -> None:
    sealer, opener = ends()
    envelope = sealer.seal(b"body", 0.0)
    envelope.MergeFrom(change(envelope))
    with pytest.raises(TamperedError, match="seal"):
        opener.open(envelope, 0.0)


def test_what_was_seen_is_not_opened_again() -> None:
    sealer, opener = ends()
    envelope = sealer.seal(b"body", 0.0)
    opener.open(envelope, 0.0)
    with pytest.raises(TamperedError, match="repeated or left out"):
        opener.open(envelope, 0.0)


@pytest.mark.parametrize("key", [KEY, b""])
def test_what_was_left_out_is_missed(key: bytes) -> None:
    """Also without a key: a stream with a gap is not one to act on."""
    sealer, opener = ends(key)
    sealer.seal(b"lost", 0.0)
    with pytest.raises(TamperedError, match="left out"):
        opener.open(sealer.seal(b"body", 0.0), 0.0)


def test_what_goes_one_way_is_not_opened_the_other_way() -> None:
    sealer, _ = ends(side=Side.CALLER)
    _, opener = ends(side=Side.COORDINATOR)
    with pytest.raises(TamperedError):
        opener.open(sealer.seal(b"body", 0.0), 0.0)


def test_what_was_held_back_is_not_opened() -> None:
    sealer, opener = ends()
    opener.open(sealer.seal(b"first", 0.0), 0.0)
    with pytest.raises(TamperedError, match="expired"):
        opener.open(sealer.seal(b"second", 0.0), LIFETIME + 1)


@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_clocks_need_not_agree(ahead: float) -> None:
    """A worker whose clock is a day off is a worker; what expires is counted from the greeting."""
    sealer, opener = ends()
    opener.open(sealer.seal(b"first", ahead), 0.0)
    opener.open(sealer.seal(b"second", ahead + 1000), 1000.0)
    with pytest.raises(TamperedError, match="expired"):
        opener.open(sealer.seal(b"third", ahead + 1000), 1000 + LIFETIME + 1)


def test_an_expiry_that_is_no_number_is_not_one() -> None:
    sealer, opener = ends()
    opener.open(sealer.seal(b"first", 0.0), 0.0)
    with pytest.raises(TamperedError, match="expired"):
        opener.open(sealer.seal(b"second", float("nan")), 0.0)


@given(st.binary(max_size=200))
def test_no_bytes_pass_for_an_envelope(raw: bytes) -> None:
    _, opener = ends()
    try:
        envelope = pb.Envelope.FromString(raw)
    except DecodeError:
        return
    with pytest.raises(TamperedError):
        opener.open(envelope, 0.0)
