"""A run that is kept in PostgreSQL: one URL holds its journal and its values, and is enough to go on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

import dagrid
from dagrid import DAG, Node
from dagrid.assemble import restart
from dagrid.errors import InvalidSettingError, StaleEpochError, StoreError, UnknownRunError
from dagrid.stores import open_postgres
from dagrid.testing.gate import Gate, stand
from tests.execution.durable_tasks import note, noted
from tests.soak.test_crash import crashes
from tests.stores.postgres_place import PASSWORD, Server

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture
def url(postgres, tmp_path):
    return postgres.url(tmp_path)


def large() -> bytes:
    return bytes(100_000)


def size(large: bytes) -> int:
    return len(large)


SERVERS: list[Server] = []


def restarts(number: int, /) -> bool:
    """Be a task under which the server restarts."""
    (server,) = SERVERS
    server.stop(number)
    server.start()
    return True


def in_a_process(url: str, log: str, graph: str, first_snapshot: int) -> None:
    """Start a run in a process that it kills."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.execution.durable_tasks", graph, log, url, "thread", str(first_snapshot)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == -signal.SIGKILL, ran.stderr


@pytest.mark.parametrize("first_snapshot", [50_000, 1])
def test_a_killed_run_goes_on_with_what_had_not_finished(tmp_path, url, first_snapshot):
    """As with a folder, but nothing of it was on this machine's disk."""
    log = str(tmp_path / "log")
    in_a_process(url, log, "growing", first_snapshot)
    result = dagrid.resume(url)
    assert (result["total"], result["end"]) == (4, 5)
    ran = Counter(noted(log))
    assert ran["fatal"] == 2
    assert all(ran[name] == 1 for name in ("count", "spread", "finish", "part0", "part1", "part2"))
    with pytest.raises(UnknownRunError):
        dagrid.resume(url)
    assert dagrid.resume(url, "the-run")["end"] == 5


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [5, 8])
def test_a_run_that_is_killed_again_and_again_ends_as_a_calm_one(tmp_path, url, seed):
    """Random graphs, killed at random moments, as the soak test does with folders."""
    crashes(seed, tmp_path, url)


def test_values_are_read_from_the_database(postgres, url):
    """Large ones too, also after the run, by whoever has the URL; and a run leaves no connection behind but for them."""
    marked = url + "&application_name=counted"
    result = DAG([Node(large), Node(size, depends_on=["large"])]).run(checkpoint=marked, run_id="one", keep="outputs")
    with postgres.connect() as connection:
        count = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'")
        while count.fetchone() != (0,):  # the server takes a moment to see that they are closed
            count = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'")
    assert result["large"] == bytes(100_000)
    again = dagrid.resume(url, "one")
    assert (again["size"], again["large"]) == (100_000, bytes(100_000))
    store, values = open_postgres(url)
    with store:
        (record,) = store.runs()
        assert (record.run, record.status) == ("one", "succeeded")
    values.disconnect()


def test_who_resumes_takes_over_and_the_old_one_does_nothing_more(tmp_path, url):
    """Two machines that both act on a run would send every mail twice."""
    log = str(tmp_path / "log")
    with Gate() as gate:
        nodes = [Node("held", partial(stand, gate.address)), Node("after", partial(note, log, "ran"), ["held"])]
        old = DAG(nodes).start(checkpoint=url, run_id="shared", backend="thread")
        first = gate.meet()
        new = restart(url, "shared", backend="thread")
        second = gate.meet()
        first.release()
        lost = old.wait(PATIENCE)
        assert noted(log) == []
        with pytest.raises(StaleEpochError):
            lost.raise_for_status()
        second.release()
        assert new.wait(PATIENCE).succeeded
    assert noted(log) == ["ran"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_run_waits_for_a_server_that_restarts(postgres, url, number):
    """Its nodes do not notice: what was decided is held back until it is recorded."""
    SERVERS[:] = [postgres]
    restarting = Node("restarts", partial(restarts, int(number)), ["large"])
    nodes = [Node(large), restarting, Node("size", lambda large, restarts: len(large), ["large", "restarts"])]
    result = DAG(nodes).run(checkpoint=url, run_id="one")
    assert (result["restarts"], result["size"]) == (True, 100_000)
    assert dagrid.resume(url, "one")["restarts"] is True


def test_values_kept_between_runs_in_the_database(tmp_path, url):
    """A cache is a place for values too, also for worker processes."""
    graph = DAG([Node(large, cache=True), Node(size, depends_on=["large"], cache=True)])
    first = graph.run(cache=url, backend="multiprocessing?max_workers=1")
    second = graph.run(cache=url)
    assert (first["size"], second["size"]) == (100_000, 100_000)
    assert second.node_result("size").note.startswith("from the cache")


@pytest.mark.parametrize("place", ["mysql://me:open-sesame@host/db", "sqlite:///runs.db", "s3://bucket"])
def test_a_url_that_is_no_checkpoint(place):
    """A folder of that name would be a surprise; the message has no password in it."""
    with pytest.raises(InvalidSettingError, match=r"postgresql://user@host/database") as caught:
        DAG([Node(large)]).run(checkpoint=place)
    assert PASSWORD not in str(caught.value)


def test_a_checkpoint_that_cannot_be_reached():
    """An error before anything runs."""
    ran = []
    with pytest.raises(StoreError, match="Look whether the server runs"):
        DAG([Node("one", lambda: ran.append(1))]).run(checkpoint="postgresql://127.0.0.1:1/db")
    assert not ran
