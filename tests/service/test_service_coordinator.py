"""A coordinator by itself: queues, limits, resuming, stopping, people; its workers are commands on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import pytest

from dagrid.errors import RunHeldError, StoreError
from dagrid.execution.backends.command import CommandBackend
from dagrid.history import About, History
from dagrid.history.bells import RETRY, STOP
from dagrid.service import coordinator
from dagrid.service.coordinator import Coordinator
from dagrid.workflow.running import answer
from tests.service.processes import until

PATIENCE = 20.0


class Here:
    """Workers that are this machine."""

    def place(self, context, about):
        return CommandBackend(100)

    def close(self):
        """There is nothing to let go of."""


class Service:
    """A home with what coordinators have said."""

    def __init__(self, folder):
        self.folder = folder
        self.home = folder / "home"
        self.history = History(self.home)
        self.said = []

    @contextmanager
    def coordinator(self, **settings):
        with History(self.home) as history:
            coordinator = Coordinator(history, Here(), say=self.said.append, **settings)
            coordinator.start()
            try:
                yield coordinator
            finally:
                coordinator.close()

    def enqueue(self, text, name="flow", run=None, queue=None, at_once=0, priority=0):
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        about = About(source=str(path), spec=text, queue=queue or name, at_once=at_once, priority=priority)
        return self.history.enqueue(name, about, run)

    def until(self, run, *statuses):
        """Wait until a run has one of these statuses."""
        deadline = time.monotonic() + PATIENCE
        while (status := self.history.info(run).status) not in statuses:
            assert time.monotonic() < deadline, f"{run} is {status}; {self.said}"
            time.sleep(0.005)
        return status


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    with made.history:
        yield made


def test_a_run_in_a_queue_is_begun_when_it_comes(service):
    """From before the coordinator, and while it sleeps."""
    early = service.enqueue("steps: [echo early]")
    with service.coordinator():
        service.until(early, "succeeded")
        late = service.enqueue("steps: [echo late]")
        service.until(late, "succeeded")
    assert service.said == []


def test_a_queue_has_a_limit(service, tmp_path):
    """Of its configuration, else that of the workflow; priorities go first, and another queue does not wait."""
    step = f"steps: ['echo $0 >> {tmp_path}/order; until test -e {tmp_path}/go; do sleep 0.01; done']"
    first = service.enqueue(step, run="first", at_once=1)
    later = service.enqueue(step, run="later", at_once=1)
    urgent = service.enqueue(step, run="urgent", at_once=1, priority=5)
    wide = [service.enqueue(step, "wide", run=f"wide{number}") for number in range(3)]
    with service.coordinator(limits={"wide": 2}) as coordinator:
        service.until(urgent, "running")
        service.until(wide[1], "running")
        assert [service.history.info(run).status for run in (first, later, wide[2])] == ["queued"] * 3
        assert coordinator.active == 3
        (tmp_path / "go").touch()
        for run in (first, later, urgent, *wide):
            service.until(run, "succeeded")


def test_a_run_that_is_taken_out_of_its_queue_is_not_spoken_of(service, tmp_path):
    """The coordinator knows of it until its turn comes, and said then that it could not be performed: there was one already."""
    text = f"steps: ['until test -e {tmp_path}/go; do sleep 0.01; done']"
    first, second, third = (service.enqueue(text, at_once=1) for _ in range(3))
    with service.coordinator():
        service.until(first, "running")
        service.history.dequeue(second)
        (tmp_path / "go").touch()
        assert service.until(third, "succeeded", "failed") == "succeeded"
    assert service.history.info(second).status == "aborted"
    assert service.said == []


def test_what_cannot_begin_has_failed(service):
    """Its log says why, and nothing else is held up by it."""
    bad = service.enqueue("steps: [{name: a, command: x, depends: nobody}]", "bad")
    good = service.enqueue("steps: [echo]")
    with service.coordinator():
        service.until(bad, "failed")
        service.until(good, "succeeded")
    assert "depends on 'nobody'" in (service.history.folder(bad) / "run.log").read_text()


def test_a_workflow_whose_id_may_not_be_chosen_waits_in_queues_too(service):
    """The id that a queue has given is nobody's choice: such a workflow was refused whenever its turn came."""
    text = "runConfig: {disableRunIdEdit: true, disableParamEdit: true}\nsteps: [{name: a, command: 'true'}]"
    run = service.enqueue(text)
    with service.coordinator():
        assert service.until(run, "succeeded", "failed") == "succeeded", service.said


