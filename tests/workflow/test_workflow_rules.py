"""What a workflow means: chain and graph, names, calls, defaults; and every mistake at its place, all at once."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from dagrid.errors import WorkflowError, WorkflowNotFoundError
from dagrid.workflow import dependencies, find, load, loads
from dagrid.workflow.model import place
from dagrid.workflow.references import names, step_references
from tests.workflow.workflow_cases import BAD, GOOD


@pytest.mark.parametrize("rule", GOOD)
def test_a_rule_of_the_format(rule):
    """What waits for what is the meaning of a workflow; without warnings, but that nobody keeps a schedule yet."""
    text, waits = GOOD[rule]
    found = loads(text)
    assert {name: list(before) for name, before in dependencies(found.main).items()} == waits
    assert [one for one in found.warnings if place(found.main, "schedule") != (one.line, one.column)] == []


@pytest.mark.parametrize("rule", BAD)
def test_a_mistake_is_said_with_its_place(rule):
    """Each with file, line, column and a remedy, sorted, and not one too many: noise hides what counts."""
    text, wanted = BAD[rule]
    with pytest.raises(WorkflowError) as caught:
        loads(text, name="f.yaml")
    said = [str(one) for one in caught.value.problems]
    assert len(said) == len(wanted), said
    for line, begin in zip(said, wanted, strict=True):
        assert line.startswith(f"f.yaml:{begin}")
    assert str(caught.value) == "\n".join(said)


def test_a_root_command_beside_steps_is_a_warning():
    """The reference document itself has both; the steps count."""
    found = loads("name: t\ncommand: echo no\nsteps:\n  - name: a\n    command: echo yes\n", name="f.yaml")
    assert [step.command for step in found.main.steps] == [("echo yes",)]
    assert [str(one) for one in found.warnings] == [
        "f.yaml:2:10: the workflow has `steps` as well, and they count; remove `command`"
    ]


def test_what_a_step_has_from_the_defaults():
    """Policies of a step replace the defaults; env and preconditions come behind them."""
    text = """
defaults:
  retryPolicy: {limit: 3}
  continueOn: failed
  timeoutSec: 10
  env: [A: 1]
  preconditions: [test -d /]
steps:
  - command: x
  - {command: x, retryPolicy: {limit: 0}, timeout_sec: 0, env: [B: 2], preconditions: ['true'], continueOn: {skipped: true}}
handlerOn:
  exit: x
"""
    main: Any = loads(text).main
    first, second = main.steps
    assert (first.retry_policy.limit, first.timeout_sec, first.continue_on.failure) == (3, 10, True)
    assert [one.name for one in first.env] == ["A"]
    assert (second.retry_policy.limit, second.timeout_sec) == (0, 0)
    assert (second.continue_on.failure, second.continue_on.skipped) == (False, True)
    assert [one.name for one in second.env] == ["A", "B"]
    assert [one.condition for one in second.preconditions] == ["test -d /", "true"]
    assert (main.handler_on.exit.name, main.handler_on.exit.retry_policy.limit) == ("onExit", 3)


@pytest.mark.parametrize(
    ("policy", "repeat"),
    [
        ("{repeat: true}", "while"),
        ("{repeat: false, condition: x}", ""),
        ("{condition: x}", "while"),
        ("{condition: x, expected: y}", "until"),
        ("{exitCode: [1]}", "while"),
        ("{repeat: while, condition: x, expected: y}", "while"),
        ("{intervalSec: 3}", ""),
    ],
)
def test_a_condition_says_how_a_step_is_repeated(policy, repeat):
    """Without `repeat` the condition tells; what runs the step reads one word."""
    main: Any = loads(f"steps: [{{command: x, repeatPolicy: {policy}}}]").main
    assert main.steps[0].repeat_policy.repeat == repeat


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("echo", "shell"),
        ("{type: command, command: x}", "shell"),
        ("{python: 'a.b:c'}", "python"),
        ("{call: other}", "dag"),
        ("{call: other, parallel: [1]}", "dag"),
        ("{approval: Sure?}", "approval"),
        ("{command: x, approval: Sure?}", "shell"),
        ("{command: x, container: alpine}", "docker"),
        ("{executor: postgres, script: select 1}", "sql"),
        ("{executor: mine}", "mine"),
    ],
)
def test_a_step_knows_its_kind(step, kind):
    """One word says who performs a step, however it was written; a type of a stranger is taken when it is known."""
    assert loads(f"steps: [{step}]", exists=lambda name: name == "other", types={"mine"}).main.steps[0].kind == kind


def test_values_have_one_form():
    """However a value was written, what reads the records sees one form of it."""
    text = """
