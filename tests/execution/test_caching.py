"""Values that are kept between runs: what is found again, what is computed anew, and that the run says why."""

from __future__ import annotations

import operator
import os
import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from dagrid import DAG, Node, task
from dagrid.errors import InvalidNodeError
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from tests.execution import cached_tasks as tasks
from tests.execution.cached_tasks import CALLS, Scale
from tests.execution.caching import CHAIN, hit_again, hits, made, notes, stored


class Pickling:
    """A place of four methods that pickles what it performs, and knows nothing of nodes."""

    name = "pickling"

    def submit(self, fn, *args, **kwargs):
        return pickle.dumps((fn, args, kwargs))

    def result(self, future, timeout=None):
        fn, args, kwargs = pickle.loads(future)
        return pickle.loads(pickle.dumps(fn(*args, **kwargs)))

    def shutdown(self, wait=True):
        return None


@pytest.fixture(scope="module")
def processes():
    with MultiprocessingBackend(max_workers=1) as backend:
        yield backend


@pytest.fixture(params=["inline", "thread", "multiprocessing", "stranger"])
def backend(request, processes):
    return {"multiprocessing": processes, "stranger": Pickling()}.get(request.param, request.param)


# --- hit and miss ---------------------------------------------------------------------------------------------------------


def test_the_second_run_computes_nothing_and_both_say_why(backend, tmp_path):
    """The point of it, on every kind of place; `explain` answers the question that follows."""
    graph = DAG(CHAIN)
    first, second = graph.start(backend=backend, cache=tmp_path), graph.start
    assert first.wait().raise_for_status()["total"] == 12
    assert "computed: no value for this key yet (key " in first.explain("total")
    CALLS.clear()
    again = second(backend=backend, cache=tmp_path)
    result = again.wait().raise_for_status()
    assert (result["total"], result["double"], CALLS) == (12, [2, 4, 6], [])
    assert "from the cache (key " in again.explain("total")
    assert {each.note[:14] for each in result.node_results.values()} == {"from the cache"}
    assert [event.node for event in again.events() if event.kind == "noted"] == ["load", "double", "total"]


def test_all_places_share_what_is_stored(backend, tmp_path):
    """Where a node ran is no part of what its value is."""
    notes(CHAIN, tmp_path, backend="thread")
    assert all(hits(CHAIN, tmp_path, backend=backend).values())


def test_a_run_in_another_process_finds_what_this_one_stored(tmp_path):
    """Nothing of a key may depend on the process: neither addresses nor the seed of hashes."""
    notes(CHAIN, tmp_path)
    program = f"""
from tests.execution.test_caching import CHAIN, hits
assert all(hits(CHAIN, {str(tmp_path)!r}).values())
"""
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=env)


SCRIPT = """
import sys
from dataclasses import dataclass
from dagrid import DAG, Node

RATE = 3
NAMES = frozenset("abc")

@dataclass(frozen=True, order=True)
class Point:
    x: int
    def far(self): return self.x > RATE

class Further(Point):
    def far(self): return super().far() and self.x > len(NAMES)

def helper(number): return number and again(number) + RATE
def again(number): return helper(number - 1)
def number(offset=sys.maxsize % 7): return helper(4) + offset + Further(3).far()
def point(number): return Point(number)

graph = DAG([Node("number", number, cache=True), Node("point", point, ["number"], cache=True)])
for backend in sys.argv[2:]:
    results = graph.run(cache=sys.argv[1], backend=backend, progress=False).raise_for_status().node_results
    assert isinstance(results["point"].value, Point)
    print(*(node.note for node in results.values()), sep="|")
"""


