"""Commands as tasks, on real processes: their values, their ends, many at once, and commands that travel."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from dagrid import DAG, Node, NodeStatus, PartitionedDAGExecutor, Retry, SkipTask, command, current, dag, task
from dagrid.commands import Command, Launch, value_of
from dagrid.errors import (
    BackendClosedError,
    CommandError,
    InvalidNodeError,
    InvalidSettingError,
    TaskError,
)
from dagrid.execution.backends.command import CommandBackend
from tests.backends.command_tasks import PATIENCE, ROOT, error_of, holding, nothing_is_left, run, sh  # noqa: F401  # a fixture

# --- values ------------------------------------------------------------------------------------------------------------------


def test_the_value_is_the_text_that_a_command_writes():
    """A text goes through the shell, a list does not; the white space around the output is of no interest."""
    nodes = [
        Node("text", command("printf '%s\\n' one | tr a-z A-Z; echo")),
        Node("list", command(["printf", "%s|", "a b", "$HOME"])),
        Node("bash", command("set -o pipefail; false | true; echo $?", shell=["bash", "-c"])),
        Node("fed", command("tr a-z A-Z", stdin="äbc")),
        Node("big", command("wc -c", stdin=bytes(1_000_000))),
        Node("empty", command("wc -c")),
    ]
    result = DAG(nodes).run(progress=False).raise_for_status()
    found = [result[node.id] for node in nodes]
    assert found == ["ONE", "a b|$HOME|", "1", "äBC", "1000000", "0"]


@pytest.mark.parametrize("backend", ["inline", "thread", "multiprocessing?max_workers=1"])
def test_values_flow_to_commands_and_from_them(backend):
    """A command is a node like others: it stands between functions, wherever these run."""

    @Command
    def upper(words, mark="!"):
        return Launch(["tr", "a-z", "A-Z"], stdin=" ".join(words).encode() + mark.encode(), capture=100)

    nodes = [
        Node("words", lambda: ["b", "a"]),
        Node("upper", upper, ["words"]),
        Node("end", lambda upper: upper * 2, ["upper"]),
    ]
    result = DAG(nodes).run(backend=backend, progress=False).raise_for_status()
    assert result["end"] == "B A!B A!"
    assert result.node_results["upper"].worker == "command"


def test_a_command_may_be_a_task_of_a_flow():
    """With arguments that are filled with values, and mapped over a list that only the run makes."""

    @task
    @Command
    def shout(words, *, end):
        return Launch(["/bin/echo", *words, end], capture=100)

    @task
    def split(text):
        return text.split()

    @dag(progress=False)
    def flow():
        return shout.map([[one] for one in "ab"], end="?"), shout([split("x y")[1]], end="!")

    assert flow() == (["a ?", "b ?"], "y !")


def test_what_a_command_gets_from_its_surroundings(tmp_path, monkeypatch):
    """Its folder, and its variables beside those of this process, or in place of them."""
    monkeypatch.setenv("FROM_HERE", "here")
    show = 'echo "$PWD $FROM_HERE $MINE"'
    assert run(command(show, cwd=tmp_path, env={"MINE": "mine"})).result == f"{tmp_path} here mine"
    assert run(sh(show, cwd=tmp_path, env={"MINE": "mine"}, capture=1000)).result == f"{tmp_path}  mine"


def test_a_command_has_a_session_and_the_signals_of_its_own():
    """Ctrl-C in the terminal is the run's to handle; and a broken pipe ends a command as it does in a shell."""
    group, session = run(command("ps -o pgid=,sid= -p $$")).result.split()
    assert group == session != str(os.getsid(0))
    ignored = int(run(command("grep SigIgn /proc/$$/status")).result.split()[1], 16)
    for ours in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):  # Python ignores them; what its own parent ignores is not ours to change
        assert not ignored & 1 << (ours - 1)


def test_done_makes_the_value():
    """It sees the end of the process, may raise, skip its node or let the graph grow; current() says where it is."""
    ends = []

    def grow(end):
        ends.append((end, current().node))
        current().grow(Node("more", lambda: end.code))
        return end.code

    def skip(end):
        raise SkipTask(f"code {end.code}")

    nodes = [
        Node("grow", sh("echo out; echo err >&2; exit 3", capture=10, done=grow), adds=set()),
        Node("skip", sh("exit 4", done=skip)),
    ]
    result = DAG(nodes).run(progress=False)
    assert (result["grow"], result["more"]) == (3, 3)
    assert result.node_results["skip"].status is NodeStatus.SKIPPED
    end, node = ends[0]
    assert node == "grow"
    assert (end.code, end.signal, end.stdout, end.stderr, end.text) == (3, 0, b"out\n", b"err\n", "out")
    assert 0 < end.seconds < PATIENCE


