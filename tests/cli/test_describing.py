"""Commands that describe: validate, schema, graph, config, completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import jsonschema
import pytest

from dagrid.cli.exits import Exit
from dagrid.config import SETTINGS
from dagrid.workflow import json_schema

GOOD = "steps:\n  - name: fetch\n    command: echo 1\n  - [echo a, echo b]\n  - name: report\n    command: echo 2\n"
BAD = "steps:\n  - comand: x\n  - {command: y, depends: fetsh}\n  - {name: fetch, command: z}\n"


TYPED = """
from __future__ import annotations
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional
from dagrid import DAG, Node

if TYPE_CHECKING:
    from nowhere import Thing

def flow(
    items: list[int] = (), table: dict[str, float] | None = None, maybe: Optional[int] = 1, text: str | None = "",
    either: str | int = 0, folders: Sequence[Path] = (), day: datetime.date | None = None,
    kind: Literal["red", "blue"] = "red", unsaid=None, for_checkers: Thing = None, **others: int,
):
    given = {**locals(), **others}
    del given["others"]
    return DAG([Node(f"{name}={value!r}") for name, value in given.items()])
"""


@pytest.fixture
def files(folder):
    (folder / "good.yaml").write_text(GOOD)
    (folder / "bad.yaml").write_text(BAD)
    (folder / "flows.py").write_text(
        "from dagrid import DAG, Node, dag, task\n"
        "@task(tags=['io'])\ndef one(x): return x + 1\n"
        "@dag\ndef flow(n: int = 1, path=None, flag: bool = False): return one(one(n))\n"
        "graph = DAG([Node('a', fn=int), Node('b', fn=int, depends_on=['a'])], name='small')\n"
        "builder = DAG.builder('built').add_node('x')\n"
        "def made(n: int): return DAG([Node(f'n{i}') for i in range(n)])\n"
        "class Rooms:\n    inner = graph\n"
        "text = 'no graph'\n"
        "def broken(): raise RuntimeError('broken by its author')\n"
        "async def late(): return graph\n"
    )
    (folder / "typed.py").write_text(TYPED)
    (folder / "torn.py").write_text("import dagrid\nraise RuntimeError('not today')\n")
    (folder / "typo.py").write_text("def f(:\n")
    (folder / "lacking.py").write_text("import surely_not_installed\n")
    return folder


# validate


def test_a_workflow_that_is_well(dagrid, files):
    """Nothing is data; what is said is talk, and quiet takes it away."""
    said = dagrid("validate", "good.yaml")
    assert (said.code, said.out, said.err) == (0, "", "good.yaml: all is well: 4 steps\n")
    assert dagrid("validate", "good.yaml", "-q").err == ""
    assert dagrid("validate", "good").code == 0  # as in a call


def test_all_that_is_wrong_at_once(dagrid, files):
    """With file, line and column, on standard output, and the code of bad input; the good ones among them are good."""
    said = dagrid("validate", "good.yaml", "bad.yaml")
    assert said.code == Exit.USAGE
    assert said.out.splitlines() == [
        "bad.yaml:2:5: unknown key 'comand' in step. Did you mean 'command'?",
        "bad.yaml:3:27: step 'cmd_2' depends on 'fetsh', and there is no such step. Did you mean 'fetch'?",
    ]
    found = dagrid("validate", "--json", "good.yaml", "bad.yaml", "none.yaml")
    assert found.code == Exit.UNKNOWN
    good, bad, none = found.data
    assert (good["valid"], good["steps"], good["problems"]) == (True, 4, [])
    assert (bad["valid"], [one["line"] for one in bad["problems"]]) == (False, [2, 3])
    assert (none["valid"], none["file"]) == (False, "none.yaml")


def test_workflows_by_name(dagrid, files, tmp_path):
    """Beside the current folder there is one for workflows."""
    dags = tmp_path / "home" / "dags"
    dags.mkdir(parents=True)
    (dags / "nightly.yaml").write_text("steps:\n  - command: echo\n")
    assert dagrid("validate", "nightly").code == 0
    said = dagrid("validate", "nihgtly")
    assert said.code == Exit.UNKNOWN
    assert "Did you mean 'nightly'?" in said.out
    (files / "folder.yaml").mkdir()
    assert "Did you mean" not in dagrid("validate", "folder").out
    assert dagrid("validate", "nightly", "--dags", files).code == Exit.UNKNOWN
    for name in ("nightly", "good", "empty"):  # folders, which are no workflows
        (files / name).mkdir()
    assert dagrid("validate", "nightly", "good").code == 0
    assert "Is a directory" in dagrid("validate", "empty").out


# schema


def test_schemas_are_whole(dagrid):
    """They are what the tables say, and editors take them."""
    assert dagrid("schema").data == dagrid("schema", "dag").data == json_schema()
    jsonschema.Draft202012Validator(dagrid("schema", "config").data).validate({"quiet": True})


def test_a_part_of_a_schema(dagrid):
    """By the path of a field, through lists and references; what it refers to is with it, or it would be a word and no schema."""
    assert (
        dagrid("schema", "dag", "steps.retryPolicy.limit").data["description"] == "How often the step is tried again."
    )
    assert dagrid("schema", "config", "history.limit").data["default"] == 100
    whole = dagrid("schema", "dag", "steps.retryPolicy").data
    validator = jsonschema.Draft202012Validator(whole)
    validator.validate({"limit": 3, "intervalSec": 10})
    assert not validator.is_valid({"limits": 3})
    assert list(whole["$defs"]) == ["retryPolicy"]
    assert "retryPolicy" in dagrid("schema", "dag", "steps").data["$defs"]["step"]["properties"]
    said = dagrid("schema", "dag", "steps.retyPolicy")
    assert said.code == Exit.USAGE
    assert "Did you mean 'retryPolicy'?" in said.err


@pytest.mark.parametrize(
    ("command", "target"),
    [("validate", "flows.py"), ("validate", "flows:graph"), ("dry", "flows:graph"), ("start", "flows.py")],
)
def test_python_is_no_workflow(dagrid, files, command, target):
    """Who takes the one for the other is told how a graph of Python's is named, and what shows it."""
    said = dagrid(command, target)
    assert said.code == Exit.USAGE
    graph = "flows:NAME" if target == "flows.py" else target
    assert f"runs with dagrid start {graph}, and dagrid graph {graph} shows it" in said.out + said.err