@pytest.mark.slow
def test_a_script_finds_its_values_wherever_they_were_made(tmp_path):
    """Its code is made anew elsewhere; and a value never comes back with a class that only looks like its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def lines(cache: str, *backends: str) -> list[list[str]]:
        command = [sys.executable, str(script), str(tmp_path / cache), *backends]
        done = subprocess.run(command, check=True, env=env, capture_output=True, text=True)
        return [[note[:14] for note in line.split("|")] for line in done.stdout.splitlines()]

    hit, miss = "from the cache", "computed: no v"
    assert lines("a", "thread", "thread") == [[miss, miss], [hit, hit]]
    assert lines("a", "multiprocessing") == [[hit, "computed: the "]]
    assert lines("b", "multiprocessing", "thread", "thread") == [[miss, miss], [hit, miss], [hit, hit]]


def test_none_is_a_value(tmp_path):
    """Whoever returns nothing has run all the same."""
    for _ in range(2):
        notes([Node("nothing", tasks.nothing, cache=True)], tmp_path)
    assert CALLS == ["nothing"]


def test_the_name_of_a_node_does_not_count(tmp_path):
    """Renaming is no change of what is computed."""
    notes(CHAIN, tmp_path)
    renamed = [
        Node("source", tasks.load, cache=True),
        Node("twice", tasks.double, inputs={"load": "source"}, cache=True),
    ]
    assert all(hits(renamed, tmp_path).values())


def test_without_a_word_of_the_run_values_are_kept_in_the_current_folder(tmp_path, monkeypatch):
    """A default that can be seen and thrown away; a graph that keeps nothing makes no folder, and False keeps nothing."""
    monkeypatch.chdir(tmp_path)
    notes([Node("load", tasks.load)], None)
    assert notes(CHAIN, False) == {"load": "", "double": "", "total": ""}
    assert not list(tmp_path.iterdir())
    notes(CHAIN, None)
    assert len(stored(tmp_path / ".dagrid" / "cache")) == 3
    assert all(hits(CHAIN, None).values())


def test_a_value_is_read_anew_by_each_run(tmp_path):
    """What one run changes of a value, the next one does not see."""
    notes(CHAIN, tmp_path)
    first = DAG(CHAIN).run(cache=tmp_path)["load"]
    first.append("changed")
    assert DAG(CHAIN).run(cache=tmp_path)["load"] == [1, 2, 3]


# --- what is part of a key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def fn(): return 1", "def fn(): return 2"),
        ("def fn(): return 1", "def fn(): return 1.0"),
        ("def fn(): return len('a')", "def fn(): return str('a')"),
        ("def fn(a=1): return a", "def fn(a=2): return a"),
        ("def fn(*, a=1): return a", "def fn(*, a=2): return a"),
        ("def fn(): return helper()\ndef helper(): return 1", "def fn(): return helper()\ndef helper(): return 2"),
        ("def fn(): return [i * 1 for i in 'a']", "def fn(): return [i * 2 for i in 'a']"),
        ("RATE = 1\ndef fn(): return RATE", "RATE = 2\ndef fn(): return RATE"),
        (
            "class Model:\n  def run(self): return 1\ndef fn(): return Model().run()",
            "class Model:\n  def run(self): return 2\ndef fn(): return Model().run()",
        ),
        (
            "from functools import cache\n@cache\ndef helper(): return 1\ndef fn(): return helper()",
            "from functools import cache\n@cache\ndef helper(): return 2\ndef fn(): return helper()",
        ),
        (
            "class Model:\n  def __call__(self): return self.rate()\n  def rate(self): return 1\nfn = Model()",
            "class Model:\n  def __call__(self): return self.rate()\n  def rate(self): return 10\nfn = Model()",
        ),
        (
            "class Model:\n  def run(self): return self.rate()\n  def rate(self): return 1\nfn = Model().run",
            "class Model:\n  def run(self): return self.rate()\n  def rate(self): return 10\nfn = Model().run",
        ),
        (
            "def fn(by=len): return by.rate()\nclass Model:\n  def rate(self): return 1\nfn.__defaults__ = (Model(),)",
            "def fn(by=len): return by.rate()\nclass Model:\n  def rate(self): return 2\nfn.__defaults__ = (Model(),)",
        ),
        (
            "import functools\nclass Model:\n  @functools.cache\n  def run(self): return 1\ndef fn(): return Model().run()",
            "import functools\nclass Model:\n  @functools.cache\n  def run(self): return 2\ndef fn(): return Model().run()",
        ),
        (
            "def fn(): return a() or 1\ndef a(): return b()\ndef b(): return a and 1",
            "def fn(): return a() or 1\ndef a(): return b()\ndef b(): return a and 2",
        ),
    ],
)
def test_changed_code_is_computed_anew(before, after, tmp_path):
    """Its own code, its defaults, and what it calls and reads in its own package."""
    assert not hit_again(made(before), made(after), tmp_path)
    assert hits([Node("n", made(before), cache=True)], tmp_path)["n"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def fn(): return 1", "\n\n# moved\ndef fn(): return 1"),
        ("unused = 1\ndef fn(): return 1", "unused = 2\ndef fn(): return 1"),
        ("seen = 0\ndef fn():\n  global seen\n  seen += 1", "seen = 5\ndef fn():\n  global seen\n  seen += 1"),
        ("def fn(): return {'a', 'b', 'c'} & {'a'}", "def fn(): return {'a', 'b', 'c'} & {'a'}"),
    ],
)
def test_what_does_not_change_the_function_is_found(before, after, tmp_path):
    """Lines and comments, and globals that it does not read or that it counts with itself."""
    assert hit_again(made(before), made(after), tmp_path)


def test_closures_and_instances_count_by_their_values(tmp_path):
    """A factory makes many functions of one code."""

    def adding(number: int) -> Any:
        return lambda: number + 1

    assert not hit_again(adding(1), adding(2), tmp_path / "closures")
    assert hits([Node("n", adding(2), cache=True)], tmp_path / "closures")["n"]
    assert not hit_again(Scale(1), Scale(2), tmp_path / "objects")
    assert hit_again(partial(Scale(3).times, 4), partial(Scale(3).times, 4), tmp_path / "methods")
    assert not hits([Node("n", partial(Scale(4).times, 4), cache=True)], tmp_path / "methods")["n"]


WRAPPING = """
from functools import update_wrapper

class Wrapped:
    def __init__(self, fn, factor):
        self.fn, self.factor = fn, factor
        update_wrapper(self, fn)
    def __call__(self):
        return self.factor * self.fn()

