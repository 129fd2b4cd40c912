"""A process that performs a run until its standard input ends: begins one, or goes on with one, and says so."""

from __future__ import annotations

import json
import os
import sys

from dagrid.errors import DagridError
from dagrid.history import About, History


def main() -> None:
    home, action, argument = sys.argv[1:]
    with History(home) as history:
        if action == "begin":
            place = history.begin(argument, About(name=argument))
        elif action == "reopen":
            place = history.reopen(argument)
        elif action == "serve":
            serve(history, argument)
            return
        elif action == "orphan":
            # A process forked off goes on when this one is killed, and must not pass for it.
            place = history.begin(argument, About(name=argument))
            mine = os.getpid()
            if os.fork() == 0:
                print(json.dumps([place.run_id, mine]), flush=True)
                sys.stdin.read()
                os._exit(0)
            os.waitpid(-1, 0)
        else:
            print(json.dumps(raced(history, argument)), flush=True)
            return
        print(json.dumps([place.run_id, os.getpid()]), flush=True)
        sys.stdin.read()
        place.close()


def serve(history: History, name: str) -> None:
    """Perform several runs for others; a process that is forked off lets go of what is not its own, and goes on."""
    history.serve()
    places = [history.begin(name, About(name=name)) for _ in range(3)]
    child = os.fork()
    if child == 0:
        for place in places:
            place.close()
        print(json.dumps([[place.run_id for place in places], os.getppid()]), flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
    for place in places:
        place.close()
    os.waitpid(child, 0)


def raced(history: History, queue: str) -> list[str]:
    """Begin all runs that wait in a queue, as long as there are some, and return those that were got."""
    print("ready", flush=True)
    sys.stdin.readline()
    got = []
    while waiting := history.queued(queue):
        try:
            history.begin(waiting[0].name, history.about(waiting[0].run), waiting[0].run).close()
        except DagridError:
            continue
        got.append(waiting[0].run)
    return got


if __name__ == "__main__":
    main()
