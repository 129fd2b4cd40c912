"""The backend that the guide teaches passes the suite that the guide recommends: a lesson that is wrong is copied."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from textwrap import indent
from typing import Any

import dagrid

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


def taught() -> Any:
    """Return the suite as the guide writes it, for the backend as the guide writes it."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": __name__, "threading": threading, "DAG": dagrid.DAG, "Node": dagrid.Node}
    for block in blocks:
        if "OneThread" in block:
            exec(block, names)
    return names["TestOneThread"]


TestOneThread = taught()


def test_what_the_guide_shows_of_an_example_is_in_it() -> None:
    """An excerpt that the example has moved away from teaches what nobody runs."""
    blocks = re.findall(
        r"^```python no-run\n# (\S+)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert blocks
    for file, excerpt in blocks:
        text = (GUIDE.parent.parent / file).read_text(encoding="utf-8")
        assert any(indent(excerpt, " " * depth) in text for depth in (0, 4, 8)), f"{file} has no longer:\n{excerpt}"