def base(): return 3
@lambda fn: Wrapped(fn, 1)
def helper(): return 4
def calls(): return helper()
"""


def test_what_an_object_around_a_function_has_and_does_counts(tmp_path):
    """A decorator that is a class has settings of its own, and may change."""

    def wrapped(factor: int, source: str = WRAPPING) -> Any:
        return made(source + f"fn = Wrapped(base, {factor})\n")

    changed = WRAPPING.replace("self.factor *", "self.factor +")
    assert hit_again(wrapped(1), wrapped(1), tmp_path)
    for other in (wrapped(100), wrapped(1, changed), wrapped(1, WRAPPING.replace("return 3", "return 5"))):
        assert not hits([Node("n", other, cache=True)], tmp_path)["n"]
    assert not hit_again(made(WRAPPING, "calls"), made(changed, "calls"), tmp_path)


def test_the_class_of_a_value_counts_where_it_is_of_the_package_of_the_task(tmp_path):
    """As the functions do that it could have been written with; of other packages it is the name."""

    def graph(rate: int, package: str) -> list[Node]:
        source = f"class Model:\n  def rate(self): return {rate}\ndef model(): return Model()"
        return [
            Node("model", made(source, "model", __name__=package)),
            Node("n", task_of_models, ["model"], cache=True),
        ]

    task_of_models = made("def fn(model): return model.rate()")
    assert [
        hits(graph(*each), tmp_path)["n"] for each in ((1, "a_module.x"), (1, "a_module.x"), (2, "a_module.x"))
    ] == [
        False,
        True,
        False,
    ]
    assert [hits(graph(*each), tmp_path)["n"] for each in ((1, "other"), (2, "other"))] == [False, True]


def test_a_helper_that_is_defined_again_is_noticed_in_the_same_process(tmp_path):
    """In a notebook the function stays and what it calls is replaced."""
    module: dict[str, Any] = {"__name__": "a_module"}
    exec("def fn(): return helper()\ndef helper(): return 1", module)
    graph = DAG([Node("n", module["fn"], cache=True)])
    notes(graph, tmp_path)
    exec("def helper(): return 2", module)
    assert graph.run(cache=tmp_path)["n"] == 2


def test_a_text_stands_for_the_code(tmp_path):
    """For code that cannot be read, and for changes that do not matter; what is bound still counts, and so does the name."""
    one, two = made("def fn(a=1): return a"), made("def fn(a=1): return a + 0")
    assert hit_again(one, two, tmp_path, "v1")
    assert not hits([Node("n", two, cache="v2")], tmp_path)["n"]
    assert not hits([Node("n", made("def other(a=1): return a", "other"), cache="v1")], tmp_path)["n"]
    assert not hits([Node("n", partial(two, 2), cache="v1")], tmp_path)["n"]
    assert not hits([Node("n", made("fn = lambda a=1: a + 1"), cache="v1")], tmp_path)["n"]
    assert not hits([Node("n", made("fn = lambda a=1: a + 2"), cache="v1")], tmp_path)["n"]
    power = partial(operator.pow, 2, 3)
    assert hit_again(power, power, tmp_path, "v1")


def test_a_text_stands_for_the_code_of_classes_too(tmp_path):
    """Of objects that are called, of methods and of what wraps a function; what they have counts all the same."""
    model = "class Model:\n  def __init__(self, k): self.k = k\n  def __call__(self): return self.k\nfn = Model({})"
    one, two = model, model.replace("return self.k", "return self.k + 0")
    assert hit_again(made(one.format(1)), made(two.format(1)), tmp_path / "objects", "v1")
    assert not hits([Node("n", made(one.format(2)), cache="v1")], tmp_path / "objects")["n"]
    assert hit_again(made(one.format(1)).__call__, made(two.format(1)).__call__, tmp_path / "methods", "v1")
    assert not hits([Node("n", made(one.format(2)).__call__, cache="v1")], tmp_path / "methods")["n"]
    one, two = (
        source + "fn = Wrapped(base, {})" for source in (WRAPPING, WRAPPING.replace("return 3", "return 3 + 0"))
    )
    two = two.replace("self.factor *", "0 + self.factor *")
    assert hit_again(made(one.format(1)), made(two.format(1)), tmp_path / "wrapped", "v1")
    assert not hits([Node("n", made(one.format(2)), cache="v1")], tmp_path / "wrapped")["n"]


def test_a_text_stands_for_the_code_of_a_task_whose_value_is_unpacked(tmp_path):
    """What calls it is ours."""
    one, two = (task(unpack_to=2)(made(source)) for source in ("def fn(): return 1, 2", "def fn(): return 1, 2 + 0"))
    assert hit_again(one.node.fn, two.node.fn, tmp_path, "v1")


@pytest.mark.parametrize("fn", [os.getpid, partial(operator.add, 1, 2), dict])
def test_code_that_cannot_be_read_is_refused_before_anything_runs(fn, tmp_path):
    """Nobody would notice its change; the message names both ways out."""
    with pytest.raises(InvalidNodeError, match=r"Node 'n' .*\(def\).*cache='a text"):
        DAG([Node("load", tasks.load), Node("n", fn, cache=True)]).run(cache=tmp_path)
    assert CALLS == []
