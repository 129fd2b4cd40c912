"""Python steps: what they get, what they return, how they fail, and what they have around them."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from dagrid.errors import CapabilityError
from dagrid.execution.watchdog import watchdog
from tests.backends.command_tasks import children


def test_async_functions_run(runner):
    """A step has what they return."""
    (runner.folder / "tasks.py").write_text(
        "import asyncio\n\nasync def late(x):\n    await asyncio.sleep(0)\n    return x + 1\n"
    )
    told = runner.run("steps: [{name: a, python: 'tasks:late', args: [1], output: O}]")
    assert told.node("a").value.outputs == {"O": "2"}


def test_a_python_step_whose_process_dies_names_the_function(runner):
    """Not the program of ours that called it, which nobody knows."""
    (runner.folder / "deadly.py").write_text("import os\ndef end(): os.kill(os.getpid(), 9)\n")
    told = runner.run("steps: [{name: a, python: 'deadly:end'}]")
    assert str(told.node("a").error) == "The process of deadly:end was killed by SIGKILL before it had answered."


def test_a_text_that_is_no_unicode_fails_nothing(runner):
    """Half of a pair is a value of Python's; as the text of a variable it is a question mark."""
    (runner.folder / "tasks.py").write_text("def half():\n    return chr(0xD800)\ndef ask(x):\n    return ord(x)\n")
    told = runner.run(
        """
        steps:
          - {name: a, python: 'tasks:half', output: H}
          - {name: b, command: 'echo "$H"'}
          - {name: c, python: 'tasks:ask', args: ['${H}'], output: N}
        """
    )
    assert told.status == "succeeded", told.node("a").error
    assert (told.out("b"), told.node("c").value.outputs) == ("?\n", {"N": "55296"})


def test_python_steps_pass_values_as_they_are(runner):
    """By name of the step, by output, by id; as text where a shell needs it. What they print is in their logs."""
    (runner.folder / "tasks.py").write_text(
        "def make(count):\n    print('making')\n    return list(range(count))\n"
        "def total(make):\n    return sum(make)\n"
        "def both(numbers, text, total):\n    return {'type': type(numbers).__name__, 'text': text, 'total': total}\n"
    )
    told = runner.run(
        """
        steps:
          - {name: make, python: 'tasks:make', args: {count: 4}, output: LIST}
          - {name: total, id: sum, python: 'tasks:total'}
          - {name: both, python: 'tasks:both', args: {numbers: '${LIST}', text: 'is ${LIST}', total: '${sum.value}'}, output: R}
          - {name: show, command: 'echo "${R.type} ${R.text} ${R.total}"'}
        """
    )
    assert told.status == "succeeded", [node.error for node in told.result.node_results.values()]
    assert told.out("make") == "making\n"
    assert told.out("show") == "list is [0, 1, 2, 3] 6\n"


def test_a_part_of_a_value_is_not_the_value(runner):
    """An output that is chosen of it, or what a person has entered, is what it says, in a Python step as in a shell."""
    (runner.folder / "tasks.py").write_text(
        "def make():\n    return {'a': 5, 'b': [1]}\ndef took(**values):\n    return values\n"
    )
    started = runner.start(
        """
        steps:
          - name: make
            python: 'tasks:make'
            outputs: {A: {decode: json, select: a}, C: {value: const}, D: {}}
            approval: {prompt: well?, input: [T]}
          - {name: took, python: 'tasks:took', args: {a: '${A}', c: $C, d: '${D}', t: '${T}'}, output: R}
        """
    )
    assert not started.run.settle()
    started.detach()
    told = runner.go_on(started.place.run_id, signals={"make": {"T": "OPS-7"}})
    assert told.status == "succeeded"
    assert json.loads(told.node("took").value.outputs["R"]) == {
        "a": "5",
        "c": "const",
        "d": {"a": 5, "b": [1]},
        "t": "OPS-7",
    }


