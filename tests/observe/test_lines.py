"""A run as lines of text: each thing once, whenever its reader comes to read."""

from __future__ import annotations

import threading

from dagrid import DAG, Node
from dagrid.observe.lines import Lines


class Late(Lines):
    """A reader that begins when the run is over already."""

    def __init__(self, write, over):
        super().__init__(write, lambda at: "")
        self._over = over

    def begin(self, run):
        assert self._over.wait(30)
        super().begin(run)


def test_a_run_that_is_quicker_than_its_reader_is_told_from_its_beginning():
    """What a run did before its reader had begun to read is no less worth telling."""
    written: list[str] = []
    over = threading.Event()
    run = DAG([Node("one", lambda: 1)]).start(observers=[Late(written.append, over)], progress=False, backend="thread")
    next(event for event in run.events() if event.kind == "run_ended")
    over.set()
    run.wait(30)
    words = [line.split(" after ")[0] for line in "".join(written).splitlines()]
    assert words == ["one: started", "one: completed", "the run has ended"]