# --- ends --------------------------------------------------------------------------------------------------------------------


def test_a_command_that_fails_says_how():
    """The exit code, the signal, and its last words: what a person looks for first."""
    error = error_of(command("echo first >&2; echo last >&2; exit 3"))
    assert (error.code, error.signal, error.node, error.stderr) == (3, 0, "node", "first\nlast")
    assert "exited with code 3: last" in str(error)
    error = error_of(command("kill -KILL $$"))
    assert (error.code, error.signal) == (137, 9)
    assert "was killed by SIGKILL" in str(error)


def test_the_last_words_are_found_wherever_they_went(tmp_path):
    """In a file, with earlier ones of other commands in it, or merged with the output."""
    log = tmp_path / "log"
    log.write_text("of another\n")
    assert error_of(sh("echo mine >&2; exit 1", stderr=log)).stderr == "mine"
    assert error_of(sh("echo merged >&2; exit 1", merge=True)).stderr == "merged"
    assert error_of(sh("echo too >&2; exit 1", stdout=log, merge=True)).stderr == "too"
    assert log.read_text() == "of another\nmine\ntoo\n"


def test_a_retry_is_a_new_process(tmp_path):
    """Only for what its policy says, and with the launch made anew."""
    mark = tmp_path / "mark"

    class SevenError(Exception):
        pass

    def judge(end):
        if end.code == 7:
            raise SevenError
        return value_of(end)

    tried = sh(f"test -e {mark} && echo done && exit; touch {mark}; exit 7", capture=10, done=judge)
    result = DAG([Node("node", tried, retries=Retry(2, on=(SevenError,)))]).run(progress=False)
    assert result["node"] == "done"
    assert result.node_results["node"].attempts == 2


def test_times_are_those_of_the_process():
    """Neither the wait for a slot nor the reading of its output counts."""
    result = DAG([Node(f"n{number}", command("sleep 0.1")) for number in range(3)]).run(
        max_concurrency=1, progress=False
    )
    for node in result.raise_for_status().node_results.values():
        assert 0.1 <= node.ended - node.started < 5
    spans = sorted((node.started, node.ended) for node in result.node_results.values())
    assert all(one[1] <= following[0] for one, following in pairwise(spans))


