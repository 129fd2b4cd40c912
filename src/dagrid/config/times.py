"""Times as people write them: spans such as 7d, days and hours such as 2026-01-31T08:00."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def duration(text: str) -> float:
    """Return the seconds of a span such as 90, 90s, 1h30m or 7d.

    Raises:
        ValueError: it is none.
    """
    said = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    parts = _SPAN.findall(said)
    if not parts or "".join(number + unit for number, unit in parts) != said:
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def moment(text: str, where: tzinfo | None = None) -> float:
    """Return the time that a text means, in seconds since 1970: `now`, `today`, `yesterday`, or as ISO 8601 has it.

    Args:
        text: the time.
        where: the zone of days, and of times that say none; None is that of this machine.

    Raises:
        ValueError: it is none.
    """
    said = text.strip()
    now = datetime.now(where)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    at = words.get(said.lower()) or datetime.fromisoformat(said)
    try:
        return (at if at.tzinfo is not None else at.replace(tzinfo=where)).timestamp()
    except OverflowError as error:
        raise ValueError(text) from error


def zone(name: str | None) -> tzinfo | None:
    """Return the time zone of a name, None for that of this machine.

    Raises:
        ValueError: there is none of that name.
    """
    if not name:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(name) from error
