"""A program that appends to a run for ever and says each number that was acknowledged: `python appender.py PLACE RUN`."""

from __future__ import annotations

import sys

from dagrid.stores import open_store

SIZE = 3


def main() -> None:
    """Append facts that are their own numbers, three at a time."""
    place, run = sys.argv[1:]
    store = open_store(place)
    epoch = store.create(run)
    following = 0
    while True:
        facts = [str(number).encode() for number in range(following, following + SIZE)]
        following = store.append(run, epoch, following, facts)
        print(following, flush=True)


if __name__ == "__main__":
    main()
