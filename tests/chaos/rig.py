"""A coordinator and three workers behind proxies, and the book that the steps themselves keep of what has happened."""

from __future__ import annotations

import json
import signal
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dagrid.assemble import view
from tests.chaos.proxy import Proxy
from tests.service.processes import Fleet, processes, until

LEASE = 3.0
SLOTS = 2
NAMES = ("one", "two", "three")
STEP = """\
book={book} name=$1 own=$2 wait=$3 kind=$4; shift 4
echo "begin $DAG_RUN_ID $name $$ $DAGRID_ATTEMPT_KEY" >> $book
if [ $kind = flaky ] && [ $(grep -c "^begin $DAG_RUN_ID $name " $book) -lt 2 ]; then exit 1; fi
sleep $wait
for value; do own=$((own + value)); done
echo "end $DAG_RUN_ID $name $$ $DAGRID_ATTEMPT_KEY" >> $book
echo $own
"""
# All slots of a worker at once: each waits until all the others are there.
MEET = (
    "touch {folder}/$DAG_RUN_ID.{name}.{number}; "
    "until [ $(ls {folder}/$DAG_RUN_ID.{name}.* | wc -l) = {slots} ]; do sleep 0.02; done"
)


@dataclass
class Step:
    """A step of a workflow that adds a number to what those before it give."""

    name: str
    own: int
    wait: float = 0.0
    kind: str = "plain"
    worker: str = ""
    parents: list[str] = field(default_factory=list)


@dataclass
class Flow:
    """A workflow, and what comes of it."""

    steps: list[Step]
    calls: bool = False

    def values(self) -> dict[str, int]:
        """Return what each step gives where nothing goes wrong."""
        found: dict[str, int] = {}
        for step in self.steps:
            found[step.name] = step.own + sum(found[parent] for parent in step.parents)
        return found

    def text(self, script: Path) -> str:
        """Return it as a file."""
        steps = []
        for step in self.steps:
            values = " ".join(f"${parent.upper()}" for parent in step.parents)
            settings: dict[str, object] = {
                "name": step.name,
                "command": f"sh {script} {step.name} {step.own} {step.wait} {step.kind} {values}".strip(),
                "output": step.name.upper(),
                "depends": step.parents,
            }
            if step.worker:
                settings["workerSelector"] = {"is": step.worker}
            if step.kind == "flaky":
                settings["retryPolicy"] = {"limit": 1, "intervalSec": 0}
            steps.append(settings)
        if not self.calls:
            return json.dumps({"type": "graph", "steps": steps})
        steps.append({"name": "sub", "call": "other", "depends": [self.steps[-1].name]})
        inner = [{"name": "inner", "command": f"sh {script} inner 1 0.05 plain"}]
        return json.dumps({"type": "graph", "steps": steps}) + "\n---\n" + json.dumps({"name": "other", "steps": inner})