@pytest.mark.parametrize(
    ("launch", "code", "remedy"),
    [
        (Launch(["no-such-program"]), 127, "there is no program 'no-such-program' along the PATH. Install it"),
        (Launch(["/no/such/program"]), 127, "there is no '/no/such/program'"),
        (Launch(["{tmp}/orphan"]), 127, "the interpreter in the first line"),
        (Launch(["{tmp}/plain"]), 126, "chmod +x"),
        (Launch(["{tmp}/junk"]), 126, "needs a first line such as #!/bin/sh"),
        (Launch(["true"], cwd="{tmp}/nowhere"), 126, "there is no folder"),
        (Launch(["true"], cwd="{tmp}/plain"), 126, "there is no folder"),
        (Launch(["true"], stdout="{tmp}/no/log"), 126, "Make its folder"),
        (Launch(["true"], stderr="{tmp}"), 126, "Name a file, not a folder"),
        (Launch(["true"], stdout=["{tmp}/log", "{tmp}/no/log"]), 126, "Make its folder"),
        (Launch(["true"], stdout="{tmp}/fifo"), 126, "a pipe that nobody reads"),
        (Launch(["true", "x" * 3_000_000]), 126, "Let it read them from its input"),
        (Launch(["true", "a\0b"]), 126, "without NUL"),
        (Launch(["true"], env={"A": 1}), 126, "texts"),  # type: ignore[dict-item]
        (Launch(["true", 3]), 126, "Arguments and variables are texts"),  # type: ignore[list-item]
        (Launch(["true"], mask="abc"), 126, "mask is a list"),
        (Launch("true"), 126, "argv is a list"),
        (Launch([]), 126, "argv is a list"),
        (Launch(["true"], stop_signal="SIGTERM"), 126, "stop_signal is the number"),  # type: ignore[arg-type]
        (Launch(["true"], grace=-1), 126, "grace is seconds"),
    ],
)
def test_what_cannot_be_started_says_what_to_do(launch, code, remedy, tmp_path):
    """Before anything runs, in words, and without a descriptor or a process left behind."""
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    os.mkfifo(tmp_path / "fifo")
    for name, text in (("orphan", "#!/no/such/interpreter\n"), ("junk", "\0\1\2")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def placed(path):
        if isinstance(path, list):
            return [placed(each) for each in path]
        return path.replace("{tmp}", str(tmp_path)) if isinstance(path, str) else path

    paths = {name: placed(getattr(launch, name)) for name in ("cwd", "stdout", "stderr")}
    argv = launch.argv if isinstance(launch.argv, str) else [placed(word) for word in launch.argv]
    error = error_of(Command(lambda: msgspec.structs.replace(launch, argv=argv, **paths)))
    assert error.code == code
    assert remedy in str(error)
    assert len(str(error)) < 400


def test_a_task_that_is_no_command_says_so():
    """A place for processes performs nothing else; what cannot be with a command is refused before anything runs."""
    found = run(Command(lambda: 3))  # type: ignore[arg-type,return-value]
    assert type(found.error) is TaskError
    assert "returned int" in str(found.error)
    with pytest.raises(InvalidNodeError, match="Remove its cache"):
        DAG([Node("node", command("true"), cache=True)]).run(progress=False)
    with pytest.raises(InvalidNodeError, match="Remove its place"):
        DAG([Node("node", command("true"), place="caller")]).run(progress=False)
    with pytest.raises(InvalidNodeError, match="Remove unpack_to"):
        DAG([task(unpack_to=2, name="pair")(command("echo")).node]).run(progress=False)
    wrong: dict
    for wrong in (
        {"line": ""},
        {"line": []},
        {"line": [3]},
        {"line": Path("/bin/true")},
        {"line": "true", "grace": -1},
        {"line": "true", "capture": -1},
    ):
        with pytest.raises(InvalidSettingError):
            command(**wrong)
    with pytest.raises(InvalidSettingError):
        CommandBackend(0)


# --- many --------------------------------------------------------------------------------------------------------------------


def test_no_more_run_at_once_than_may(tmp_path):
    """As many as the run says: two meet each other, and never three."""
    for name in ("ab", "ba"):
        os.mkfifo(tmp_path / name)
    meeting = {
        "a": f"echo x >{tmp_path}/ab; read x <{tmp_path}/ba",
        "b": f"read x <{tmp_path}/ab; echo x >{tmp_path}/ba",
    }
    nodes = [Node(name, command(text)) for name, text in meeting.items()]
    nodes += [Node(f"n{number}", command("sleep 0.01")) for number in range(10)]
    result = DAG(nodes).run(max_concurrency=2, progress=False).raise_for_status()
    spans = [(node.started, node.ended) for node in result.node_results.values()]
    assert max(sum(start <= at < end for start, end in spans) for at, _ in spans) == 2


def test_many_at_once_with_output():
    """Each gets its own output, whole, though one thread reads them all."""
    nodes = [Node(f"n{number}", command(f"seq {number} {number + 2000}; echo x >&2")) for number in range(120)]
    result = DAG(nodes).run(max_concurrency=40, progress=False).raise_for_status()
    for number in range(120):
        assert result[f"n{number}"].split() == [str(one) for one in range(number, number + 2001)]


def test_nothing_of_a_run_that_is_over_waits_for_the_collector(tmp_path):
    """A session has the run, and so all of its values: a coordinator, where it serves each run that calls others, grew by these
    until it looked for garbage.
    """
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    gone = threading.Event()
    gc.collect()
    gc.disable()
    try:
        backend = CommandBackend()
        started = DAG([Node("a", command(["cat", fifo]))]).start(places={"command": backend}, progress=False)
        (session,) = backend.sessions
        weakref.finalize(session, gone.set)
        del session
        fifo.write_text("go on")
        started.wait(PATIENCE)
        del started
        assert gone.wait(PATIENCE)
    finally:
        gc.enable()


def test_several_runs_share_a_backend_and_the_backend_of_a_run_may_be_one():
    """It takes commands like any backend takes calls, from several threads."""
    with CommandBackend(2) as backend:
        futures = [backend.submit(command(f"echo {number}")) for number in range(20)]
        assert run(command("echo run"), backend=backend).result == "run"
        assert [backend.result(future, PATIENCE) for future in futures] == [str(number) for number in range(20)]
        assert "a Launch" in str(backend.submit(len, "abc").exception(PATIENCE))
    with pytest.raises(BackendClosedError):
        backend.submit(command("true"))


def test_a_machine_without_descriptors_for_processes_does_it_too(monkeypatch, gate):
    """macOS and old kernels have none: then a thread waits for each."""
    monkeypatch.delattr(os, "pidfd_open")
    nodes = [Node(f"n{number}", command(f"echo {number}")) for number in range(20)]
    nodes += [Node("late", sh(holding(gate, "trap '' TERM;"), grace=0.1), timeout=0.8)]
    started = DAG(nodes).start(max_concurrency=4)
    gate.meet()
    result = started.wait(PATIENCE)
    assert (result.succeeded, result.timed_out) == (20, 1)


def test_a_fault_in_one_command_is_no_harm_to_the_others(monkeypatch):
    """One thread serves them all: what goes wrong with one must not end it, or the run would hang."""
    plain = os.waitstatus_to_exitcode

    def broken(status):
        if status == 9 << 8:
            raise RuntimeError("broken")
        return plain(status)

    monkeypatch.setattr(os, "waitstatus_to_exitcode", broken)
    nodes = [Node("bad", sh("exit 9")), Node("good", command("sleep 0.05; echo good"))]
    result = DAG(nodes).run(progress=False, max_concurrency=2)
    assert result["good"] == "good"
    assert str(result.node_results["bad"].error) == "broken"


# --- elsewhere ---------------------------------------------------------------------------------------------------------------


@Command
def listed():
    """Return what lists nothing."""
    return Launch(["echo", "listed"], capture=100)


def test_commands_travel(tmp_path):
    """A checkpoint and a part on a worker need the graph in bytes, with its commands."""
    assert pickle.loads(pickle.dumps(listed)) is listed
    error = pickle.loads(pickle.dumps(CommandError("gone", "node", 3, 9, "last")))
    assert (str(error), error.node, error.code, error.signal, error.stderr) == ("gone", "node", 3, 9, "last")
    launch = Launch(["a"], mask=("b",), done=value_of)
    assert pickle.loads(pickle.dumps(launch)) == launch
    graph = DAG(
        [
            Node("one", command("echo one")),
            Node("two", listed, ["one"]),
            Node("end", lambda one, two: one + two, ["one", "two"]),
        ]
    )
    assert graph.run(checkpoint=tmp_path, progress=False)["end"] == "onelisted"
    assert PartitionedDAGExecutor(graph, 2).execute()["end"] == "onelisted"


def test_explain_says_what_a_command_waits_for(gate, monkeypatch):
    """Without a limit of the run there are as many at once as cores; a person wants to know whether it hangs."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    nodes = [Node("first", sh(holding(gate)), priority=1), Node("second", command("true"))]
    started = DAG(nodes).start()
    gate.meet()
    assert "a command to end" in started.explain("second")
    gate.release("go\n")
    assert started.wait(PATIENCE).succeeded == 2


FULL = """
import os, resource
from dagrid import DAG, Node, command
from dagrid.errors import BackendError

dag = DAG([Node("a", command("true"))])
assert dag.run().ok
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, limits[1]))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
ends = []
while not ends[-1:] == ["succeeded"]:
    try:
        ends.append(dag.run().status.value)
    except BackendError as error:
        ends.append(str(error))
    os.close(held.pop())
print(*dict.fromkeys(ends), sep="\\n")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are counted in /proc")
def test_where_there_are_too_many_open_files_a_run_ends_and_says_so(tmp_path):
    """It hung: the session thought that it had a thread, which had not got what it needs."""
    program = tmp_path / "full.py"
    program.write_text(FULL)
    words = [sys.executable, str(program)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    first, *_, last = ended.stdout.splitlines()
    assert "No command can be run: Too many open files. Let less be done at once" in first
    assert last == "succeeded"
