"""A run on a terminal while it goes on: its steps with state, time and the last line that each has written.

It follows the events of the run and looks at the ends of files; the run does nothing for it. `rich` is loaded when there is
something to draw, so that a short run does not pay for it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dagrid.observe.lines import one_line, span
from dagrid.ports import RunEvent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

REFRESH = 1 / 8
DELAY = 0.15
# Of a run with more steps than fit only those are shown that run, went wrong, or ended last.
MARGIN = 4
MOST = 40
_TAIL = 4096
# A name may be so wide at least, and a third of the screen; a sign and the blanks between columns are these.
_NAME = 12
_BLANKS = 4
_LOOKS = {
    "running": ("\N{BLACK RIGHT-POINTING TRIANGLE}", "cyan"),
    "completed": ("\N{CHECK MARK}", "green"),
    "stopping": ("\N{NOT SIGN}", "magenta"),
    "failed": ("\N{MULTIPLICATION SIGN}", "bold red"),
    "timed_out": ("\N{MULTIPLICATION SIGN}", "bold red"),
    "lost": ("\N{MULTIPLICATION SIGN}", "bold red"),
    "cancelled": ("\N{NOT SIGN}", "magenta"),
    "skipped": ("\N{MINUS SIGN}", "dim"),
    "retry": ("\N{ANTICLOCKWISE OPEN CIRCLE ARROW}", "yellow"),
    "waiting": ("?", "bold blue"),
    "pending": ("\N{MIDDLE DOT}", "dim"),
}
_STATES = {
    "started": "running",
    "halted": "stopping",
    "completed": "completed",
    "reused": "completed",
    "failed": "failed",
    "timed_out": "timed_out",
    "lost": "lost",
    "cancelled": "cancelled",
    "skipped": "skipped",
    "omitted": "skipped",
    "passed": "skipped",
    "retry": "retry",
    "repeated": "retry",
    "held": "waiting",
    "signalled": "completed",
    "requeued": "pending",
    "value_lost": "pending",
}
_WRONG = ("failed", "timed_out", "lost", "cancelled")
_FIRST = (
    "running",
    "stopping",
    "waiting",
    "retry",
    "failed",
    "timed_out",
    "lost",
    "cancelled",
    "completed",
    "skipped",
    "pending",
)


class Step:
    """How a step stands."""

    __slots__ = ("began", "detail", "ended", "name", "order", "state")

    def __init__(self, name: str, order: int) -> None:
        self.name = name
        self.order = order
        self.state = "pending"
        self.began: float | None = None
        self.ended = 0.0
        self.detail = ""


class Live:
    """Draw a run on a terminal until it has ended; the last picture stays.

    Args:
        title: what is run.
        files: the files to which a step writes, for its last line.
        console: where to draw; by default a new one on stderr, which follows NO_COLOR.
        delay: seconds before the first picture.
    """

    def __init__(
        self,
        title: str,
        files: Callable[[str], Sequence[Path]] = lambda _: (),
        console: Console | None = None,
        delay: float = DELAY,
    ) -> None:
        self.title = title
        self.files = files
        self._console = console
        self._delay = delay
        self._steps: dict[str, Step] = {}
        self._run: Any = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0

    def begin(self, run: Any) -> None:
        """Look at this run from now on."""
        self._run = run
        self._began = perf_counter() - run.seconds
        self._thread = threading.Thread(target=self._draw, name="dagrid-live", daemon=True)
        self._thread.start()

    def observe(self, events: Sequence[RunEvent]) -> None:
        """Take note of what has happened."""
        for event in events:
            if not event.node:
                continue
            step = self._steps.get(event.node)
            if step is None:
                step = self._steps[event.node] = Step(event.node, len(self._steps))
            state = _STATES.get(event.kind)
            if state is None:
                continue
            if state == "running":
                step.began = event.at
            step.state, step.ended, step.detail = state, event.at, event.detail

    def end(self) -> None:
        """Draw the last picture, and no further one. May be called twice."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _draw(self) -> None:
        if self._over.wait(self._delay) and self._console is None:
            sys.stderr.write(self._plainly(perf_counter() - self._began))
            return
        from rich.console import Console
        from rich.live import Live as Screen

        console = self._console or Console(stderr=True)
        screen = Screen(
            get_renderable=lambda: self.picture(console),
            console=console,
            auto_refresh=False,
            redirect_stdout=self._console is None and sys.stdout.isatty(),
            redirect_stderr=self._console is None,
        )
        with screen:
            while not self._over.wait(REFRESH):
                screen.refresh()
            screen.refresh()

    def picture(self, console: Console) -> RenderableType:
        """Return what is to be seen now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = perf_counter() - self._began
        over = self._over.is_set()
        steps = self._all()
        shown = self._chosen(steps, MOST if over else max(3, console.size.height - MARGIN))
        names = [Text(one_line(step.name), "dim" if step.state in ("pending", "skipped") else "") for step in shown]
        times = [Text(self._time(step, now), "cyan") for step in shown]
        name, line = _widths(names, times, console.size.width)
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=1)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=name)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=line)
        for step, *cells in zip(shown, names, times, strict=True):
            table.add_row(Text(*_LOOKS.get(step.state, _LOOKS["pending"])), *cells, self._said(step))
        return Group(table, self._summary(steps, shown, now))

    def _plainly(self, now: float) -> str:
        """Return the last picture of a run that was over before there was anything to look at."""
        lines = []
        for step in self._chosen(self._all(), MOST):
            said = step.detail if step.state in (*_WRONG, "skipped") else last_line(self.files(step.name))
            row = (_LOOKS.get(step.state, _LOOKS["pending"])[0], step.name, self._time(step, now), said)
            lines.append(one_line(" ".join(row)) + "\n")
        return "".join(lines)

    def _all(self) -> list[Step]:
        """Return every step, those too to which nothing has happened."""
        for name in self._run.names:
            if name not in self._steps:
                self._steps[name] = Step(name, len(self._steps))
        number = {name: at for at, name in enumerate(self._run.names)}
        steps = list(self._steps.values())
        for step in steps:
            step.order = number.get(step.name, step.order)
        return sorted(steps, key=lambda step: step.order)

    def _chosen(self, steps: list[Step], room: int) -> list[Step]:
        if len(steps) <= room:
            return steps
        rank = {state: at for at, state in enumerate(_FIRST)}
        first = sorted(steps, key=lambda step: (rank.get(step.state, len(rank)), -step.ended, step.order))[:room]
        return sorted(first, key=lambda step: step.order)

    def _time(self, step: Step, now: float) -> str:
        if step.began is None or step.state in ("skipped", "pending"):
            return ""
        until = now if step.state in ("running", "stopping") else step.ended
        return span(max(until - step.began, 0.0))

    def _said(self, step: Step) -> Text:
        from rich.text import Text

        if step.state in (*_WRONG, "skipped", "waiting", "retry", "stopping") and step.detail:
            lead = "told to stop: " if step.state == "stopping" else ""
            return Text(one_line(f"{lead}{step.detail}"), _LOOKS[step.state][1])
        line = last_line(self.files(step.name)) if step.state != "pending" else ""
        return Text(line, "dim")

    def _summary(self, steps: list[Step], shown: list[Step], now: float) -> Text:
        from rich.text import Text

        counts = {state: sum(1 for step in steps if step.state == state) for state in _FIRST}
        wrong = counts["failed"] + counts["timed_out"] + counts["lost"]
        ended = wrong + counts["completed"] + counts["skipped"] + counts["cancelled"]
        parts = [
            (one_line(self.title), "bold"),
            (f"{ended:,}/{len(steps):,}", ""),
            (f"{counts['running']:,} running" if counts["running"] else "", "cyan"),
            (f"{counts['stopping']:,} being stopped" if counts["stopping"] else "", "magenta"),
            (f"{wrong:,} failed" if wrong else "", "bold red"),
            (f"{counts['skipped']:,} skipped" if counts["skipped"] else "", "yellow"),
            (f"{counts['waiting']:,} waiting" if counts["waiting"] else "", "bold blue"),
            (span(now), "cyan"),
            (f"{len(steps) - len(shown):,} not shown" if len(shown) < len(steps) else "", "dim"),
        ]
        return Text("  ").join(Text(words, style) for words, style in parts if words)


def _widths(names: Sequence[Text], times: Sequence[Text], width: int) -> tuple[int, int]:
    """Return how wide names and last lines may be where signs and times are whole."""
    room = width - max([text.cell_len for text in times], default=0) - _BLANKS
    widest = max([text.cell_len for text in names], default=0)
    name = max(min(widest, max(_NAME, width // 3), room - 1), 1)
    return name, max(room - name, 1)


def last_line(files: Sequence[Path]) -> str:
    """Return the last line that is in the one of these files that was written last; what a terminal would obey is taken out."""
    newest, best = None, -1
    for file in files:
        try:
            found = os.stat(file)
        except OSError:
            continue
        if found.st_size and found.st_mtime_ns > best:
            newest, best = file, found.st_mtime_ns
    if newest is None:
        return ""
    try:
        with open(newest, "rb") as stream:
            stream.seek(max(os.fstat(stream.fileno()).st_size - _TAIL, 0))
            tail = stream.read(_TAIL)
    except OSError:
        return ""
    lines = tail.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return one_line(plain_text(next((line for line in reversed(lines) if line.strip()), "")))


def plain_text(text: str) -> str:
    """Return a text without the sequences that steer a terminal."""
    if "\x1b" not in text:
        return text
    import re

    return re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])", "", text)
