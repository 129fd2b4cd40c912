"""Make several targets at once: python tools/side_by_side.py HOW_MANY TARGET...

The targets begin in the order in which they stand, so the longest comes first. What one says is shown as a whole when it has
ended. The last lines say how each went and how long it took, and name each test that failed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import monotonic

TOLD = ("FAILED ", "ERROR ")
running: set[subprocess.Popen[bytes]] = set()


def make(target: str, folder: Path) -> tuple[str, int, float, str]:
    """Return the target, its exit code, how many seconds it took and what it said."""
    began = monotonic()
    log = folder / target
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "--no-print-directory", target],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        running.add(process)
        code = process.wait()
        running.discard(process)
    return target, code, monotonic() - began, log.read_text(errors="replace")


def failures(said: str) -> Iterator[str]:
    """Yield the lines of pytest's summary."""
    return (line for line in said.splitlines() if line.startswith(TOLD))


def main() -> int:
    many, targets = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{many} at a time; each is shown when it has ended: {', '.join(targets)}", flush=True)
    endings = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(many) as pool:
        futures = [pool.submit(make, target, Path(folder)) for target in targets]
        try:
            for future in as_completed(futures):
                target, code, seconds, said = future.result()
                endings.append((code, target, seconds, said))
                print(f"\n=== make {target} ({seconds:.0f} s)\n{said}", end="", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
    print(f"\n=== {', '.join(targets)}")
    # What failed comes last: there everybody looks first.
    for code, target, seconds, said in sorted(endings, key=lambda each: each[0] != 0):
        print(f"{'FAILED' if code else 'passed'} make {target} ({seconds:.0f} s)")
        if code:
            print(*(f"       {line}" for line in failures(said)), sep="\n")
    return any(code for code, *_ in endings)


if __name__ == "__main__":
    sys.exit(main())