def test_a_python_step_that_raises_fails_with_its_message_and_its_traceback(runner):
    """The message is in the history, the traceback of the user's own lines in the log."""
    (runner.folder / "tasks.py").write_text("def broken():\n    raise KeyError('nothing')\n")
    told = runner.run("steps: [{name: a, python: 'tasks:broken'}]")
    assert str(told.node("a").error) == "tasks:broken raised KeyError: 'nothing'"
    assert "tasks.py" in told.err("a")
    assert "dagrid" not in told.err("a")


def test_a_step_that_writes_nothing_has_its_files_when_somebody_asks_for_them(runner):
    """Two files for each of a thousand silent steps cost more than the steps; what is read of one must be there all the same."""
    told = runner.run(
        """
        steps:
          - {name: a, id: silent, python: 'operator:index', args: [1]}
          - {name: b, command: 'test -e "${silent.stdout}" && wc -c < "${silent.stdout}"'}
          - {name: c, python: 'builtins:print', args: [hello]}
          - {name: d, id: quiet, command: 'true'}
          - {name: e, command: 'cat "${quiet.stdout}" "${quiet.stderr}"'}
          - {name: f, command: 'echo why >&2'}
          - {name: g, command: 'true'}
        """
    )
    assert (told.status, told.out("b").strip(), told.out("c"), told.err("f")) == ("succeeded", "0", "hello\n", "why\n")
    files = {name for name in os.listdir(told.folder) if name.endswith((".out", ".err"))}
    assert files == {"a.out", "b.out", "c.out", "d.out", "d.err", "f.err"}


def test_a_python_step_whose_output_cannot_be_written_fails_with_the_reason(runner):
    """Who writes more than a pipe holds would hang for ever; what cannot be opened is found out before the function runs."""
    (runner.folder / "talks.py").write_text("def f():\n    print('x' * 1_000_000)\n")
    told = runner.run(
        """
        type: graph
        steps:
          - {name: a, python: talks:f, stdout: /dev/full, timeoutSec: 20}
          - {name: b, python: talks:f, stderr: /dev/null/no}
        """
    )
    assert str(told.node("a").error) == (
        "The output of talks:f is not complete: '/dev/full' cannot be written: No space left on device"
    )
    assert "'/dev/null/no' cannot be written: Not a directory" in str(told.node("b").error)
    assert told.out("b") == ""


def test_each_python_step_has_its_own_environment_and_folder_whatever_the_one_before_did(runner):
    """They share a process: who went elsewhere, or changed a variable, must not take the next one along, nor its own next try."""
    (runner.folder / "moves.py").write_text(
        "import os\n\n\ndef away():\n    seen = os.getcwd(), os.environ.get('ODD')\n"
        "    os.chdir('/')\n    os.environ['ODD'] = 'x'\n"
        "    raise RuntimeError(seen)\n\n\ndef here():\n    return [os.getcwd(), os.environ.get('ODD')]\n"
    )
    told = runner.run(
        """
        steps:
          - {name: a, python: 'moves:away', retryPolicy: {limit: 1, intervalSec: 0}, continueOn: {failure: true}}
          - {name: b, python: 'moves:here', output: B}
          - {name: c, command: 'echo "$B"'}
        """
    )
    assert told.node("a").attempts == 2
    assert told.err("a").count(f"RuntimeError: ('{runner.folder}', None)") == 2
    assert json.loads(told.out("c")) == [str(runner.folder), None]


def test_modules_of_the_same_name_in_two_folders_are_two(runner):
    """A process keeps what it has imported: the step in the second folder called the function of the first one."""
    for name in ("one", "two"):
        (runner.folder / name).mkdir()
        (runner.folder / name / "tasks.py").write_text(
            f"import parts\n\n\ndef who():\n    return '{name}' + parts.TEXT\n"
        )
        (runner.folder / name / "parts.py").write_text(f"TEXT = ' of {name}'\n")
    told = runner.run(
        """
        steps:
          - {name: a, workingDir: one, python: 'tasks:who', output: A}
          - {name: b, workingDir: two, python: 'tasks:who', output: B}
          - {name: c, workingDir: one, python: 'tasks:who', output: C}
          - {name: d, command: 'echo "$A, $B, $C"'}
        """
    )
    assert told.out("d") == "one of one, two of two, one of one\n"