# graph


@pytest.mark.parametrize(
    ("file", "begins"), [("a.svg", "<svg"), ("a.MMD", "flowchart"), ("a.dot", "digraph"), ("a.txt", "1  fetch")]
)
def test_the_ending_of_a_file_says_the_form(dagrid, files, file, begins):
    """Nobody has to say the same thing twice."""
    assert dagrid("graph", "good.yaml", "-o", file).code == 0
    assert (files / file).read_text().lstrip().startswith(begins)


def test_a_form_that_nothing_can_be_drawn_in(dagrid, files):
    """Text in a file that calls itself a picture is no picture: the endings that there are are named, and what says the form."""
    said = dagrid("graph", "good.yaml", "-o", "a.png")
    assert said.code == Exit.USAGE
    assert "a.png may end in .svg, .mmd, .dot, .gv, .json, .txt, or --format says its form." in said.err
    assert not (files / "a.png").exists()
    assert dagrid("graph", "good.yaml", "-o", "a.png", "--format", "text").code == 0
    assert dagrid("graph", "good.yaml", "-o", "plain").code == 0
    assert (files / "plain").read_text().startswith("1  fetch")


def test_a_workflow_in_words(dagrid, files):
    """Each step with what it waits for, by level."""
    assert dagrid("graph", "good.yaml").out == (
        "1  fetch\n2  cmd_2  <- fetch\n   cmd_3  <- fetch\n3  report  <- cmd_2, cmd_3\n"
    )


def test_a_workflow_drawn(dagrid, files):
    """As Mermaid, for Graphviz, as JSON, and as an SVG that stands by itself."""
    assert dagrid("graph", "good.yaml", "-f", "mermaid").out.splitlines()[:2] == ["flowchart LR", '  n0["fetch"]']
    assert '"cmd_2" -> "report";' in dagrid("graph", "good.yaml", "--format", "dot").out
    assert dagrid("graph", "good.yaml", "--json").data["name"] == "good"
    said = dagrid("graph", "good.yaml", "-f", "svg", "-o", "good.svg")
    assert (said.code, said.out) == (0, "")
    root = ElementTree.parse(files / "good.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["fetch", "cmd_2", "cmd_3", "report"]
    assert "--completed" in (files / "good.svg").read_text()  # the colours come with it
    assert dagrid("graph", "good.yaml", "-o", "no/such/folder").code == Exit.USAGE


@pytest.mark.parametrize(
    ("target", "params", "nodes"),
    [
        ("flows:graph", [], ["a", "b"]),
        ("flows:builder", [], ["x"]),
        ("flows:flow", [], ["one", "one_2"]),
        ("flows:flow", ["3"], ["one", "one_2"]),
        ("flows:flow", ["n=3", "flag=true", 'path={"a": [1]}'], ["one", "one_2"]),
        ("flows:made", ["n=3"], ["n0", "n1", "n2"]),
        ("flows:Rooms.inner", [], ["a", "b"]),
    ],
)
def test_graphs_of_python(dagrid, files, target, params, nodes):
    """A graph, a builder, a function of @dag, or one that returns a graph; with arguments for functions."""
    said = dagrid("graph", target, "--json", "--", *params)
    assert said.code == 0, said.err
    assert [one if isinstance(one, str) else one["id"] for one in said.data["nodes"]] == nodes


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("items=[1, 2]", [1, 2]),
        ('table={"a": 1}', {"a": 1.0}),
        ("maybe=4", 4),
        ("maybe=null", None),
        ("text=4", "4"),
        ("text=null", None),
        ("text=a=b", "a=b"),
        ("either=4", 4),
        ("either=four", "four"),
        ('folders=["a"]', "[PosixPath('a')]"),
        ("day=2026-01-31", "datetime.date(2026, 1, 31)"),
        ("kind=blue", "blue"),
        ("unsaid=4", 4),
        ("unsaid=four", "four"),
        ("for_checkers=[4]", [4]),
        ("other=4", 4),
    ],
)
def test_values_are_what_the_annotations_say(dagrid, files, param, value):
    """A number is a number and a text that looks like one a text, also where only checkers know a type."""
    said = dagrid("graph", "typed:flow", "--json", "--", param)
    assert said.code == 0, said.err
    wanted = value if isinstance(value, str) and "(" in value else repr(value)
    name = param.partition("=")[0]
    assert f"{name}={wanted}" in [one if isinstance(one, str) else one["id"] for one in said.data["nodes"]]


