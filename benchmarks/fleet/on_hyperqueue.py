"""The same graph of `true` on HyperQueue, in a process of its own, for what it prints itself goes to standard output.

Usage: python -m benchmarks.fleet.on_hyperqueue FOLDER WORKERS CORES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def main() -> None:
    """Write the seconds from submitting the job in `takes.json` to its end into `took`."""
    folder = Path(sys.argv[1])
    takes = json.loads((folder / "takes.json").read_text(encoding="utf-8"))
    workers, cores = int(sys.argv[2]), int(sys.argv[3])
    with LocalCluster() as cluster:
        for _ in range(workers):
            cluster.start_worker(WorkerConfig(cores=cores))
        client = cluster.client()
        job = Job(max_fails=None)
        tasks: list[Any] = []
        for before in takes:
            tasks.append(job.program(["/bin/true"], deps=[tasks[each] for each in before], stdout=None, stderr=None))
        began = perf_counter()
        client.wait_for_jobs([client.submit(job)])
        took = perf_counter() - began
    (folder / "took").write_text(str(took), encoding="ascii")


if __name__ == "__main__":
    main()
