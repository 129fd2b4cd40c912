"""Words for a page: text that cannot become markup, and figures for people. It knows nothing of runs."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from typing import Any

# Characters that XML does not have, halves of surrogate pairs, and those that turn the direction of what follows.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def text(value: str) -> str:
    """Return a text for a page, also between quotes: nothing in it is markup."""
    return html.escape(_UNFIT.sub("\N{REPLACEMENT CHARACTER}", value))


def data(value: Any) -> str:
    """Return JSON that cannot end the element that it stands in."""
    return (
        json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )


def plain(value: str) -> str:
    """Return a text without what a page cannot show."""
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", value)


def word(status: str) -> str:
    """Return a status as it is read."""
    return status.replace("_", " ")


def seconds(value: float) -> str:
    """Return a duration with the unit that suits it."""
    if value < 0.0005:
        return "0" if value <= 0 else f"{value * 1e6:.0f} \N{MICRO SIGN}s"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.3g} s" if value < 99.95 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def columns(value: str) -> int:
    """Return how many letters wide a text is, wide ones counted twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in value)


def shortened(value: str, most: int) -> str:
    """Return a text of so many columns at most; the middle goes, for names differ at both ends."""
    value = " ".join(plain(value).split()) or value
    if columns(value) <= most:
        return value
    head, tail, room, turn = "", "", most - 1, True
    left, right = 0, len(value) - 1
    while left <= right:
        letter = value[left] if turn else value[right]
        room -= columns(letter)
        if room < 0:
            break
        if turn:
            head, left = head + letter, left + 1
        else:
            tail, right = letter + tail, right - 1
        turn = not turn
    return f"{head}\N{HORIZONTAL ELLIPSIS}{tail}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cut(value: str, most: int) -> str:
    """Return a text of about so many letters at most, its beginning and its end."""
    if len(value) <= most:
        return value
    gap = f"\N{HORIZONTAL ELLIPSIS} {len(value) - most:,} letters left out \N{HORIZONTAL ELLIPSIS}"
    return f"{value[: most // 2]}\n{gap}\n{value[-most // 2 :]}"
