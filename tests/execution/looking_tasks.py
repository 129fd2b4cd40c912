"""Tasks that look at values which may not be there; worker processes import them."""

from __future__ import annotations

from typing import Any

from dagrid.testing.gate import stand


def seen(**values: Any) -> dict[str, Any]:
    return values


def pair(early: Any, late: Any) -> tuple[Any, Any]:
    return early, late


def one() -> int:
    return 1


def two() -> int:
    return 2


def fail() -> None:
    raise ValueError("on purpose")


def held(address: Any) -> str:
    stand(address)
    return "late"