@pytest.mark.parametrize(
    ("target", "params", "said"),
    [
        ("flows:grph", [], "there is no 'grph' in flows. Did you mean 'graph'?"),
        ("flows:Rooms.iner", [], "there is no 'iner' in Rooms. Did you mean 'inner'?"),
        ("flws:graph", [], "there is no module 'flws'"),
        ("flows.deep:graph", [], "there is no module 'flows.deep'"),
        ("flows:text", [], "flows:text is no graph but str"),
        ("flows:late", [], "flows:late is no graph but coroutine"),
        ("flows:graph", ["x"], "takes no parameters, such as 'x'"),
        ("flows:flow", ["n=three"], "n is int, not 'three'"),
        ("flows:flow", ["flag=perhaps"], "flag is bool, not 'perhaps'"),
        ("flows:flow", ["1", "2", "true", "4"], "too many positional arguments"),
        ("flows:flow", ["N=3"], "has no parameter 'N'. Did you mean 'n'?"),
        ("flows:flow", ["size=3"], "has no parameter 'size'. A text with = in it is given by name, such as n=size=3."),
        ("flows:flow", ["n=1", "n=2"], "n is given twice. Keep one of the two."),
        ("typed:flow", ["items=1,2"], "items is list[int], not '1,2'. Write it as JSON, such as items='[1, 2]'."),
        (
            "typed:flow",
            ["table=x"],
            "table is dict[str, float] | None, not 'x'. Write it as JSON, such as table='{\"a\": 1}'.",
        ),
        ("typed:flow", ["maybe=x"], "maybe is Optional[int], not 'x'."),
        ("typed:flow", ["day=soon"], "day is datetime.date | None, not 'soon'."),
        ("typed:flow", ["kind=purple"], "kind is Literal['red', 'blue'], not 'purple'."),
        ("flows:made", [], "missing a required argument: 'n'"),
        ("flows:broken", [], "RuntimeError: broken by its author (" + "{folder}/flows.py:12)"),
        ("torn:graph", [], "torn:graph cannot be imported: RuntimeError: not today ({folder}/torn.py:2)"),
        ("typo:f", [], "SyntaxError: invalid syntax"),
        ("lacking:f", [], "No module named 'surely_not_installed' ({folder}/lacking.py:1)"),
    ],
)
def test_graphs_that_there_are_not(dagrid, files, target, params, said):
    """What is wrong is told with its place in the user's code, and never as a traceback."""
    found = dagrid("graph", target, "--", *params)
    assert found.code == Exit.USAGE
    assert said.replace("{folder}", str(files)) in found.err
    assert "Traceback" not in found.err
    assert len(found.err.splitlines()) == 1


# config