def test_what_is_refused_before_it_has_a_place_has_failed(service, tmp_path):
    """It stayed in its queue for good, spoken of whenever a coordinator began, and was in the way of nobody but who looked."""
    text = "runConfig: {disableParamEdit: true}\nparams: A=1\nsteps: [{name: a, command: 'true'}]"
    (tmp_path / "flow.yaml").write_text(text)
    about = About(source=str(tmp_path / "flow.yaml"), spec=text, queue="flow", params=("A=2",))
    run = service.history.enqueue("flow", about)
    with service.coordinator():
        service.until(run, "failed")
    assert "parameters may not be given" in (service.history.folder(run) / "run.log").read_text()


def test_a_run_that_is_let_go_of_is_taken_up_by_the_next(service, tmp_path):
    """A coordinator that ends does not end its runs."""
    step = f"echo begun >> {tmp_path}/log; until test -e {tmp_path}/go; do sleep 0.01; done"
    run = service.enqueue(f"steps: [{{name: a, command: echo once >> {tmp_path}/log}}, {{name: b, command: '{step}'}}]")
    with service.coordinator():
        service.until(run, "running")
        wait_for(tmp_path / "log", "begun")
    assert service.history.info(run).status == "interrupted"
    (tmp_path / "go").touch()
    with service.coordinator():
        service.until(run, "succeeded")
    assert (tmp_path / "log").read_text().split() == ["once", "begun", "begun"]


def test_a_run_of_another_home_is_left_to_that(service):
    """Several homes of a machine may have one store: the workers of the other coordinator went on with what this one began anew.
    A container that is replaced by one of another name is not another home.
    """
    for run, changed in (("theirs", {"home": "another"}), ("ours", {"host": "the-container-before"})):
        place = service.history.begin("flow", About(spec="steps: [echo]"), run, served=True)
        about = msgspec.structs.replace(service.history.about(run), **changed)
        service.history.checkpoint.store.describe(run, msgspec.json.encode(about))
        place.close()
    with service.coordinator():
        service.until("ours", "failed", "succeeded")
        service.until(service.enqueue("steps: [echo]"), "succeeded")
    assert service.history.info("theirs").status == "interrupted"


def test_a_run_of_somebody_else_is_left_alone(service):
    """What `dagrid start` had begun is gone on with by hand."""
    place = service.history.begin("mine", About(spec="steps: [echo]"), "mine")
    place.close()
    with service.coordinator():
        service.until(service.enqueue("steps: [echo]"), "succeeded")
    assert service.history.info("mine").status == "interrupted"


def test_a_run_is_stopped_and_not_the_coordinator(service, tmp_path):
    """`dagrid stop` reaches the one run among many, and one that another run called."""
    calling = service.enqueue("steps: [{name: a, call: sub}]\n---\nname: sub\nsteps: [sleep 60]", "calling")
    alone = service.enqueue("steps: [sleep 60]", "alone")
    with service.coordinator():
        service.until(alone, "running")
        service.until(calling, "running")
        deadline = time.monotonic() + PATIENCE
        while not (children := service.history.children(calling)) or children[0].status != "running":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        service.history.stop(alone)
        service.until(alone, "aborted")
        service.history.stop(children[0].run)
        service.until(children[0].run, "aborted")
        service.until(calling, "failed")
        service.until(service.enqueue("steps: [echo]"), "succeeded")