tags: "a, b,a"
maxOutputSize: 2KiB
shell: bash -eu -c
schedule: ["0 1 * * *", {kind: at, at: 2026-03-29T02:10:00+01:00}]
env: {A: 1.10, B: yes}
steps:
  - {command: x, output: $OUT, backoff: 1}
  - {command: x, output: {name: N, decode: json, select: .a}, outputs: {A: lit, B: {from: file, path: f}}}
  - {command: x, retryPolicy: {limit: "3", backoff: true}, workerSelector: local, container: alpine}
  - {command: x, args: "-l 'a b'", parallel: null}
""".replace(", backoff: 1", "")
    main: Any = loads(text).main
    assert main.tags == ("a", "b")
    assert main.max_output_size == 2048
    assert main.shell == ("bash", "-eu", "-c")
    assert ([one.expression for one in main.schedule.start], main.schedule.at) == (
        ["0 1 * * *"],
        ("2026-03-29T02:10:00+01:00",),
    )
    assert [(one.name, one.value) for one in main.env] == [("A", "1.10"), ("B", "yes")]
    first, second, third, fourth = main.steps
    assert [one.name for one in first.output] == ["OUT"]
    assert [(one.name, one.decode, one.select) for one in second.output] == [("N", "json", ".a")]
    assert [(one.name, one.value, one.source, one.path) for one in second.outputs] == [
        ("A", "lit", "stdout", ""),
        ("B", None, "file", "f"),
    ]
    assert (third.retry_policy.limit, third.retry_policy.backoff, third.worker_selector) == (3, 2.0, "local")
    assert third.container.image == "alpine"
    assert (fourth.args, fourth.parallel) == (("-l", "a b"), None)


def test_records_tell_where_their_fields_stand():
    """Errors of a run (a missing file, a value that does not fit) point into the file too."""
    found = loads(
        "steps:\n  - name: a\n    command: x\n    depends:\n      - b\n  - {name: b, command: x, depends: []}\n"
        "".replace("steps", "type: graph\nsteps"),
        name="f.yaml",
    )
    step = found.main.steps[0]
    assert place(step) == (3, 5)
    assert place(step, "command") == (4, 14)
    assert place(step, "depends", 0) == (6, 9)
    assert place(step, "timeout_sec") == (3, 5), "what is not said stands where the record does"
    assert str(found.problem(place(step, "command"), "no such program")) == "f.yaml:4:14: no such program"


def test_records_are_plain_data():
    """They are kept with a run and sent to workers."""
    found = loads(GOOD["a sub-workflow for each item"][0])
    assert pickle.loads(pickle.dumps(found)) == found
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_errors_travel():
    """A worker that loads a file sends its error home whole."""
    with pytest.raises(WorkflowError) as caught:
        loads("a: 1\nsteps: [{b: 1}]")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    assert str(again) == str(caught.value)


def test_a_file_is_found_and_named(tmp_path):
    """The first document is called as its file, and calls the files beside it."""
    (tmp_path / "my flow.yaml").write_text("steps: [{call: child}, {call: sub/other.yml}, {call: gone}]\n")
    (tmp_path / "child.yml").write_text("name: given\nsteps: [x]\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.yml").write_text("steps: [x]\n")
    with pytest.raises(WorkflowError) as caught:
        load(tmp_path / "my flow.yaml")
    (only,) = caught.value.problems
    assert (only.file, only.line, only.column) == (str(tmp_path / "my flow.yaml"), 1, 54)
    assert load(tmp_path / "my flow.yaml", exists=lambda name: name == "gone").main.name == "my_flow"
    assert load(tmp_path / "child").main.name == "given"
    assert find("child", tmp_path) == tmp_path / "child.yml"
    assert find("a\0b", tmp_path) is None


def test_a_file_that_is_not_there(tmp_path):
    """The commonest mistake of all gets the name that was meant."""
    (tmp_path / "pipeline.yaml").write_text("steps: [x]\n")
    with pytest.raises(WorkflowNotFoundError, match=r"there is no such file\. Did you mean 'pipeline\.yaml'\?"):
        load(tmp_path / "pipline.yaml")
    with pytest.raises(WorkflowNotFoundError, match="the file cannot be read"):
        load(tmp_path)
    with pytest.raises(WorkflowNotFoundError, match="the file cannot be read: it has more than 64 MiB"):
        load("/dev/zero")


def test_a_file_that_is_no_text(tmp_path):
    """Latin-1 is common, and its bytes are no UTF-8: the place is said."""
    (tmp_path / "latin.yaml").write_bytes("steps:\n  - echo grüße\n".encode("latin-1"))
    with pytest.raises(WorkflowError, match=r"latin\.yaml:2:12: byte 0xFC is no UTF-8; save the file as UTF-8"):
        load(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfsteps: [x]\n")
    assert load(tmp_path / "bom.yaml").main.name == "bom"


def test_all_mistakes_of_all_documents_at_once():
    """A file is mended in one go: source, fields and rules of every document are looked at, sorted by place."""
    text = (
        "nme: x\nsteps:\n  - {name: a, command: 1, comand: 2, command: 3}\n  - {name: a, command: x, depends: z}\n"
        "---\nname: b\ntype: tree\nsteps: [{call: c}]\n"
    )
    with pytest.raises(WorkflowError) as caught:
        loads(text, name="f.yaml")
    assert [(one.line, one.column) for one in caught.value.problems] == [
        (1, 1),
        (3, 27),
        (3, 38),
        (4, 12),
        (4, 36),
        (7, 7),
        (8, 16),
    ]


def test_a_step_that_is_asked_has_run():
    """`${id.stdout}` of a step that runs later, or of none, is empty in the middle of the night."""
    text = """
