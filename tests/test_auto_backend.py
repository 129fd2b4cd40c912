"""`backend="auto"` takes what there is, and says what it took."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from dagrid import DAG, DistributedExecutor, Node
from dagrid.errors import InvalidSettingError, UnknownBackendError

GRAPH = DAG([Node("one", lambda: 1), Node("two", lambda one: one + 1, depends_on=["one"])])


def printed_by(program: str) -> str:
    """Return what a fresh interpreter prints, in which nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=55
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_where_there_is_nothing_else():
    """Engines that are installed but not in use are neither imported nor begun: `auto` costs nothing."""
    program = """
    import os, sys, threading
    os.environ.pop("DAGRID_BACKEND", None)
    from dagrid import DAG, Node
    places = []
    dag = DAG([Node(f"n{i}", lambda: places.append(threading.current_thread())) for i in range(3)])
    result = dag.run(backend="auto", max_concurrency=1)
    print(result.backend_name, threading.main_thread() in places, len(set(places)))
    print({"ray", "distributed", "celery", "ipyparallel"} & set(sys.modules))
    """
    assert printed_by(program).splitlines() == ["thread False 1", "set()"]


def test_the_environment_decides_first(monkeypatch):
    """The same program runs elsewhere without being changed; a URL has settings as usual."""
    monkeypatch.setenv("DAGRID_BACKEND", "inline")
    assert GRAPH.run(backend="auto").backend_name == "inline"
    assert GRAPH.run().backend_name == "thread", "who does not ask for auto does not get it"
    monkeypatch.setenv("DAGRID_BACKEND", "thread?max_workers=1")
    with DistributedExecutor(GRAPH, "auto") as executor:
        result = executor.execute()
    assert result.backend_name == "thread"
    assert result.dispatch_info["two"]["backend"] == "thread"
    monkeypatch.setenv("DAGRID_BACKEND", "")
    assert GRAPH.run(backend="auto")["two"] == 2, "empty is as good as not set"


def test_an_environment_that_cannot_be(monkeypatch):
    """A typo there is a typo like any other, and `auto` in `auto` has no end."""
    monkeypatch.setenv("DAGRID_BACKEND", "inlin")
    with pytest.raises(UnknownBackendError, match="'inline'") as raised:
        GRAPH.run(backend="auto")
    assert any("DAGRID_BACKEND" in note for note in raised.value.__notes__)
    monkeypatch.setenv("DAGRID_BACKEND", "auto")
    with pytest.raises(InvalidSettingError, match="DAGRID_BACKEND is 'auto'"):
        GRAPH.run(backend="auto")


@pytest.mark.parametrize("url", ["auto?max_workers=2", "auto://host:1"])
def test_settings_are_for_a_backend_that_is_named(url):
    """Nobody knows whose settings they would be."""
    with pytest.raises(InvalidSettingError, match="no settings"):
        GRAPH.run(backend=url)


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_the_clients_and_sessions_of_this_process_are_used():
    """A Dask client that is current, and before it a Ray session; one that has been closed is none."""
    program = """
    import os
    os.environ.pop("DAGRID_BACKEND", None)

    def main():
        from dagrid import DAG, Node
        dag = DAG([Node("pid", os.getpid)])

        from distributed import Client, LocalCluster
        print(dag.run(backend="auto").backend_name)
        settings = dict(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50)
        with LocalCluster(**settings) as cluster, Client(cluster) as client:
            print(dag.run(backend="auto").backend_name, client.status)

            import ray
            ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, logging_level="ERROR")
            result = dag.run(backend="auto")
            print(result.backend_name, result["pid"] != os.getpid(), ray.is_initialized())
            ray.shutdown()
            print(dag.run(backend="auto").backend_name)
        print(dag.run(backend="auto").backend_name)

    main()
    """
    assert printed_by(program).splitlines() == ["thread", "dask running", "ray True True", "dask", "thread"]
