"""Kinds of values that a setting may be: what each is called, how it is read, and what it is in a JSON schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_DATABASE = re.compile(r"postgres(?:ql)?://.+")
_LONGEST = 500
# More than that no database counts.
_MOST = (1 << 63) - 1


class Kind(NamedTuple):
    """What a setting may be.

    Args:
        wanted: in words, for messages: "a whole number".
        read: text -> value; a ValueError says that it is none.
        schema: the same as JSON schema.
        metavar: what stands behind a flag in its help; nothing for a flag that takes no value.
        many: whether it may be said several times.
        choices: the values that there are, where these are few.
        separator: what stands between several in one text.
    """

    wanted: str
    read: Callable[[str], Any]
    schema: dict[str, Any]
    metavar: str = "TEXT"
    many: bool = False
    choices: tuple[str, ...] = ()
    separator: str = ""


def is_text(word: str) -> bool:
    """Whether a word of the command line or of the environment is text, and not bytes that are no UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(text: str) -> str:
    if not is_text(text):
        raise ValueError
    return text


def _flag(text: str) -> bool:
    try:
        return {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }[text.strip().lower()]
    except KeyError:
        raise ValueError from None


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return min(number, _MOST)


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65_536:
        raise ValueError
    return number


def _host(text: str) -> str:
    if ":" in text:
        from ipaddress import IPv6Address

        return str(IPv6Address(text.strip("[]")))
    if not text or re.search(r"[\s,/@\[\]\\]", text):
        raise ValueError
    return text


def _seconds(text: str) -> float:
    from dagrid.config.times import duration

    return duration(text)


def _moment(text: str) -> str:
    from dagrid.config.times import moment

    moment(text)
    return text


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = _text(text).partition("=")
    if not separator or not name:
        raise ValueError
    return name, value


def _label(text: str) -> tuple[str, str]:
    name, value = _pair(text)
    if not text.isprintable() or (name, value) != (name.strip(), value.strip()):
        raise ValueError
    return name, value


def _worker(text: str) -> str:
    name = text.strip()
    if not name or not name.isprintable() or len(name) > _LONGEST:
        raise ValueError
    return name


def _amount(text: str) -> tuple[str, float]:
    name, value = _pair(text)
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return name, number


def _number_of(text: str) -> tuple[str, int]:
    name, value = _pair(text)
    return name, _count(value)


def _some(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _database(text: str) -> str:
    if not _DATABASE.fullmatch(_text(text)):
        raise ValueError
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError
    return text


TEXT = Kind("text in UTF-8", _text, {"type": "string"})
NAME = Kind(
    "a name of at most 40 letters, digits, '_', '.' and '-'",
    _name,
    {"type": "string", "pattern": f"^{_NAME.pattern}$"},
    "NAME",
)
DATABASE = Kind(
    "a PostgreSQL database, as postgresql://user@host/database (where runs are kept in a folder, that is the home)",
    _database,
    {"type": "string", "pattern": f"^{_DATABASE.pattern}$"},
    "URL",
)
PATH = Kind("a path", _some, {"type": "string"}, "PATH")
HOST = Kind(
    "the name or the address of a machine alone (its port is a setting of its own, and TLS is meant by --worker.tls-ca)",
    _host,
    {"type": "string"},
    "HOST",
)
WORKER = Kind(
    f"a name in one line of at most {_LONGEST} characters (left out, it is made of the host and the number of the process)",
    _worker,
    {"type": "string"},
    "NAME",
)
FLAG = Kind("true or false", _flag, {"type": "boolean"}, "")
COUNT = Kind("a whole number from 0 up", _count, {"type": "integer", "minimum": 0}, "NUMBER")
PORT = Kind("a port from 1 to 65535", _port, {"type": "integer", "minimum": 1, "maximum": 65_535}, "PORT")
WHOLE = Kind("a whole number", int, {"type": "integer"}, "NUMBER")
DURATION = Kind("a time such as 90s, 30m, 12h or 7d", _seconds, {"type": ["string", "number"]}, "TIME")
MOMENT = Kind("a day, or a day and a time, such as 2026-01-31T08:00", _moment, {"type": "string"}, "DAY")
TEXTS = Kind("text", str, {"type": "array", "items": {"type": "string"}}, "TEXT", many=True)
PATHS = Kind("a path", _some, {"type": "array", "items": {"type": "string"}}, "PATH", many=True)


def _by_name(wanted: str, read: Callable[[str], Any], metavar: str, items: dict[str, Any], type_: str) -> Kind:
    """Return the kind of several NAME=value, which a file has as texts or as a mapping to values of a JSON type."""
    schema = {"type": ["array", "object"], "items": items, "additionalProperties": {"type": type_}}
    return Kind(wanted, read, schema, metavar, many=True, separator=",")


AMOUNTS = _by_name("NAME=number greater than 0", _amount, "NAME=NUMBER", {"type": "string"}, "number")
COUNTS = _by_name("NAME=whole number", _number_of, "NAME=NUMBER", {}, "integer")
LABELS = _by_name(
    "NAME=value in one line with no blank beside the =", _label, "NAME=VALUE", {"type": "string"}, "string"
)
PAIRS = Kind("NAME=value", _pair, {"type": "array", "items": {"type": "string"}}, "NAME=VALUE", many=True)


def one_of(*choices: str, many: bool = False) -> Kind:
    """Return the kind of a setting that is one of these words, or some of them."""

    def read(text: str) -> str:
        word = text.strip().lower()
        if word not in choices:
            raise ValueError
        return word

    schema: dict[str, Any] = {"enum": list(choices)}
    return Kind(
        f"one of {', '.join(choices)}",
        read,
        {"type": "array", "items": schema} if many else schema,
        "|".join(choices) if len(choices) < 6 else "WORD",
        many,
        choices,
        "," if many else "",
    )
