"""What dagrid is measured against: loops that anyone would write by hand, and libraries."""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any

from benchmarks.shapes import Shape, join_all


def bare_loop(shape: Shape, workers: int = 2) -> None:
    """Run over integer lists: a worker keeps the first successor that is ready and shares the others. No order, no record,
    no failure: the floor.
    """
    fns, takes, follows = shape.fns, shape.takes, shape.follows
    values: list[Any] = [None] * len(shape)
    waiting = [len(before) for before in takes]
    shared = deque(node for node, missing in enumerate(waiting) if not missing)
    lock = threading.Lock()
    wake: SimpleQueue[None] = SimpleQueue()
    asleep = 0
    left = len(shape)

    def serve() -> None:
        nonlocal left, asleep
        node = -1
        while True:
            if node < 0:
                with lock:
                    if shared:
                        node = shared.popleft()
                    elif not left:
                        return
                    else:
                        asleep += 1
                if node < 0:
                    wake.get()
                    continue
            values[node] = fns[node](*[values[each] for each in takes[node]])
            following = -1
            with lock:
                left -= 1
                for after in follows[node]:
                    waiting[after] = missing = waiting[after] - 1
                    if missing:
                        continue
                    if following < 0:
                        following = after
                    else:
                        shared.append(after)
                while asleep and (shared or not left):
                    asleep -= 1
                    wake.put(None)
                    if left:
                        break
                if following < 0 and shared:
                    following = shared.popleft()
            node = following

    _together(serve, workers)
    shape.check(values)


def bare_loop_alone(shape: Shape) -> None:
    """Run over integer lists in the caller's thread: the floor of the inline backend."""
    fns, takes, follows = shape.fns, shape.takes, shape.follows
    values: list[Any] = [None] * len(shape)
    waiting = [len(before) for before in takes]
    ready = deque(node for node, missing in enumerate(waiting) if not missing)
    while ready:
        node = ready.popleft()
        values[node] = fns[node](*[values[each] for each in takes[node]])
        for after in follows[node]:
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)
    shape.check(values)


def pool_chained(shape: Shape, workers: int = 2) -> None:
    """Run in a ThreadPoolExecutor; who completes a node submits its successors."""
    fns, takes, follows = shape.fns, shape.takes, shape.follows
    values: list[Any] = [None] * len(shape)
    waiting = [len(before) for before in takes]
    lock = threading.Lock()
    done = threading.Event()
    left = len(shape)

    def perform(node: int) -> None:
        nonlocal left
        values[node] = fns[node](*[values[each] for each in takes[node]])
        ready = []
        with lock:
            left -= 1
            if not left:
                done.set()
            for after in follows[node]:
                waiting[after] -= 1
                if not waiting[after]:
                    ready.append(after)
        for after in ready:
            pool.submit(perform, after)

    with ThreadPoolExecutor(workers) as pool:
        for node in [node for node, missing in enumerate(waiting) if not missing]:
            pool.submit(perform, node)
        done.wait()
    shape.check(values)


def pool_queued(shape: Shape, workers: int = 2) -> None:
    """Run in a ThreadPoolExecutor; completions go through a queue to the one thread that decides."""
    with ThreadPoolExecutor(workers) as pool:
        _submit_ready(shape, pool)


def process_pool(shape: Shape, pool: ProcessPoolExecutor) -> None:
    """Run in a ProcessPoolExecutor that is there already; completions go through a queue to the thread that decides."""
    _submit_ready(shape, pool)


def _submit_ready(shape: Shape, pool: Executor) -> None:
    fns, takes, follows = shape.fns, shape.takes, shape.follows
    values: list[Any] = [None] * len(shape)
    waiting = [len(before) for before in takes]
    completed: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def submit(node: int) -> None:
        future = pool.submit(fns[node], *[values[each] for each in takes[node]])
        future.add_done_callback(lambda future: completed.put((node, future)))

    for node in [node for node, missing in enumerate(waiting) if not missing]:
        submit(node)
    for _ in range(len(shape)):
        node, future = completed.get()
        values[node] = future.result()
        for after in follows[node]:
            waiting[after] -= 1
            if not waiting[after]:
                submit(after)
    shape.check(values)


def by_levels(levels: list[list[tuple[Callable[..., Any], Any]]], pool: Executor) -> None:
    """Run level by level: the next level starts when every node of this one is done."""
    for level in levels:
        for future in [pool.submit(fn, argument) for fn, argument in level]:
            future.result()


def dask_graph(shape: Shape) -> dict[str, Any]:
    """Return the graph as dask takes it."""
    graph: dict[str, Any] = {}
    for node, (fn, before) in enumerate(zip(shape.fns, shape.takes, strict=True)):
        names = [f"n{each}" for each in before]
        graph[f"n{node}"] = (len, names) if fn is join_all else (fn, *names)
    return graph


def dask_run(shape: Shape, graph: dict[str, Any], workers: int) -> None:
    """Run in dask's threads, or with 0 workers in the caller's."""
    from dask import threaded
    from dask.local import get_sync

    last = f"n{len(shape) - 1}"
    value = threaded.get(graph, last, num_workers=workers) if workers else get_sync(graph, last)
    shape.check([value])


def tawazi_dag(shape: Shape, workers: int) -> Callable[[], Any]:
    """Return the graph as a tawazi DAG."""
    from tawazi import dag, xn

    nodes = {fn: xn(fn) for fn in set(shape.fns)}

    def describe() -> Any:
        values: list[Any] = []
        for fn, before in zip(shape.fns, shape.takes, strict=True):
            values.append(nodes[fn](*[values[each] for each in before]))
        return values[-1]

    made: Callable[[], Any] = dag(max_concurrency=workers)(describe)
    return made


class Pipes:
    """Worker processes at the ends of raw pipes, with two batches of calls under way in each."""

    def __init__(self, workers: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve_pipe, args=(there,), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, fn: Callable[..., Any], count: int, batch: int) -> None:
        """Call a function so many times, in batches."""
        batches = count // batch
        calls = [(fn, ())] * batch
        under_way: deque[Any] = deque()
        for number in range(batches):
            pipe = self._pipes[number % len(self._pipes)]
            if len(under_way) >= 2 * len(self._pipes):
                under_way.popleft().recv()
            pipe.send(calls)
            under_way.append(pipe)
        for pipe in under_way:
            pipe.recv()

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()
            pipe.close()


def _serve_pipe(pipe: Any) -> None:
    while (calls := pipe.recv()) is not None:
        pipe.send([fn(*arguments) for fn, arguments in calls])


def make_process_pool(workers: int) -> AbstractContextManager[ProcessPoolExecutor]:
    """Return a pool of processes that are warm."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    for future in [pool.submit(int) for _ in range(2 * workers)]:
        future.result()
    return pool


def _together(serve: Callable[[], None], workers: int) -> None:
    threads = [threading.Thread(target=serve) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