def test_where_every_value_came_from(dagrid, tmp_path, monkeypatch):
    """A flag, a variable, a line of the file, or the default."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text("history:\n  limit: 7\n")
    monkeypatch.setenv("DAGRID_BACKEND", "inline")
    found = {one["key"]: (one["value"], one["source"]) for one in dagrid("config", "--json", "--debug").data}
    assert found["history.limit"] == (7, f"{tmp_path}/home/config.yaml:2:3")
    assert found["backend"] == ("inline", "DAGRID_BACKEND")
    assert found["debug"] == (True, "--debug")
    assert found["tz"] == ("UTC", "DAGRID_TZ")
    assert found["quiet"] == (False, "default")
    assert list(found) == [one.key for one in SETTINGS]
    table = dagrid("config").out.splitlines()
    assert table[0].split() == ["SETTING", "VALUE", "FROM", "VARIABLE"]
    assert len(table) == len(SETTINGS) + 1


def test_what_a_file_says_is_named_by_its_key_too(dagrid, folder, monkeypatch):
    """The place alone does not say which of the settings there is meant."""
    monkeypatch.delenv("DAGRID_TZ")
    (folder / "mine.yaml").write_text("tz: Mars\nexec: {workdir: nowhere}\n")
    said = dagrid("-c", "mine.yaml", "history")
    assert (said.code, "mine.yaml:1:1: tz is a time zone" in said.err) == (Exit.USAGE, True), said.err
    said = dagrid("-c", "mine.yaml", "exec", "--tz", "UTC", "--", "true")
    assert (said.code, "mine.yaml:2:8: exec.workdir: there is no folder" in said.err) == (Exit.USAGE, True), said.err


def test_one_setting(dagrid):
    """Its value alone, for scripts."""
    assert dagrid("config", "home").out == f"{os.environ['DAGRID_HOME']}\n"
    assert dagrid("config", "history.limit", "--json").data["value"] == 100


def test_settings_that_are_several(dagrid, monkeypatch):
    """Numbers by name are shown as they are written, in the table too, which broke on them."""
    monkeypatch.setenv("DAGRID_QUEUES_CONFIG", "slow=2,fast=8")
    monkeypatch.setenv("DAGRID_RESOURCES", "gpu=0.5")
    monkeypatch.setenv("DAGRID_WORKER_LABELS", "zone=a")
    assert dagrid("config", "queues.config").out == "slow=2 fast=8\n"
    table = dagrid("config").out
    for shown in ("slow=2 fast=8", "gpu=0.5", "zone=a"):
        assert f"  {shown}  " in table


def test_a_password_is_not_shown(dagrid, monkeypatch):
    """Neither in words nor for programs."""
    monkeypatch.setenv("DAGRID_STORE", "postgresql://me:open-sesame@db/runs")
    for arguments in (["config"], ["config", "store"], ["config", "--json"], ["config", "store", "--json"]):
        said = dagrid(*arguments)
        assert said.code == 0
        assert "open-sesame" not in said.out + said.err
        assert "postgresql://me:***@db/runs" in said.out
    monkeypatch.setenv("DAGRID_STORE", "postgre://me:open-sesame@db/runs")
    said = dagrid("history")
    assert (said.code, "open-sesame" in said.err) == (Exit.USAGE, False)
    monkeypatch.delenv("DAGRID_STORE")
    monkeypatch.setenv("DAGRID_BACKEND", "celery?broker=redis://me:open-sesame@there/0&key=open-sesame&queue=mine")
    for arguments in (["config"], ["config", "backend"], ["config", "--json"]):
        said = dagrid(*arguments).out
        assert "celery?broker=redis://me:***@there/0&key=***&queue=mine" in said


def test_a_store_that_is_no_database(dagrid, folder):
    """A slip made a folder of that name, and the runs of a team were on one machine."""
    for said in (dagrid("--store", "mysql://db/runs", "history"), dagrid("--store", "runs", "status")):
        assert said.code == Exit.USAGE
        assert "--store is a PostgreSQL database, as postgresql://user@host/database" in said.err
    assert list(folder.iterdir()) == []


def test_a_variable_that_nobody_reads_is_pointed_out(dagrid, monkeypatch):
    """Beside the table, so that it does not disturb who reads that."""
    monkeypatch.setenv("DAGRID_QIUET", "1")
    said = dagrid("config")
    assert "DAGRID_QIUET is no setting. Did you mean 'DAGRID_QUIET'?" in said.err
    assert "QIUET" not in said.out


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_reads(dagrid, shell):
    """Its own language, and the shell itself takes it where it is installed."""
    script = dagrid("completion", shell)
    assert script.code == 0
    assert "_DAGRID_COMPLETE" in script.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.out, text=True, check=True, timeout=20)


def completed(*words: str) -> list[str]:
    """Return what a shell is told when a user presses the key behind these words."""
    done = subprocess.run(
        [sys.executable, "-m", "dagrid"],
        env={
            **os.environ,
            "_DAGRID_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("dagrid", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.split()


def test_words_are_completed(files):
    """Commands, flags, the values of those that have few, and files."""
    assert completed("val") == ["plain,validate"]
    assert completed("history", "--la") == ["plain,--last"]
    assert completed("history", "--format", "") == ["plain,table", "plain,json", "plain,csv"]
    assert completed("validate", "go") == ["file,go"]
