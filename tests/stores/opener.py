"""A program that waits for a line, opens a store, begins a run and appends to it: `python opener.py PLACE RUN COUNT`."""

from __future__ import annotations

import sys
from contextlib import closing

from dagrid.stores import open_store


def main() -> None:
    """Say that it is ready, wait, and write."""
    place, run, count = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    with closing(open_store(place)) as store:
        epoch = store.create(run)
        for number in range(int(count)):
            store.append(run, epoch, number, [f"{run} {number}".encode()])


if __name__ == "__main__":
    main()
