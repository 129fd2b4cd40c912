"""Secrets taken out of text and out of streams of bytes, also where a stream is cut in the middle of one. It knows no process."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "*******"
_MASK = MASK.encode()
_PASSWORD = re.compile(r"(?<=://)([^:/?#@]*):(.*)@", re.DOTALL)
_SETTING = re.compile(r"(?<=[?&]password=)[^&]*")
_KEY = re.compile(r"([?&](?:signing_)?key=)[^&]*")


class Masker:
    """Takes secrets out of a stream of bytes, which comes in pieces.

    What comes out, put together, is what one replacement over the whole stream gives: at each place the longest secret that
    begins there is replaced, from left to right. Only what may be the beginning of a secret is held back until more comes, so
    no more is kept than the longest secret is long.

    Args:
        secrets: texts (as UTF-8) or bytes; empty ones are ignored.
    """

    __slots__ = ("_held", "_longest", "_pattern", "_secrets")

    def __init__(self, secrets: Iterable[str | bytes]) -> None:
        found = {one.encode("utf-8", "surrogateescape") if isinstance(one, str) else bytes(one) for one in secrets}
        self._secrets = sorted(found - {b""}, key=len, reverse=True)
        self._longest = len(self._secrets[0]) if self._secrets else 0
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)) if self._secrets else b"(?!)")
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece and return what can be said by now."""
        if not self._longest:
            return data
        data = self._held + data
        done: list[bytes] = []
        position, undecided = 0, self._undecided(data, 0)
        while (match := self._pattern.search(data, position)) is not None and match.start() < undecided:
            done += data[position : match.start()], _MASK
            position = match.end()
            if position > undecided:
                undecided = self._undecided(data, position)
        done.append(data[position:undecided])
        self._held = data[undecided:]
        return b"".join(done)

    def end(self) -> bytes:
        """Return what was held back: nothing more comes."""
        held, self._held = self._held, b""
        return self._pattern.sub(_MASK, held) if held else held

    def _undecided(self, data: bytes, position: int) -> int:
        """Return the first place from which on all that there is may be the beginning of a longer secret."""
        for start in range(max(position, len(data) - self._longest + 1), len(data)):
            tail = data[start:]
            for secret in self._secrets:
                if len(secret) <= len(tail):
                    break
                if secret.startswith(tail):
                    return start
        return len(data)


def masked(text: str, secrets: Iterable[str | bytes]) -> str:
    """Return a text with every secret replaced by `*******`, and by `?` what stands for no character, such as half of a pair."""
    if not secrets and text.isascii():
        return text
    masker = Masker(secrets)
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "replace")
    return (masker.feed(data) + masker.end()).decode("utf-8", "surrogateescape")


def without_password(url: str) -> str:
    """Return a URL as it may be shown: with `***` in place of a password or a key."""
    return _KEY.sub(r"\1***", _SETTING.sub("***", _PASSWORD.sub(r"\1:***@", url)))


def passwords(url: str) -> set[str]:
    """Return what is secret in a URL: its passwords, as they stand there and as they are meant; nothing if there are none.

    A password that is another word of the URL too, such as the name of the user, is no secret by itself, and stands in what a
    program writes for other reasons: it is returned with what stands around it.
    """
    if "://" not in url:
        return set()
    from urllib.parse import unquote  # few texts have a URL in them

    words = set(re.split(r"[:/?#@&=,]+", without_password(url)))
    match = _PASSWORD.search(url)
    said = {(one, f":{one}@") for one in ((match[2], match[2].partition("@")[0]) if match else ())}
    said |= {(one, f"password={one}") for one in _SETTING.findall(url)}
    found: set[str] = set()
    for one, around in said:
        found |= {around} if {one, unquote(one)} & words else {one, unquote(one)}
    return found - {""}
