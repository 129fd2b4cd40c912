"""Measure one engine in a process of its own and print what was found as JSON, in the last line.

Usage: python -m benchmarks.engines ENGINE [--quick]
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from dataclasses import asdict

from benchmarks.engines.place import figures


def main() -> None:
    """Start the engine, measure, stop it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that servers are stopped with it
    name, quick = sys.argv[1], "--quick" in sys.argv[2:]
    with importlib.import_module(f"benchmarks.engines.on_{name}").place() as place:
        found = figures(place, quick)
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