def test_who_waits_for_a_person_holds_nothing(service):
    """The run is nobody's until somebody approves."""
    run = service.enqueue("steps: [{name: a, command: echo, approval: {prompt: well?}}]")
    with service.coordinator() as coordinator:
        service.until(run, "waiting")
        deadline = time.monotonic() + PATIENCE
        while coordinator.active:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_what_a_person_says_is_passed_on(service):
    """Approved elsewhere, also while no coordinator is there: it goes on with the run, as the one that performs it."""
    text = (
        "steps: [{name: a, command: echo, approval: {prompt: well?, input: [WHO]}}, {name: b, command: 'echo by $WHO'}]"
    )
    first, second, third = (service.enqueue(text, run=run) for run in ("first", "second", "third"))
    with service.coordinator():
        for run in (first, second, third):
            service.until(run, "waiting")
        answer(service.history, first, signals={"a": {"WHO": "me"}})
        service.until(first, "succeeded")
        answer(service.history, third, rejects={"a": "no"})
        service.until(third, "failed")
    answer(service.history, second, signals={"a": {"WHO": "you"}})
    assert service.history.info(second).status == "interrupted"
    with service.coordinator():
        service.until(second, "succeeded")
        service.history.tell(RETRY, third)
        service.until(third, "waiting")
    for run, who in ((first, "me"), (second, "you")):
        assert (service.history.folder(run) / "b.out").read_text() == f"by {who}\n"


def test_what_a_person_says_to_a_run_that_was_called(service):
    """All that wait for it are nobody's meanwhile, and go on."""
    text = (
        "steps: [{name: a, call: sub}]\n---\n"
        "name: sub\nsteps: [{name: b, command: echo, approval: {prompt: well?}}, {name: c, command: echo c}]"
    )
    first, second = (service.enqueue(text, run=run) for run in ("first", "second"))
    with service.coordinator():
        for run in (first, second):
            service.until(run, "waiting")
        (child,) = service.history.children(first)
        assert answer(service.history, child.run, signals={"b": {}}).run == first
        service.until(first, "succeeded")
        (other,) = service.history.children(second)
        answer(service.history, other.run, rejects={"b": "no"})
        service.until(second, "failed")
    assert [service.history.info(run.run).status for run in (child, other)] == ["succeeded", "failed"]


def dagrid(service, *arguments):
    """Call the command, and return what it says."""
    return called(service, *arguments).stderr


def told(service, *arguments):
    """Call the command, and return its data."""
    return called(service, *arguments).stdout


