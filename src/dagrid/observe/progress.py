"""A progress bar on a terminal: it looks at the run a few times a second, and the run does nothing for it.

It knows a run by its handle only. `rich` is loaded when there is something to draw, so that a short run does not pay for it.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dagrid.ports import Clock, RunView

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

REFRESH = 1 / 8
SHOWN = 3
BAR_WIDTH = 24
# An estimate is shown after so many nodes and that part of the graph, never for a graph that grows.
ESTIMATE_NODES = 10
ESTIMATE_PART = 0.05

_SCREEN = threading.Lock()


class Progress:
    """Show how far a run is: nodes done of all, what runs, what failed, the time.

    Nothing is drawn before `delay` is over, so that short runs are silent; the last state stays on the screen. Where the output
    is no terminal, only that last state is written. Of several runs at once, one has the screen.

    Args:
        clock: calls back when the delay is over.
        delay: seconds before the bar appears.
        console: where to draw; by default a new one on stderr, which follows NO_COLOR.
    """

    def __init__(self, clock: Clock, delay: float = 1.0, console: Console | None = None) -> None:
        self._clock = clock
        self._delay = delay
        self._console = console
        self._over = threading.Event()
        self._prevent: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def begin(self, run: RunView) -> None:
        """Look at this run from now on."""
        if self._delay > 0:
            self._prevent = self._clock.call_at(self._clock.now() + self._delay, lambda: self._show(run))
        else:
            self._show(run)

    def end(self) -> None:
        """Draw the last state, if anything was drawn; may be called twice."""
        if self._prevent is not None:
            self._prevent()
        with self._starting:
            self._over.set()
        if self._thread is not None:
            self._thread.join()
        atexit.unregister(self.end)

    def _show(self, run: RunView) -> None:
        with self._starting:
            if self._over.is_set() or (run.done and self._delay > 0):
                return
            self._thread = threading.Thread(target=self._draw, args=(run,), name="dagrid-progress", daemon=True)
            self._thread.start()
        atexit.register(self.end)  # an interrupted program gets its cursor back

    def _draw(self, run: RunView) -> None:
        while not _SCREEN.acquire(timeout=REFRESH):
            if self._over.is_set() or run.done:
                return
        try:
            self._follow(run)
        finally:
            _SCREEN.release()

    def _follow(self, run: RunView) -> None:
        from rich.console import Console
        from rich.live import Live

        console = self._console or Console(stderr=True)
        picture = Picture(run)
        live = Live(
            get_renderable=picture.draw,
            console=console,
            auto_refresh=False,
            # What tasks print goes above the bar, but never from stdout to where stderr goes.
            redirect_stdout=self._console is None and sys.stdout.isatty(),
            redirect_stderr=self._console is None,
        )
        with live:
            live.refresh()
            while not run.done and not self._over.wait(REFRESH):
                live.refresh()
        if not console.is_terminal:
            console.line()  # which a Live leaves open in a file


class Picture:
    """One line that says how a run stands."""

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._total = run.total
        self._grows = False

    def draw(self) -> RenderableType:
        """Return the line as it is to be drawn now; on a narrow screen the names are cut first."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        run = self._run
        total, ended = run.total, run.ended
        self._grows = self._grows or total != self._total
        counts = run.counts()
        failed = counts["failed"] + counts["timed_out"] + counts["lost"]
        skipped = counts["skipped"] + counts["cancelled"]
        left = self._left(total, ended, run.seconds)
        said = [
            (f"{ended:,}/{total:,}", ""),
            (f"{failed:,} failed" if failed else "", "bold red"),
            (f"{skipped:,} skipped" if skipped else "", "yellow"),
            (clock_face(run.seconds), "cyan"),
            (f"about {clock_face(left)} left" if left is not None else "", "cyan"),
            (_listed(run.running(SHOWN), counts["running"]), "dim"),
        ]
        parts = [Text(words, style) for words, style in said if words]
        bar = ProgressBar(total or 1, ended if total else 1, width=BAR_WIDTH, finished_style=_colour(failed, skipped))
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=BAR_WIDTH)
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(bar, Text("  ").join(parts))
        return line

    def _left(self, total: int, ended: int, seconds: float) -> float | None:
        """Return the seconds that are left if nodes go on to end at this rate, or None when that would be a guess."""
        if self._grows or not ESTIMATE_NODES <= ended < total or ended < ESTIMATE_PART * total:
            return None
        left = seconds * (total - ended) / ended
        return left if left >= 1.0 else None


def clock_face(seconds: float) -> str:
    """Return seconds as minutes and seconds, with hours where there are any."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def _colour(failed: int, skipped: int) -> str:
    return "red" if failed else "yellow" if skipped else "green"


def _listed(names: list[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" +{more:,}" if names and more > 0 else "")