class Rig(Fleet):
    """The fleet; `shared` is a folder for the steps."""

    def __init__(self, folder: Path, settings=()) -> None:
        key = {"DAGRID_COORDINATOR_SIGNING_KEY": "a-key-of-a-test"}
        super().__init__(folder, ("coordinator", f"--coordinator.lease={LEASE:g}s", *settings), key)
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.book = self.shared / "book"
        self.book.touch()
        self.script = self.shared / "step.sh"
        self.script.write_text(STEP.format(book=self.book))
        self.proxies = {name: Proxy(self.port) for name in NAMES}

    def begin(self) -> Rig:
        """Start all processes."""
        self.start()
        for name in NAMES:
            self.again(name)
        self.linked()
        return self

    def again(self, name: str) -> None:
        """Start a worker."""
        flags = (f"--worker.coordinator-port={self.proxies[name].port}", f"--worker.slots={SLOTS}")
        self.worker(name, f"is={name}", flags=flags)

    def close(self) -> None:
        for process in self.workers.values():
            with suppress(ProcessLookupError):
                process.process.send_signal(signal.SIGCONT)
        super().close()
        for proxy in self.proxies.values():
            proxy.close()

    def is_served(self) -> bool:
        """Return whether there is a coordinator at this moment."""
        return self.coordinator is not None and self.coordinator.process.poll() is None

    def kill_coordinator(self) -> None:
        """End it as a power cut does."""
        assert self.coordinator is not None
        self.coordinator.kill()

    def submit(self, flow: Flow) -> str:
        """Put a workflow into the queue, and return its run."""
        return self.enqueue(flow.text(self.script), "chaos")

    # What has happened.

    def events(self, run: str):
        """Return what the history has recorded of a run."""
        seen = view(self.history.checkpoint, run)
        try:
            return list(seen.events(follow=False))
        finally:
            seen.close()

    def lines(self, run: str) -> list[tuple[str, str, str]]:
        """Return what the steps of a run have written: what, which step, and the key of its attempts."""
        words = [line.split() for line in self.book.read_text().splitlines()]
        return [(what, step, key) for what, of, step, _, key in words if of == run]

    def check(self, run: str, flow: Flow, stopped: bool) -> None:
        """See that a run has ended as it would have without faults, by its record and by what its steps have written."""
        status = self.status(run)
        if not stopped:
            assert status == "succeeded", f"{run} is {status}"
        self.check_record(run, flow, stopped and status != "succeeded")
        if status == "succeeded":
            for step, value in flow.values().items():  # each attempt that ran to its end has written it
                out = self.out(run, step)
                assert set(out.split()) == {str(value)}, f"{run}/{step} has written {out!r}"
        for child in self.history.children(run):
            assert child.ended, f"{child.run}, which {run} has called, has not ended"
            assert stopped or child.status == "succeeded"
        if not stopped and flow.calls:
            (child,) = self.history.children(run)
            assert ("end", "inner") in [(what, step) for what, step, _ in self.lines(child.run)]

    def check_record(self, run: str, flow: Flow, stopped: bool) -> None:
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        ends: dict[str, str] = {}
        parents = {step.name: step.parents for step in flow.steps}
        for event in self.events(run):
            if not event.node:
                continue
            seen[event.node][event.kind] += 1
            if event.kind in ("completed", "failed", "cancelled", "skipped", "timed_out"):
                assert ends.get(event.node) != "completed", f"{event.node} of {run} has two ends: {event}"
                ends[event.node] = event.kind
            if event.kind == "started":
                missing = [parent for parent in parents.get(event.node, ()) if ends.get(parent) != "completed"]
                assert not missing, f"{event.node} of {run} has started before the end of {missing}"
        written = self.lines(run)
        keys: dict[str, str] = {}
        over: set[str] = set()
        begun: Counter[str] = Counter()
        for what, step, key in written:
            assert keys.setdefault(step, key) == key
            assert (key.partition("~")[0], key.rpartition("/")[2]) == (run, step)
            if what == "end":
                over.add(step)
                continue
            begun[step] += 1
            missing = [parent for parent in parents[step] if parent not in over]
            assert not missing, f"{step} of {run} has begun before the end of {missing}"
        for wanted in flow.steps:
            name, kinds = wanted.name, seen[wanted.name]
            if not stopped:
                assert kinds["completed"] == 1, f"{name} of {run}: {kinds}"
                assert name in over
            # Attempts that were lost with a worker, or that came back from one before it had said that it performs them.
            lost = kinds["lost"] + kinds["requeued"] + kinds["recalled"]
            most = 1 + lost + (wanted.kind == "flaky")
            assert begun[name] <= most, f"{name} of {run} was performed {begun[name]} times: {kinds}"

    def check_nothing_is_left(self) -> None:
        """See that all slots are free, and that nothing of the runs is left on the workers."""
        meet = {
            name: [
                {
                    "name": f"{name}-{number}",
                    "command": MEET.format(folder=self.shared, name=name, number=number, slots=SLOTS),
                    "workerSelector": {"is": name},
                }
                for number in range(SLOTS)
            ]
            for name in NAMES
        }
        steps = [step for some in meet.values() for step in some]
        run = self.enqueue(json.dumps({"type": "graph", "steps": steps}), "meet")
        assert self.ended(run) == "succeeded"
        for path in self.shared.glob(f"{run}.*"):
            path.unlink()
        for name in NAMES:
            until(lambda name=name: not self.left(name), f"{name} without folders of runs: {self.left(name)}")
        assert len(list((self.home / "coordinator").iterdir())) == 1
        assert list((self.folder / "main" / "tmp").iterdir()) == []
        until(lambda: not processes(self.script), f"the end of the steps {processes(self.script)}")

    def left(self, name: str) -> list[Path]:
        """Return what there is of runs in the home of a worker, and of workers that are no more."""
        folders = list((self.folder / name / "home" / "worker").iterdir())
        runs = [run for folder in folders for run in (folder / "runs").glob("*")]
        return runs + folders[1:]
