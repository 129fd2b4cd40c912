"""What functions of steps write: their standard output, as bytes. It runs in warm processes and knows no step."""

from __future__ import annotations

import sys
from typing import Any


def emit(data: bytes | str) -> None:
    """Write to the standard output, all of it; names of files that are no UTF-8 as the bytes that they are."""
    left = memoryview(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
    stream: Any = sys.stdout.buffer
    while left:
        left = left[stream.write(left) :]


def note(text: str) -> None:
    """Write a line to the standard error."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
