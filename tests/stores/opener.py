"""A program that waits for a line, opens a store, begins a run and appends to it: `python opener.py FILE RUN COUNT`."""

from __future__ import annotations

import sys

from dagrid.stores.sqlite import SQLiteStore


def main() -> None:
    """Say that it is ready, wait, and write."""
    file, run, count = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    with SQLiteStore(file) as store:
        epoch = store.create(run)
        for number in range(int(count)):
            store.append(run, epoch, number, [f"{run} {number}".encode()])


if __name__ == "__main__":
    main()
