"""Secrets in streams, wherever the stream is cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrid.masking import MASK, Masker, masked, passwords

few = st.sampled_from([b"a", b"b", b"ab", b"\xff", b"\n"])
pieces = st.lists(few, max_size=12).map(b"".join)


def whole(data, secrets):
    """Return what one replacement over everything gives: the longest secret first, from left to right."""
    found = sorted(filter(None, secrets), key=len, reverse=True)
    return re.sub(b"|".join(map(re.escape, found)), MASK.encode(), data) if found else data


@given(st.lists(pieces, max_size=30), st.lists(pieces, max_size=4))
def test_it_makes_no_difference_where_a_stream_is_cut(stream, secrets):
    """A secret that comes in two reads is as secret as one that comes in one; few letters make it begin and end everywhere."""
    masker = Masker(secrets)
    done = [masker.feed(piece) for piece in stream]
    assert b"".join([*done, masker.end()]) == whole(b"".join(stream), secrets)


@given(st.lists(st.binary(max_size=8), max_size=20), st.lists(st.binary(min_size=1, max_size=5), max_size=3))
def test_no_secret_comes_out_and_nothing_else_is_held_back(stream, secrets):
    """What is held back is shorter than the longest secret, so that a log can be followed while it grows."""
    masker, said, given_so_far = Masker(secrets), b"", b""
    longest = max(map(len, secrets), default=1)
    for piece in stream:
        said += masker.feed(piece)
        given_so_far += piece
        unmasked = whole(given_so_far, secrets)
        assert len(unmasked) - len(said) <= longest + len(MASK)
    said += masker.end()
    rest = said.split(MASK.encode())
    assert not [secret for secret in secrets for part in rest if secret in part]


def test_of_two_secrets_the_longer_one_is_taken():
    """Else the end of a password whose beginning is another password would be readable."""
    masker = Masker(["pass", "password"])
    assert masker.feed(b"pass") == b""
    assert masker.feed(b"word pass.") == MASK.encode() + b" " + MASK.encode() + b"."
    assert masker.end() == b""


def test_texts_are_masked_whatever_letters_they_have():
    """Secrets are compared as UTF-8, and an empty one is none."""
    assert masked("naïve-Schlüssel, ü", ["Schlüssel", ""]) == f"naïve-{MASK}, ü"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://ann:s3sam%40e@host:5432/db", {"s3sam%40e", "s3sam@e"}),
        ("postgresql:///db?user=ann&password=s3%2Fsame&schema=x", {"s3%2Fsame", "s3/same"}),
        ("postgresql://ann:one@host/db?options=a@b", {"one", "one@host/db?options=a"}),
        ("postgresql://dagrid:dagrid@host/db", {":dagrid@"}),
        ("postgresql:///db?user=ann&password=db", {"password=db"}),
        ("postgresql://ann@host/db", set()),
        ("redis://:open@host", {"open"}),
        ("ann:sesame@host", set()),
    ],
)
def test_what_is_secret_in_a_url(url, found):
    """A password as it stands there and as it is meant; one that everybody knows is masked where it is one, and nowhere else."""
    assert passwords(url) == found