def test_what_a_function_makes_of_standard_output_is_undone_for_the_next_one(runner):
    """They share a process: what the next one said went nowhere, or it failed, or the process ended without an answer."""
    (runner.folder / "outs.py").write_text(
        "import os, sys\n\n\ndef closes():\n    sys.stdout.close()\n    return 'closed'\n\n\n"
        "def shuts():\n    os.close(1)\n    return 'shut'\n\n\n"
        "def turns():\n    sys.stdout = open(os.devnull, 'w')\n    return 'turned'\n\n\n"
        "def loses():\n    sys.stderr = None\n    return 'lost'\n\n\n"
        "def says():\n    print('hello')\n    os.system('echo there')\n    print('error', file=sys.stderr)\n"
    )
    names = ("closes", "shuts", "turns", "loses")
    steps = "".join(
        f"  - {{name: {name}, python: 'outs:{name}', output: O}}\n  - {{name: after {name}, python: 'outs:says'}}\n"
        for name in names
    )
    told = runner.run("steps:\n" + steps)
    assert [str(told.node(name).error) for name in names if told.node(name).error] == []
    for name in names:
        assert (told.out(f"after {name}"), told.err(f"after {name}")) == ("hello\nthere\n", "error\n"), name


def test_a_module_that_is_not_there_is_named_with_the_remedy(runner):
    told = runner.run("steps: [{name: a, python: 'surely_not_there:f'}]")
    error = str(told.node("a").error)
    assert error.startswith(
        "surely_not_there:f cannot be called: ModuleNotFoundError: No module named 'surely_not_there'. Put it "
    )
    assert "-m pip install" in error


def test_what_an_exception_says_is_shown_in_part_and_kept_in_the_log(runner):
    """A row of a table in a message must not fill the screen and the history."""
    (runner.folder / "long.py").write_text("def long():\n    raise ValueError('x' * 100_000)\n")
    told = runner.run("steps: [{name: a, python: 'long:long'}]")
    assert len(str(told.node("a").error)) < 10_200
    assert "(100000 characters" in str(told.node("a").error)
    assert "x" * 100_000 in told.err("a")


def test_a_variable_that_no_environment_can_hold_hides_the_one_below_it(runner):
    """A function has none of that name then, and not one of another meaning; where nothing is above it, that one is there."""
    (runner.folder / "tasks.py").write_text("import os\n\ndef seen():\n    return os.environ.get('V')\n")
    told = runner.run(
        """
        env: [V: small]
        steps:
          - {name: before, python: 'tasks:seen'}
          - {name: large, command: "head -c 200000 /dev/zero | tr '\\\\0' x", output: V}
          - {name: behind, python: 'tasks:seen'}
        """
    )
    before, behind = (told.node(name).value.value for name in ("before", "behind"))
    assert (pickle.loads(before), behind) == ("small", None)


def test_a_workflow_that_begins_in_python_ends_its_process_also_where_nothing_runs(runner):
    """It is started before the graph is made, which may be refused; or everything is skipped."""
    watchdog()  # it stays
    before = children()
    told = runner.run("steps: [{name: a, python: 'os:getpid', preconditions: [{condition: 'no', expected: 'yes'}]}]")
    assert told.node("a").status == "skipped"
    with pytest.raises(CapabilityError):
        runner.start("steps: [{name: a, python: 'os:getpid', workerSelector: {gpu: 'true'}}]")
    assert children() == before


def test_a_fork_that_goes_on_in_place_of_a_function_answers_nothing(runner):
    """It gave a second answer, which was taken for that of the next step, and all behind had that of the one before."""
    (runner.folder / "forks.py").write_text(
        "import os\n\n\ndef split():\n    return 'parent' if os.fork() else 'child'\n\n\ndef which(n):\n    return n\n"
    )
    told = runner.run(
        """
        steps:
          - {name: a, python: 'forks:split', output: A}
          - {name: b, python: 'forks:which', args: [2], output: B}
          - {name: c, python: 'forks:which', args: [3], output: C}
        """
    )
    assert {name: value for step in "abc" for name, value in told.node(step).value.outputs.items()} == {
        "A": "parent",
        "B": "2",
        "C": "3",
    }


