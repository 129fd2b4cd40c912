"""Rows of a database printed as they come: JSON, JSON lines, CSV, or a table for people. It knows no database."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

Row = Sequence[Any]
FORMATS = ("jsonl", "json", "csv", "table")
WIDEST = 80
MEASURED = 1000
"""After how many rows a table is printed: the widths of its columns are those of these rows."""
BATCH = 1 << 16


def printed(
    columns: Sequence[str],
    rows: Iterable[Row],
    format: str,
    write: Callable[[bytes], None],
    *,
    headers: bool,
    null: str,
) -> int:
    """Write rows, and return how many there were.

    Args:
        columns: their names.
        rows: any number.
        format: one of `FORMATS`.
        write: takes bytes.
        headers: whether CSV begins with the names of the columns.
        null: what stands for nothing in CSV and in tables.
    """
    makers = {"jsonl": _json_lines, "json": _json, "csv": _csv, "table": _table}
    counted = _Counted(rows)
    held: list[bytes] = []
    size = 0
    for piece in makers[format](columns, counted, headers, null):
        held.append(piece)
        size += len(piece)
        if size >= BATCH:
            write(b"".join(held))
            held, size = [], 0
    write(b"".join(held))
    return counted.count


class _Counted:
    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.count += 1
            yield row


def _encoder() -> msgspec.json.Encoder:
    return msgspec.json.Encoder(decimal_format="number", enc_hook=str)


def _names(columns: Sequence[str]) -> list[str]:
    """Return the names of columns, each another: a second `a` is `a_2`."""
    found: list[str] = []
    for column in columns:
        name, number = column, 2
        while name in found:
            name, number = f"{column}_{number}", number + 1
        found.append(name)
    return found


def _json_lines(columns: Sequence[str], rows: Iterable[Row], headers: bool, null: str) -> Iterator[bytes]:  # noqa: ARG001
    encode, names = _encoder().encode, _names(columns)
    for row in rows:
        yield encode(dict(zip(names, row, strict=True))) + b"\n"


def _json(columns: Sequence[str], rows: Iterable[Row], headers: bool, null: str) -> Iterator[bytes]:  # noqa: ARG001
    encode, names = _encoder().encode, _names(columns)
    mark = b"[\n"
    for row in rows:
        yield mark + b"    " + encode(dict(zip(names, row, strict=True)))
        mark = b",\n"
    yield b"[]\n" if mark == b"[\n" else b"\n]\n"


def _csv(columns: Sequence[str], rows: Iterable[Row], headers: bool, null: str) -> Iterator[bytes]:
    held = io.StringIO(newline="")
    writer = csv.writer(held, lineterminator="\n")
    text = _text_maker(null)
    if headers:
        writer.writerow(columns)
    for row in rows:
        writer.writerow([text(value) for value in row])
        if held.tell() >= BATCH:
            yield held.getvalue().encode("utf-8", "surrogateescape")
            held.seek(0)
            held.truncate()
    yield held.getvalue().encode("utf-8", "surrogateescape")


def _table(columns: Sequence[str], rows: Iterable[Row], headers: bool, null: str) -> Iterator[bytes]:  # noqa: ARG001
    text = _text_maker(null)
    first: list[list[str]] = []
    right = [True] * len(columns)
    widths = [len(column) for column in columns]
    lines = iter(rows)
    for row in lines:
        shown = [" ".join(text(value).split()) for value in row]
        first.append(shown)
        for number, (value, one) in enumerate(zip(row, shown, strict=True)):
            widths[number] = min(max(widths[number], len(one)), WIDEST)
            right[number] = right[number] and (
                value is None or (not isinstance(value, (str, bytes, bool)) and _is_number(value))
            )
        if len(first) == MEASURED:
            break

    def line(cells: Sequence[str]) -> bytes:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(cells, widths, right, strict=True)
        ]
        return ("  ".join(parts).rstrip() + "\n").encode("utf-8", "surrogateescape")

    yield line(columns)
    yield line(["-" * width for width in widths])
    for cells in first:
        yield line(cells)
    for row in lines:
        yield line([" ".join(text(value).split()) for value in row])


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__")


def _text_maker(null: str) -> Callable[[Any], str]:
    encode = _encoder().encode

    def text(value: Any) -> str:
        if value is None:
            return null
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value).hex()
        if isinstance(value, (dict, list, tuple)):
            return encode(value).decode()
        return str(value)

    return text