def called(service, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dagrid", *arguments, "--dagrid-home", str(service.home)],
        capture_output=True,
        text=True,
        check=False,
        cwd=service.folder,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_what_is_asked_of_a_run_that_has_only_just_ended_is_done(service, tmp_path, monkeypatch):
    """Its end is in the history before the coordinator has seen to it."""
    run = service.enqueue(f"steps: [echo a >> {tmp_path}/ran, test -e {tmp_path}/tried || ! touch {tmp_path}/tried]")
    asked: list[str] = []
    tell = Coordinator._tell

    def tell_late(self, what):
        if not asked:
            asked.append(service.history.info(run).status)
            service.history.tell(RETRY, run)
        tell(self, what)

    monkeypatch.setattr(Coordinator, "_tell", tell_late)
    with service.coordinator():
        service.until(run, "succeeded")
    assert asked == ["failed"]
    assert (tmp_path / "ran").read_text() == "a\n"


@pytest.mark.parametrize("settings", ["", "coordinator: {host: 0.0.0.0, port: 1}\n"])
def test_what_runs_once_more_is_the_coordinators(service, tmp_path, settings):
    """From a step on, or all of it as a new run, which waits in the same queue and is of the file as it is now. So it is where
    a file of settings says where that coordinator listens: the run was performed here, past the coordinator and its queue.
    """
    steps = f"steps: [{{name: a, command: echo a >> {tmp_path}/ran}}, {{name: b c, command: echo b >> {tmp_path}/ran}}]"
    run = service.enqueue(steps, queue="slow")
    with service.coordinator():
        service.until(run, "succeeded")
        (service.home / "config.yaml").write_text(settings)
        assert f"The coordinator of {service.home} performs it" in dagrid(service, "retry", run, "--from", "b c")
        wait_for(tmp_path / "ran", "a\nb\nb\n")
        service.until(run, "succeeded")
        (service.folder / "flow.yaml").write_text(steps.replace("echo a", "echo new"))
        said = dagrid(service, "restart", run, "--trigger-type", "by hand")
        anew = said.split()[-1]
        assert f"The coordinator of {service.home} performs it" in said
        assert anew != run
        service.until(anew, "succeeded")
    assert (tmp_path / "ran").read_text().split() == ["a", "b", "b", "new", "b"]
    for one in (run, anew):
        about = service.history.about(one)
        assert (about.pid, about.queue, about.served) == (os.getpid(), "slow", True)
    assert service.history.about(anew).trigger == "by hand"


def test_what_was_called_runs_once_more_by_itself(service, tmp_path):
    """A queue keeps which document of its file it is; the whole file ran under its name. Programs are told which run it is."""
    run = service.enqueue(f"steps: [{{call: inner}}]\n---\nname: inner\nsteps: [echo inner >> {tmp_path}/ran]\n")
    with service.coordinator():
        service.until(run, "succeeded")
        anew = json.loads(told(service, "restart", "inner", "--json"))["run"]
        service.until(anew, "succeeded")
    assert (tmp_path / "ran").read_text() == "inner\ninner\n"
    assert not service.history.children(anew)


def test_a_run_that_could_not_begin_is_tried_again_by_its_coordinator(service, tmp_path):
    """What it lacked is there now. It was performed by who asked, without its workers, or was gone where that was refused."""
    run = service.enqueue("files: [late.txt]\nsteps: [{name: a, command: cat late.txt}]", queue="slow")
    with service.coordinator():
        service.until(run, "failed")
        (service.folder / "late.txt").write_text("here\n")
        assert f"The coordinator of {service.home} performs it" in dagrid(service, "retry", run)
        service.until(run, "succeeded")
    about = service.history.about(run)
    assert (about.pid, about.queue, about.served) == (os.getpid(), "slow", True)


def test_a_second_stop_goes_down_to_the_handlers_of_what_was_called(service, tmp_path):
    """The first asks the steps to stop, and what was called sweeps up; who asks again does not wait for that either."""
    run = service.enqueue(
        "steps: [{name: a, call: middle}]\n---\nname: middle\nsteps: [{name: b, call: inner}]\n---\nname: inner\n"
        f"handlerOn: {{cancel: {{command: 'touch {tmp_path}/sweeping; sleep 600'}}}}\n"
        f"steps: ['touch {tmp_path}/there; sleep 600']\n"
    )
    with service.coordinator():
        for marker in ("there", "sweeping"):
            deadline = time.monotonic() + PATIENCE
            while not (tmp_path / marker).exists():
                assert time.monotonic() < deadline, f"no {marker}; {service.said}"
                time.sleep(0.005)
            service.history.stop(run)
        service.until(run, "aborted")
    assert {info.status for info in service.history.runs(children=True)} == {"aborted"}


def test_a_run_that_is_tried_again_while_its_refusal_is_seen_to_is_begun(service, tmp_path, monkeypatch):
    """It waited in its queue until another coordinator began."""
    (tmp_path / "settings.env").mkdir()  # it cannot be read
    run = service.enqueue(f"dotenv: [{tmp_path}/settings.env]\nsteps: [echo]", queue="slow")
    again: list[str] = []
    tell = Coordinator._tell

    def tell_late(self, what):
        if not again:
            (tmp_path / "settings.env").rmdir()
            again.append(service.history.requeue(run, service.history.about(run)))
            service.until(service.enqueue("steps: [echo]", "other"), "succeeded")  # so that was heard
        tell(self, what)

    monkeypatch.setattr(Coordinator, "_tell", tell_late)
    with service.coordinator():
        service.until(run, "succeeded")
    assert again == [run]


def test_a_stop_that_comes_too_late_stops_nothing_afterwards(service, tmp_path):
    """A run that was called has just ended when it is to be stopped, by who asks twice, say. A retry performed it, and stopped
    it at once for what was asked before.
    """
    steps = f"""type: graph
steps:
  - {{name: k, call: sub}}
  - {{name: w, command: 'until test -e {tmp_path}/go; do sleep 0.01; done'}}
---
name: sub
steps: [{{name: s, command: 'test -e {tmp_path}/again'}}]
"""
    run = service.enqueue(steps)
    with service.coordinator():
        service.until(run, "running")
        deadline = time.monotonic() + PATIENCE
        while not (children := service.history.children(run)) or children[0].status != "failed":
            assert time.monotonic() < deadline, children
            time.sleep(0.005)
        service.history.tell(STOP, children[0].run)
        (tmp_path / "go").touch()
        service.until(run, "failed")
        (tmp_path / "again").touch()
        service.history.tell(RETRY, run)
        service.until(run, "succeeded")


@pytest.mark.parametrize("called", [False, True])
def test_a_run_that_is_stopped_twice_while_it_is_begun_hears_it_twice(service, tmp_path, called):
    """Whoever insists wants its handlers stopped too, however long it takes to begin: they were waited for."""
    os.mkfifo(tmp_path / "gate")
    slow = f"""env: [A: '`cat {tmp_path}/gate`']
handlerOn: {{exit: sleep 60}}
steps: [{{name: a, command: sleep 60}}]
"""
    calls = f"steps: [{{name: k, call: sub}}]\n---\nname: sub\n{slow}"
    with service.coordinator():
        run = service.enqueue(calls if called else slow, "slow")
        stopped = until(lambda: service.history.children(run))[0].run if called else run
        service.until(stopped, "running")
        for _ in range(2):
            service.history.tell(STOP, stopped)
        service.until(service.enqueue("steps: [echo]", "other"), "succeeded")  # both have been heard
        (tmp_path / "gate").write_text("x\n")
        service.until(stopped, "aborted")


class Away:
    """A store that does not answer the coordinator so many times when it is asked for something."""

    def __init__(self, service, monkeypatch, asked, times):
        self.times = times
        answer = getattr(History, asked)

        def ask(history, *args, **how):
            if history is service.history or not self.times:
                return answer(history, *args, **how)
            self.times -= 1
            raise StoreError("The server is away.")

        monkeypatch.setattr(History, asked, ask)


@pytest.mark.parametrize("asked", ["about", "runs"])
def test_a_store_that_does_not_answer_for_a_while_is_asked_again(service, monkeypatch, asked):
    """A server that is away for longer than it is looked for ended the thread that begins runs: whoever looked saw a coordinator
    that was well, and nothing was begun any more.
    """
    monkeypatch.setattr(coordinator, "AGAIN", 0.01)
    away = Away(service, monkeypatch, asked, 1)
    with service.coordinator():
        run = service.enqueue("steps: [echo]")
        service.until(run, "succeeded")
    assert not away.times
    assert "The server is away." in service.said[0]


def test_a_retry_is_not_lost_where_the_store_does_not_answer(service, monkeypatch, tmp_path):
    """Nobody rings a second time: it is done when the store is there again."""
    monkeypatch.setattr(coordinator, "AGAIN", 0.01)
    away = Away(service, monkeypatch, "about", 0)
    with service.coordinator():
        run = service.enqueue(f"steps: ['test -e {tmp_path}/go']")
        service.until(run, "failed")
        (tmp_path / "go").touch()
        away.times = 2
        service.history.tell(RETRY, run)
        service.until(run, "succeeded")
    assert not away.times
    assert len([said for said in service.said if "The server is away." in said]) == 2


def test_a_store_is_asked_again_although_others_ring_all_the_time(service, monkeypatch):
    """It was asked when nothing else had come for some seconds, which never is so in a busy place."""
    monkeypatch.setattr(coordinator, "AGAIN", 0.2)
    away = Away(service, monkeypatch, "about", 1)
    over = threading.Event()

    def ring():
        while not over.wait(0.01):
            service.history.tell(STOP, "nobody")

    ringing = threading.Thread(target=ring)
    with service.coordinator():
        ringing.start()
        try:
            service.until(service.enqueue("steps: [echo]"), "succeeded")
        finally:
            over.set()
            ringing.join()
    assert not away.times


def test_what_nobody_performs_is_stopped_by_who_takes_it_up(service, tmp_path):
    """Nothing of it runs any more but its handlers, and whoever asks meanwhile is told what is going to happen."""
    text = (
        f"handlerOn: {{exit: echo over >> {tmp_path}/ran}}\n"
        f"steps: [{{name: a, command: 'echo a >> {tmp_path}/ran; sleep 60'}}, {{name: b, command: echo b >> {tmp_path}/ran}}]"
    )
    run, other = service.enqueue(text), service.enqueue("steps: [sleep 60]", "other")
    with service.coordinator():
        wait_for(tmp_path / "ran", "a")
        service.until(other, "running")
    assert "the next coordinator goes on with it" in told(service, "status", run)
    assert "next stops it" in dagrid(service, "stop", run)
    assert "the next coordinator stops it" in told(service, "explain", run)
    with service.coordinator():
        service.until(run, "aborted")
        service.until(other, "running")
        assert (tmp_path / "ran").read_text().split() == ["a", "over"]
        service.history.tell(RETRY, run)
        wait_for(tmp_path / "ran", "a\nover\na")
    assert service.history.about(run).stopping == ""


def test_runs_that_are_called_while_the_coordinator_ends_are_let_go_behind_their_callers(service, tmp_path):
    """Which would hear of their ends, and failed: here the coordinator still begins another run when it is asked to end."""

    def held(name):
        return f"`echo {name} >> {tmp_path}/{name}; until test -e {tmp_path}/go-{name}; do sleep 0.01; done; echo 1`"

    sub = f"---\nname: sub\nparams: 'X={held('called')}'\nsteps: [sleep 60]\n"
    callers = [service.enqueue(f"steps: [{{name: a, call: sub}}]\n{sub}") for _ in range(10)]
    with service.coordinator() as coordinator, ThreadPoolExecutor(1) as ending:
        wait_for(tmp_path / "called", "called\n" * len(callers))
        service.enqueue(f"params: 'X={held('begun')}'\nsteps: [sleep 60]", "other")
        wait_for(tmp_path / "begun", "begun")
        ended = ending.submit(coordinator.close)
        for thread in threading.enumerate():
            if thread.name == "dagrid-desk":
                thread.join(PATIENCE)
        (tmp_path / "go-called").touch()
        for caller in callers:
            until(
                lambda caller=caller: [one.status for one in service.history.children(caller)] == ["running"], "a call"
            )
        (tmp_path / "go-begun").touch()
        ended.result(PATIENCE)
    assert [service.history.info(caller).status for caller in callers] == ["interrupted"] * len(callers)


def test_a_home_has_one_coordinator(service):
    """Two would take each other's runs."""
    with service.coordinator(), pytest.raises(RunHeldError, match="is performed by process"):
        Coordinator(History(service.home), Here())


def test_many_runs_cost_no_thread_each(service):
    """Fifty runs of one step, enqueued at once."""
    runs = [service.enqueue("steps: ['true']") for _ in range(50)]
    others = set(threading.enumerate())  # of tests before this one
    with service.coordinator():
        for run in runs:
            service.until(run, "succeeded")
        deadline = time.monotonic() + PATIENCE
        while len(left := set(threading.enumerate()) - others) > 16:
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


def wait_for(path, word):
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and word in path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