def test_an_exception_that_says_nothing_is_named_all_the_same(runner):
    """One whose `str` raises took the process with it, and a sentence that ended with a colon said nothing of the other."""
    (runner.folder / "odd.py").write_text(
        "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\n\n\n"
        "def odd():\n    raise Odd\n\n\ndef bare():\n    raise ValueError\n"
    )
    told = runner.run("type: graph\nsteps: [{name: a, python: 'odd:odd'}, {name: b, python: 'odd:bare'}]")
    assert [str(told.node(name).error) for name in "ab"] == ["odd:odd raised Odd", "odd:bare raised ValueError"]


def test_a_value_that_cannot_be_kept_is_said_to_be_one(runner):
    """The function was said to have raised what pickle says of a lock or a socket; to try it again is of no use."""
    (runner.folder / "opens.py").write_text(
        "import threading\n\n\ndef lock():\n    return [threading.Lock()]\n\n\n"
        "class Mute:\n    def __str__(self):\n        raise ValueError('no words')\n    __repr__ = __str__\n\n\n"
        "def mute():\n    return Mute()\n"
    )
    told = runner.run(
        """
        type: graph
        defaults: {retryPolicy: {limit: 2, intervalSec: 0}}
        steps: [{name: a, python: 'opens:lock'}, {name: b, python: 'opens:mute'}]
        """
    )
    assert str(told.node("a").error) == (
        "opens:lock returned a list, which cannot be kept for the steps behind (TypeError: cannot pickle '_thread.lock' object). "
        "Let it return something that can be pickled, or None."
    )
    assert "opens:mute returned a Mute, which cannot be kept" in str(told.node("b").error)
    assert (told.node("a").attempts, told.node("b").attempts) == (1, 1)


def test_a_value_is_passed_by_no_name_to_what_tells_no_names(runner):
    """A type written in C may not say what it takes, and is called all the same behind a step that returned something."""
    told = runner.run(
        """
        steps:
          - {name: a, python: 'operator:index', args: [1]}
          - {name: b, python: 'builtins:dict', args: {x: 1}, output: B}
          - {name: c, command: 'echo "$B"'}
        """
    )
    assert told.out("c") == '{"x": 1}\n'


def test_a_value_is_passed_to_the_parameter_of_its_name_that_is_still_free(runner):
    """Whatever the function looks like: one that takes any number of values, a decorated one, an object that is called."""
    (runner.folder / "takes.py").write_text(
        "import functools\n\n\ndef make():\n    return 5\n\n\n"
        "def rest(*numbers, make):\n    return [*numbers, make]\n\n\n"
        "def place(make=0, /, other=1):\n    return [make, other]\n\n\n"
        "def taken(make, other=1):\n    return [make, other]\n\n\n"
        "def twice(fn):\n    @functools.wraps(fn)\n    def inner(*args, **kwargs):\n"
        "        return fn(*args, **kwargs) * 2\n    return inner\n\n\n"
        "decorated = twice(rest)\n\n\n"
        "class Called:\n    def __call__(self, first, make):\n        return [first, make]\n\n\ncalled = Called()\n"
    )
    functions = {
        "rest": ([1, 2], [1, 2, 5]),
        "place": ([], [0, 1]),
        "taken": ([1, 2], [1, 2]),
        "decorated": ([1, 2], [1, 2, 5] * 2),
        "called": ([1], [1, 5]),
    }
    told = runner.run(
        "type: graph\nsteps:\n  - {name: make, python: 'takes:make'}\n"
        + "".join(
            f"  - {{name: {name}, python: 'takes:{name}', args: {args}, depends: make, output: X}}\n"
            for name, (args, _) in functions.items()
        )
    )
    returned = {name: json.loads(told.node(name).value.outputs["X"]) for name in functions}
    assert returned == {name: expected for name, (_, expected) in functions.items()}
