"""What becomes of what runs on workers when they die, are stopped, or leave, and when coordinators begin anew: no sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from dagrid import DAG, Node, command
from dagrid.assemble import restart
from dagrid.commands import Command, Launch
from dagrid.errors import (
    PoisonousTaskError,
)
from dagrid.execution.backends.cluster.backend import ClusterBackend
from dagrid.execution.backends.cluster.hub import Hub
from dagrid.testing import Gate
from dagrid.testing.gate import stand
from tests.fleet.fleet_place import PATIENCE, Start, workers

pytestmark = pytest.mark.usefixtures("by_value")


def pids_and_stand(address: tuple[str, int], notes: str) -> int:
    """Note the process, and one that it has started; wait at the gate."""
    child = subprocess.Popen(["sleep", "1000"])
    with open(notes, "a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    stand(address, str(os.getpid()))
    child.kill()
    child.wait()
    return os.getpid()


def noted(notes: Path) -> list[int]:
    return [int(pid) for pid in notes.read_text().split()] if notes.exists() else []


def gone(pid: int) -> bool:
    """Return whether a process is no more, waiting for the end of one that dies."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        return bool(select.select([fd], [], [], PATIENCE)[0])
    finally:
        os.close(fd)


def test_a_command_is_stopped_with_its_group(fleet: ClusterBackend, tmp_path: Path) -> None:
    """A cancelled run leaves nothing of its commands."""
    fifo = tmp_path / "pids"
    os.mkfifo(fifo)
    run = DAG([Node("slow", command(f"sleep 1000 & echo $$ $! > {fifo}; wait"))]).start(backend=fleet)
    pids = [int(pid) for pid in fifo.read_text().split()]
    run.cancel()
    assert run.wait(PATIENCE).cancelled == 1
    assert all(gone(pid) for pid in pids)


def test_an_idle_worker_is_killed(fleet: ClusterBackend, start: Start) -> None:
    """Nothing is lost, and nothing of it is left."""
    victim = start(id="victim", slots="1", labels="kind=victim")
    result = DAG([Node("warm", os.getpid, selector={"kind": "victim"})]).run(backend=fleet, progress=False)
    victim.signal(signal.SIGKILL)
    assert gone(result["warm"])
    assert DAG([Node("n", os.getpid)]).run(backend=fleet, progress=False).raise_for_status()["n"]


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_a_busy_worker_is_killed(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path, group: bool) -> None:
    """What it ran goes to another worker, once; its processes and what they had started are gone."""
    notes = tmp_path / "notes"
    victim = start(id="victim", slots="1", labels="kind=victim")
    nodes = [
        Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"}),
        Node("m", os.getpid),
    ]
    run = DAG(nodes).start(backend=fleet)
    gate.meet()
    os.killpg(victim.pid, signal.SIGKILL) if group else victim.signal(signal.SIGKILL)
    assert all(gone(pid) for pid in noted(notes))
    start(id="heir", slots="1", labels="kind=victim")
    gate.meet().release()
    result = run.wait(PATIENCE).raise_for_status()
    assert (result.node_results["n"].worker, result.node_results["n"].attempts) == ("heir", 2)
    assert len(noted(notes)) == 4