type: graph
env: [CFG: '{}']
steps:
  - {name: build, id: b, command: x}
  - {name: between, command: x, depends: build}
  - {name: good, command: 'cat ${b.stdout} ${CFG.stdout}', depends: between}
  - {name: early, script: 'cat ${b.stdout}'}
  - {name: byname, command: '${build.exitCode}', depends: b}
  - {name: nobody, command: ok, env: [A: '${bb.stderr:0:3}'], depends: b}
handlerOn: {exit: 'cat ${b.stdout} ${c.stdout}; echo ${b.output}'}
"""
    found = loads(text, name="f.yaml")
    assert [str(one) for one in found.warnings] == [
        "f.yaml:8:27: ${b.stdout} asks a step that may not have run yet; add 'build' to `depends`",
        "f.yaml:9:29: ${build.exitCode} asks a step by its id; give step 'build' `id: build`",
        "f.yaml:10:38: ${bb.stderr}: no step has the id 'bb'. Did you mean 'b'?",
        "f.yaml:11:19: ${b.output} is empty, for step 'build' has no output; give it `output: NAME`",
        "f.yaml:11:19: ${c.stdout}: no step has the id 'c'.",
    ]
    good = found.main.steps[2]
    assert step_references(good, found.main) == (("build", "stdout"),)
    assert names(good) == {"b", "CFG"}


def test_mails_that_cannot_be_sent_are_pointed_out():
    """Only the log of a run told that nobody had been told of its failure."""
    text = (
        "mailOn: {success: true, failure: true}\nerrorMail: {from: a@x.org, to: b@x.org}\n"
        "defaults: {mailOnError: true}\nsteps: [x, y]\n"
    )
    smtp = "no mail can be sent; write smtp: {host: ..., port: ...}"
    assert [str(one) for one in loads(text, name="f.yaml").warnings] == [
        "f.yaml:1:19: no mail can be sent; write infoMail: {from: ..., to: ...}",
        f"f.yaml:1:19: {smtp}",
        f"f.yaml:1:34: {smtp}",
        f"f.yaml:3:25: {smtp}",
    ]
    assert not loads(f"{text}smtp: {{host: h}}\ninfoMail: {{from: a@x.org, to: b@x.org}}\n").warnings


def test_what_has_no_effect_is_pointed_out():
    """Who lets a schema guard the parameters learns that it does not, before a value has come through that it forbids; and who
    has taken a job out of his crontab, before the first night in which it was not run."""
    text = (
        "params: {schema: guard.json, values: {A: 1}}\n"
        "schedule: 0 2 * * *\n"
        "secrets: [{name: S, provider: env, key: K, options: {x: 1}}]\n"
        "steps: [{type: shell, command: x, config: {a: 1}}, {executor: {type: python, config: {a: 1}}, python: m:f}]\n"
    )
    assert [str(one) for one in loads(text, name="f.yaml").warnings] == [
        "f.yaml:1:18: a schema in a file is not read, and no value is held against it; write it here: schema: {properties: ...}",
        "f.yaml:2:11: nothing is started by a schedule yet; let cron call `dagrid start --quiet`",
        "f.yaml:3:53: neither env nor file has options; remove them",
        "f.yaml:4:43: a step of type shell has no settings; remove them",
        "f.yaml:4:86: a step of type python has no settings; remove them",
    ]


def test_a_step_says_which_names_it_uses():
    """Wherever a text of a step is expanded, what it needs is known before the step is sent somewhere."""
    step = (
        "{call: $A, params: X=$B, parallel: {items: ['$C', {k: '${D.x}'}]}, env: [E: '`echo $F`'], dir: $G, stdout: $H,"
        " preconditions: [{condition: $I, expected: $J}], executor: {type: dag, config: {deep: [{x: $K}]}},"
        " retryPolicy: {limit: $L}, approval: {prompt: $M}, description: $N, name: n$O}"
    )
    assert names(loads(f"steps: [{step}]").main.steps[0]) == set("ABCDFGHIJKLM")
