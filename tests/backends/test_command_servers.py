"""Warm processes that answer requests: real ones, also such that die, lie, keep silent or will not go."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dagrid import DAG, Node
from dagrid.commands import Command, Launch, Request, Server, serve
from dagrid.errors import BackendError, CommandError, InvalidSettingError, TaskTimeoutError
from dagrid.execution.backends import _servers
from dagrid.execution.backends.command import CommandBackend
from tests.backends import server
from tests.backends.command_tasks import PATIENCE, ROOT, nothing_is_left, run, watched  # noqa: F401  # a fixture

PROGRAM = [sys.executable, "-S", server.__file__]
SERVER = Server(PROGRAM)
PID = "answer = b'%d' % os.getpid()"


def ask(code, kind=SERVER, **settings):
    return Request(kind, textwrap.dedent(code).encode(), **settings)


def asking(*codes, kind=SERVER, **settings):
    """Return a task that asks one thing after another and returns the answers, errors among them."""

    def sequence():
        answers = []
        for code in codes:
            try:
                answers.append((yield ask(code, kind, **settings)))
            except CommandError as error:
                answers.append(error)
        return answers

    return Command(sequence)


def hold(gate, before="", then=""):
    """Return a request that says to a gate that it is there, and waits."""
    return f"""
        {before}
        up = open({gate.path + ".up"!r}, "w")
        {then}
        print(os.getpid(), file=up, flush=True)
        open({gate.path + ".down"!r}).read()
    """


# --- answers -----------------------------------------------------------------------------------------------------------------


def test_a_process_stays_for_the_next_request():
    """Also for one of another node: what it has imported or opened is there."""
    count = "state.append(1); answer = b'%d' % len(state)"
    nodes = [Node("a", asking(count, count)), Node("b", asking(count, PID, PID), ["a"])]
    result = DAG(nodes).run(max_concurrency=1, progress=False).raise_for_status()
    assert result["a"] == [b"1", b"2"]
    assert result["b"][0] == b"3"
    assert result["b"][1] == result["b"][2]


def test_a_process_that_was_prepared_answers_the_first_request(tmp_path):
    """It is started before there is a run, and no other one is for what is asked of it."""
    started = tmp_path / "started"
    kind = Server([*PROGRAM, f"open({str(started)!r}, 'a').write('%d ' % os.getpid())"])
    with CommandBackend() as backend:
        backend.prepare(kind)
        result = DAG([Node("a", asking(PID, PID, kind=kind))]).run(places={"command": backend}, progress=False)
        assert b" ".join(result["a"]).decode().split() == started.read_text().split() * 2


def test_a_process_that_was_prepared_in_vain_is_gone_with_its_backend():
    """Whether there was no run, or one that asked for something else."""
    with CommandBackend() as backend:
        backend.prepare(SERVER)
        assert DAG([Node("a", asking(PID, kind=Server(PROGRAM, cwd="/")))]).run(
            places={"command": backend}, progress=False
        )["a"]
        backend.prepare(SERVER, ["secret"])


def test_of_a_process_that_cannot_be_prepared_who_asks_it_is_told():
    """A run goes its way until then."""
    with CommandBackend() as backend:
        backend.prepare(Server(["/nowhere"]))
        backend.prepare(Server(PROGRAM, {"PATH": "/bin", "PYTHONHOME": "/nowhere"}))
        task = asking(PID, kind=Server(["/nowhere"]))
        (error,) = DAG([Node("a", task)]).run(places={"command": backend}, progress=False)["a"]
        assert "there is no '/nowhere'. Look at its path." in str(error)


def test_servers_that_are_equal_are_one_kind():
    """Wherever they were made; with other variables, arguments or folder they are another one."""
    same = pickle.loads(pickle.dumps(Server(PROGRAM, {"A": "1"}, "/")))
    kinds = [
        Server(PROGRAM, {"A": "1"}, "/"),
        same,
        Server(PROGRAM, {"A": "2"}, "/"),
        Server(PROGRAM, {"A": "1"}, "/usr"),
    ]
    show = "answer = (os.environ['A'] + os.getcwd()).encode(); state.append(1); answer += b'%d' % len(state)"

    @Command
    def sequence():
        return [
            (yield ask(show, kinds[0])),
            (yield ask(show, kinds[1])),
            (yield ask(show, kinds[2])),
            (yield ask(show, kinds[3])),
        ]

    assert run(sequence).result == [b"1/1", b"1/2", b"2/1", b"1/usr1"]
    assert len({*kinds}) == 3
    assert "hidden" not in repr(Server(["true"], {"TOKEN": "hidden"}))


def test_what_is_asked_may_be_large_or_nothing():
    """In both directions, also more than a socket takes at once."""
    kind = Server([sys.executable, "-c", "from dagrid.commands import serve; serve(bytes.swapcase)"])

    @Command
    def sequence():
        sizes = []
        for size in (0, 1, 65_528, 65_529, 10_000_000, 3):
            data = os.urandom(1) * 0 + b"x" * size
            answer = yield Request(kind, data)
            sizes.append(len(answer))
            assert answer == data.upper()
        return sizes

    assert run(sequence).result == [0, 1, 65_528, 65_529, 10_000_000, 3]


def test_there_are_no_more_of_a_kind_than_processes_may_run():
    """However many attempts ask: who finds none waits for its turn, as for any process."""
    with CommandBackend(50, processes=3) as backend:
        nodes = [Node(f"n{number}", asking(PID, PID)) for number in range(60)]
        nodes += [Node(f"l{number}", Command(lambda: Launch(["true"]))) for number in range(20)]
        result = DAG(nodes).run(places={"command": backend}, progress=False).raise_for_status()
    pids = {pid for number in range(60) for pid in result[f"n{number}"]}
    assert 1 <= len(pids) <= 3


def test_who_has_rested_longest_goes_when_there_are_too_many(monkeypatch):
    """A run of many kinds would fill the machine with processes that nobody asks."""
    monkeypatch.setattr(_servers, "IDLE", 2)
    kinds = [Server(PROGRAM, {"KIND": str(number)}) for number in range(4)]
    seen = []

    @Command
    def sequence():
        for kind in [*kinds, kinds[3], kinds[2], kinds[0]]:
            answer = yield ask(PID, kind)
            seen.append(answer)

    run(sequence)
    assert seen[4:6] == [seen[3], seen[2]]
    assert seen[6] != seen[0]


def test_a_handler_has_its_output_to_itself(tmp_path):
    """What it prints goes nowhere, its input is empty, and what it starts does not hold its line."""
    code = f"""
        import subprocess
        print("noise")
        sys.stderr.write("x" * 200_000)
        assert sys.stdin.read() == ""
        text = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout
        assert "socket" not in text, text
        open({str(tmp_path / "log")!r}, "w").write("kept")
        answer = b"done"
    """
    assert run(asking(code, code)).result == [b"done", b"done"]


# --- ends --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "number"),
    [
        ("sys.stderr.write('last words\\n'); os._exit(3)", "exited with code 3 before it had answered: last words", 3),
        ("sys.exit(0)", "exited with code 0 before it had answered.", 0),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL before it had answered.", 137),
        ("raise LookupError('nobody')", "exited with code 1 before it had answered: LookupError: nobody", 1),
        ("answer = 3; handle = 0", "exited with code 1 before it had answered: AssertionError", 1),
        ("os.close(line()); signal.pause()", "closed its line before it had answered.", 1),
        ("os.write(line(), b'garbage'); signal.pause()", "what is no answer of dagrid.commands.serve", 1),
        ("os.write(line(), b'dgr1' + bytes(4) + b'more'); signal.pause()", "what is no answer", 1),
        ("os.write(line(), b'd'); os.write(line(), b'x'); signal.pause()", "what is no answer", 1),
    ],
)
def test_a_server_that_does_not_answer_says_why(code, said, number):
    """With its last words, and those of this request only; who asks next gets a new one."""
    before = "sys.stderr.write('of another request'); sys.stderr.flush(); state.append(1)"
    first, error, after = run(asking(before, code, "answer = b'%d' % len(state)")).result
    assert first == b""
    assert said in str(error)
    assert "another" not in error.stderr
    assert (error.code, error.node) == (number, "")
    assert after == b"0"


def test_an_error_that_is_not_caught_is_that_of_the_node():
    """It names the node, as that of any command."""

    @Command
    def sequence():
        yield ask("os._exit(4)")

    error = run(sequence).error
    assert isinstance(error, CommandError)
    assert (error.node, error.code) == ("node", 4)


def test_a_server_that_answers_before_it_has_read_is_not_believed():
    """Its answer is not that to the request."""
    early = "import os, signal; os.write(0, b'dgr1' + bytes(4)); signal.pause()"

    @Command
    def sequence():
        yield Request(Server([sys.executable, "-S", "-c", early]), bytes(10_000_000))

    assert "no answer of" in str(run(sequence).error)


def test_a_server_that_was_killed_while_it_rested_is_not_asked(gate):
    """Who asks next gets another one, and no error; so does who asks after one that spoke without being asked."""

    @Command
    def sequence():
        pids = []
        for end in ("killed", "speaks", "none"):
            pids.append(int((yield ask(PID))))
            if end == "killed":
                with watched(pids[-1]) as gone:
                    os.kill(pids[-1], 9)
                    assert gone()
            elif end == "speaks":
                code = f"""
                    import threading

                    def speak():
                        open({gate.path + ".down"!r}).read()
                        os.write(line(), b"hello")

                    threading.Thread(target=speak).start()
                """
                yield ask(code)
                wait = f"echo >{gate.path}.down; while kill -0 {pids[-1]} 2>/dev/null; do sleep 0.01; done"
                yield Launch(["/bin/sh", "-c", wait])
        return len({*pids})

    assert run(sequence).result == 3


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(Server(["no-such-program"]), b""), "there is no program 'no-such-program'"),
        (Request(Server(["true"], cwd="/no/such"), b""), "there is no folder"),
        (Request(Server(["true"]), b""), "exited with code 0 before"),
        (Request(SERVER, "text"), "data is bytes, not str"),  # type: ignore[arg-type]
        (Request("server", b""), "server is a Server, not str"),  # type: ignore[arg-type]
        (Request(SERVER, b"", mask="abc"), "mask is a list"),
        (Request(SERVER, b"", grace=-1), "grace is seconds"),
        (Request(SERVER, b"", stop_signal=0), "stop_signal is the number"),
    ],
)
def test_what_cannot_be_asked_says_what_to_do(request_, said):
    """Where it was yielded, as for any thing that cannot be done."""

    @Command
    def sequence():
        try:
            yield request_
        except CommandError as error:
            return str(error)

    assert said in run(sequence).result


def test_what_is_no_server_says_so():
    """Before anything runs; and a program that serves must have been started for it."""
    wrong: dict
    for wrong in ({"argv": "true"}, {"argv": []}, {"argv": [3]}, {"argv": ["true"], "env": {"A": 1}}):
        with pytest.raises(InvalidSettingError):
            Server(**wrong)
    code = "from dagrid.commands import serve; serve(bytes)"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{BackendError.__name__}: serve() answers" in done.stderr
    assert serve.__module__ == "dagrid.serving"


def test_secrets_are_in_no_last_words():
    """Nor in the line of the server; with those of one request also those of the earlier ones are masked."""
    first, second = "s3cret-one", "s3cret-two"
    kind = Server([*PROGRAM, f"'{first}'"])

    @Command
    def sequence():
        yield ask("", kind, mask=[first])
        try:
            yield ask(f"sys.stderr.write('{first} {second}'); sys.stderr.flush(); os._exit(1)", kind, mask=[second])
        except CommandError as error:
            return error.stderr, str(error)

    words, text = run(sequence).result
    assert words == "******* *******"
    assert "s3cret" not in text


# --- stopping ----------------------------------------------------------------------------------------------------------------


def test_a_request_that_is_late_ends_its_server(gate):
    """With its group, after its time of grace; the sequence is closed when they are gone. The next request has another one."""
    seen = []

    @Command
    def late():
        try:
            yield ask(hold(gate, "signal.signal(15, signal.SIG_IGN)", "os.fork() or signal.pause()"), grace=0.1)
        finally:
            gate.wait_gone()
            seen.append("closed")

    warm = Node("warm", asking(PID))  # for the time that Python takes to start is no part of this
    nodes = [warm, Node("late", late, ["warm"], timeout=0.8, priority=1), Node("next", asking(PID), ["warm"])]
    started = DAG(nodes).start(max_concurrency=1, progress=False)
    pid = gate.meet()
    with watched(pid) as gone:
        result = started.wait(PATIENCE)
        assert gone(0)
    assert isinstance(result.node_results["late"].error, TaskTimeoutError)
    assert result["warm"] == [b"%d" % pid]
    assert result["next"] != result["warm"]
    assert seen == ["closed"]


def test_a_server_may_end_in_its_own_way_when_it_is_told_to(gate, tmp_path):
    """It gets the signal that the request says, and its time of grace; what it still answers is not heard."""
    log = tmp_path / "log"

    @Command
    def sequence():
        begin = f"signal.signal(signal.SIGUSR1, lambda *_: (open({str(log)!r}, 'w').write('parting'), os._exit(0)))"
        yield ask(hold(gate, begin), stop_signal=10, grace=PATIENCE)

    started = DAG([Node("node", sequence)]).start(progress=False)
    gate.meet()
    started.cancel()
    assert started.wait(PATIENCE / 2).cancelled == 1
    assert log.read_text() == "parting"


def test_servers_go_with_their_run(tmp_path):
    """Those that rest are let go: they end by themselves, and clean up. Who does not go is killed."""
    mark = tmp_path / "mark"
    parting = f"open({str(mark)!r}, 'w').close()"
    clean = Server([*PROGRAM, f"parting = {parting!r}"])
    stubborn = Server([*PROGRAM, "signal.signal(15, signal.SIG_IGN); parting = 'signal.pause()'"])

    @Command
    def sequence():
        return int((yield ask(PID, clean))), int((yield ask(PID, stubborn)))

    pids = run(sequence).result
    assert mark.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_run_that_is_cancelled_takes_its_servers_along(gate):
    """The one that serves, and the one that rests."""
    seen = []

    @Command
    def rests():
        seen.append(int((yield ask(PID))))

    nodes = [Node("rests", rests), Node("node", asking(hold(gate), kind=Server(PROGRAM, {"A": "1"})), ["rests"])]
    started = DAG(nodes).start(progress=False)
    with watched(gate.meet()) as gone, watched(seen[0]) as gone_too:
        started.cancel()
        started.wait(PATIENCE)
        assert gone(0)
        assert gone_too(0)


def test_no_server_outlives_a_program_that_is_killed(gate, tmp_path):
    """Though it does not look at its line, for it works, or is deaf to everything. A process says when they are there."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        from dagrid import DAG, Node
        from dagrid.commands import Command, Request, Server, Launch

        deaf = "signal.signal(15, signal.SIG_IGN); signal.signal(1, signal.SIG_IGN)"
        kind = Server({PROGRAM!r} + [deaf])

        @Command
        def sequence():
            answer = yield Request(kind, {PID!r}.encode())
            yield Launch(["sh", "-c", "exec >" + {gate.path + ".up"!r} + "; echo " + answer.decode() + "; sleep 1000"])

        @Command
        def works():
            yield Request(kind, b"import threading; threading.Event().wait()")

        DAG([Node("node", sequence), Node("works", works)]).run(max_concurrency=2, progress=False)
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen([sys.executable, str(program)], env=environment) as parent, watched(gate.meet()):
        found = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if str(parent.pid) == _parent(path.parent) and server.__file__.encode() in path.read_bytes()
        ]
        parent.kill()
        parent.wait()
    assert len(found) == 2
    for pid in found:
        try:
            with watched(pid) as gone:
                assert gone()
        except ProcessLookupError:
            continue


def _parent(folder):
    return (folder / "stat").read_text().rpartition(")")[2].split()[1]


# --- many --------------------------------------------------------------------------------------------------------------------


def test_many_requests_at_once():
    """Each gets the answer to its own, though few processes answer them all."""

    def sequence(number):
        total = 0
        for at in range(5):
            total += int((yield ask(f"answer = b'%d' % ({number} * {at})")))
        return total

    with CommandBackend(100, processes=4) as backend:
        nodes = [Node(f"n{number}", Command(lambda number=number: sequence(number))) for number in range(300)]
        result = DAG(nodes).run(places={"command": backend}, progress=False).raise_for_status()
    assert [result[f"n{number}"] for number in range(300)] == [10 * number for number in range(300)]


def test_servers_of_a_machine_without_descriptors_for_processes(monkeypatch):
    """macOS and old kernels have none: then a thread waits for the end of each."""
    monkeypatch.delattr(os, "pidfd_open")
    first, error, after = run(asking(PID, "os._exit(3)", PID)).result
    assert (error.code, first != after) == (3, True)