def test_a_worker_is_killed_between_the_end_and_its_report(
    fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path
) -> None:
    """It had finished and could not say so: it is done once more, and one outcome counts."""
    notes = tmp_path / "notes"
    victim = start(id="victim", slots="1", labels="kind=victim")
    run = DAG([Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"})]).start(
        backend=fleet
    )
    visit = gate.meet()
    victim.signal(signal.SIGSTOP)
    visit.release()
    visit.wait_gone()
    victim.signal(signal.SIGKILL)
    start(id="heir", slots="1", labels="kind=victim")
    gate.meet().release()
    result = run.wait(PATIENCE).raise_for_status()
    assert result.node_results["n"].worker == "heir"
    assert all(gone(pid) for pid in noted(notes)[:2])


def test_a_worker_that_was_stopped_comes_back(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path) -> None:
    """After two leases its attempt is with another worker; what it says of it then is refused, and it works on."""
    notes = tmp_path / "notes"
    sleeper = start(id="sleeper", slots="1", labels="kind=victim")
    run = DAG([Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"})]).start(
        backend=fleet
    )
    visit = gate.meet()
    sleeper.signal(signal.SIGSTOP)
    start(id="heir", slots="1", labels="kind=victim")
    again = gate.meet()  # which comes when the lease is over
    visit.release()
    sleeper.signal(signal.SIGCONT)
    sleeper.said("Linked with the coordinator", times=2)
    again.release()
    result = run.wait(PATIENCE).raise_for_status()
    assert result.node_results["n"].worker == "heir"
    os.kill(sleeper.pid, 0)
    more = DAG([Node(f"m{number}", os.getpid, selector={"kind": "victim"}) for number in range(40)])
    assert more.run(backend=fleet, progress=False).succeeded == 40


def test_what_kills_its_worker_is_poisonous(fleet: ClusterBackend) -> None:
    """A call that kills its process is given up after three losses; the worker itself lives."""

    def poison() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    result = DAG([Node("p", poison), Node("n", os.getpid)]).run(backend=fleet, progress=False)
    assert isinstance(result.node_results["p"].error, PoisonousTaskError)
    assert result.succeeded == 1


def test_what_ends_its_worker_before_anybody_hears_of_it_is_poisonous_and_not_what_waits_behind(
    fleet: ClusterBackend, start: Start
) -> None:
    """Else it would end one worker after the other."""
    nodes = [Node(f"n{number}", os.getpid, selector={"one": "yes"}, priority=-1) for number in range(9)]
    poison = Node("p", command("kill -9 $PPID; sleep 5"), selector={"one": "yes"}, priority=1)
    run = DAG([poison, *nodes]).start(backend=fleet, progress=False)
    for number in range(4):
        worker = start(id=f"w{number}", slots="1", labels="one=yes")
        if number < 3:
            worker.wait()
    result = run.wait(PATIENCE)
    assert isinstance(result.node_results["p"].error, PoisonousTaskError)
    assert result.succeeded == 9


def test_a_worker_leaves_when_it_is_done(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path) -> None:
    """SIGTERM lets what runs end, and gives back what waits; then the worker is gone, with its folder, and nothing was lost."""
    leaver = start(id="leaver", slots="1", labels="kind=victim")
    nodes = [Node(f"n{number}", partial(stand, gate.address), selector={"kind": "victim"}) for number in range(3)]
    run = DAG(nodes).start(backend=fleet)
    visit = gate.meet()
    leaver.signal(signal.SIGTERM)
    leaver.said("Leaving")
    start(id="heir", slots="2", labels="kind=victim")
    others = [gate.meet() for _ in range(2)]
    for each in (visit, *others):
        each.release()
    result = run.wait(PATIENCE).raise_for_status()
    assert sorted(node.worker for node in result.node_results.values()) == ["heir", "heir", "leaver"]
    assert leaver.wait() == 0
    assert list((tmp_path / "home-0" / "worker").iterdir()) == []


def test_a_second_signal_stops_at_once(fleet: ClusterBackend, start: Start, gate: Gate, tmp_path: Path) -> None:
    """Who cannot wait says so twice: what runs is killed, and goes to another worker."""
    notes = tmp_path / "notes"
    leaver = start(id="leaver", slots="1", labels="kind=victim")
    run = DAG([Node("n", partial(pids_and_stand, gate.address, str(notes)), selector={"kind": "victim"})]).start(
        backend=fleet
    )
    gate.meet()
    leaver.signal(signal.SIGTERM)
    leaver.said("Leaving")
    leaver.signal(signal.SIGTERM)
    assert leaver.wait() == 1
    assert all(gone(pid) for pid in noted(notes))
    start(id="heir", slots="1", labels="kind=victim")
    gate.meet().release()
    assert run.wait(PATIENCE).raise_for_status().node_results["n"].worker == "heir"


def test_what_dead_workers_left_is_removed(start: Start, tmp_path: Path) -> None:
    """The next one with the same home finds the folder of one that was killed, and removes it."""
    victim = start(id="victim", slots="1")
    (folder,) = (tmp_path / "home-0" / "worker").iterdir()
    victim.signal(signal.SIGKILL)
    victim.wait()
    start(id="next", slots="1", env={"DAGRID_HOME": str(tmp_path / "home-0")})
    assert not folder.exists()


def test_what_is_exclusive_is_killed_while_its_worker_is_stopped(
    fleet: ClusterBackend, start: Start, gate: Gate
) -> None:
    """Who is stopped cannot see to that; another worker begins it when it is dead."""
    task = f"import os; from dagrid.testing.gate import stand; stand({gate.address}, str(os.getpid()))"
    exclusive = Command(lambda: Launch([sys.executable, "-c", task]), exclusive=True)
    first = start(id="first", slots="1", labels="one=yes")
    run = DAG([Node("n", exclusive, selector={"one": "yes"})]).start(backend=fleet, progress=False)
    pid = gate.meet().label
    first.signal(signal.SIGSTOP)
    start(id="second", slots="1", labels="one=yes")
    again = gate.meet()
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    first.signal(signal.SIGCONT)
    again.release()
    assert run.wait(PATIENCE).raise_for_status().node_results["n"].worker == "second"


def test_a_coordinator_begins_anew(gate: Gate, tmp_path: Path) -> None:
    """What runs goes on, and its end is told to the one that comes after; what is asked meanwhile is not lost."""
    first = Hub(port=0, lease=5.0, heartbeat=0.1)
    first.start()
    with workers(first.port, tmp_path) as start:
        worker = start(id="w", slots="1")
        nodes = [Node("n", partial(pids_and_stand, gate.address, str(tmp_path / "notes"))), Node("m", os.getpid, ["n"])]
        run = DAG(nodes).start(backend=f"grpc://127.0.0.1:{first.port}")
        visit = gate.meet()
        first.close()
        visit.release()
        visit.wait_gone()
        second = Hub(port=first.port, lease=5.0, heartbeat=0.1)
        second.start()
        try:
            worker.said("Linked with the coordinator", times=2)
            result = run.wait(PATIENCE).raise_for_status()
            assert result.node_results["n"].attempts == 1
            assert len(noted(tmp_path / "notes")) == 2
        finally:
            second.close()


def test_a_worker_that_is_to_leave_waits_for_no_coordinator_longer_than_a_lease(gate: Gate, tmp_path: Path) -> None:
    """Nobody wants its ends any more then; it says that there were some."""
    hub = Hub(port=0, lease=1.0)
    hub.start()
    with workers(hub.port, tmp_path) as start:
        worker = start(slots="1")
        run = DAG([Node("n", partial(stand, gate.address))]).start(
            backend=f"grpc://127.0.0.1:{hub.port}", progress=False
        )
        visit = gate.meet()
        hub.close()
        worker.signal(signal.SIGTERM)
        visit.release()
        assert worker.wait() == 0
        assert "attempts: 1" in worker.said("left untold")
        run.let_go()
        run.close()


SCRIPT = """
import sys
from functools import partial
from dagrid import DAG, Node
from dagrid.testing.gate import stand
address, backend, folder = ("127.0.0.1", int(sys.argv[1])), sys.argv[2], sys.argv[3]
nodes = [Node("a", partial(stand, address, "a")), Node("b", partial(stand, address, "b"), ["a"])]
DAG(nodes).run(backend=backend, checkpoint=folder, run_id="r", progress=False)
"""


def test_a_run_is_taken_up_again(fleet: ClusterBackend, gate: Gate, tmp_path: Path) -> None:
    """The script is killed while a node runs: that goes on, and whoever takes up the run gets its value, not a second one."""
    kept, address = str(tmp_path / "kept"), f"grpc://127.0.0.1:{fleet.port}"
    script = subprocess.Popen([sys.executable, "-c", SCRIPT, str(gate.address[1]), address, kept], cwd=tmp_path)
    visit = gate.meet()
    script.kill()
    script.wait(PATIENCE)
    run = restart(kept, "r", backend=address)
    visit.release()
    gate.meet().release()
    result = run.wait(PATIENCE).raise_for_status()
    assert (result["a"], result["b"]) == ("a", "b")
    assert [result.node_results[name].attempts for name in "ab"] == [1, 1]


TAKING = """
import sys
from functools import partial
from dagrid import DAG, Node
from dagrid.testing.gate import stand
address, backend, folder = ("127.0.0.1", int(sys.argv[1])), sys.argv[2], sys.argv[3]
nodes = [Node("made", partial(bytes, 1 << 20)), Node("size", len, inputs={"obj": "made"}, priority=-1)]
nodes += [Node(name, partial(stand, address, name), ["made"]) for name in "ab"]
DAG(nodes).run(backend=backend, checkpoint=folder, run_id="r", progress=False)
"""


def test_a_run_is_taken_up_again_whose_call_waits_for_a_large_value(
    fleet: ClusterBackend, gate: Gate, tmp_path: Path
) -> None:
    """The script is killed, which had referred to the value; it is still there for who was to take it."""
    kept, address = str(tmp_path / "kept"), f"grpc://127.0.0.1:{fleet.port}"
    script = subprocess.Popen([sys.executable, "-c", TAKING, str(gate.address[1]), address, kept], cwd=tmp_path)
    visits = [gate.meet(), gate.meet()]
    script.kill()
    script.wait(PATIENCE)
    run = restart(kept, "r", backend=address)
    for visit in visits:
        visit.release()
    result = run.wait(PATIENCE).raise_for_status()
    assert (result["size"], result["made"]) == (1 << 20, bytes(1 << 20))
    assert [result.node_results[name].attempts for name in ("made", "size", "a", "b")] == [1, 1, 1, 1]


def test_a_large_value_outlives_the_worker_that_made_it(fleet: ClusterBackend, start: Start, gate: Gate) -> None:
    """It is with the coordinator before its node has ended."""
    victim = start(id="victim", slots="1", labels="kind=victim")
    steady = {"steady": "yes"}
    nodes = [
        Node("made", partial(bytes, 1 << 20), selector={"kind": "victim"}),
        Node("stands", partial(stand, gate.address), ["made"], selector=steady),
        Node("size", lambda made: len(made) + 0, ["made", "stands"], selector=steady),
    ]
    run = DAG(nodes).start(backend=fleet, keep={"size"})
    visit = gate.meet()
    victim.signal(signal.SIGKILL)
    victim.wait()
    visit.release()
    result = run.wait(PATIENCE).raise_for_status()
    assert (result["size"], result.node_results["made"].attempts) == (1 << 20, 1)


def test_two_runs_of_one_id_have_nothing_of_each_other(fleet: ClusterBackend, gate: Gate, tmp_path: Path) -> None:
    """An id is unique in its checkpoint, and a fleet serves runs of many."""
    runs, visits = {}, []
    for who in ("first", "second"):
        dag = DAG([Node("n", partial(stand, gate.address, who))])
        address = f"grpc://127.0.0.1:{fleet.port}"
        runs[who] = dag.start(backend=address, checkpoint=tmp_path / who, run_id="monday", progress=False)
        visits.append(gate.meet())
    for visit in visits:
        visit.release()
    for who, run in runs.items():
        assert run.wait(PATIENCE).raise_for_status()["n"] == who
