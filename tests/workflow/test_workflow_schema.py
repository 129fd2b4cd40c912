"""The table of fields, and what follows from it: spellings, suggestions, the JSON schema, the page for readers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from dagrid.errors import WorkflowError
from dagrid.workflow import json_schema, loads
from dagrid.workflow.fields import RecordOf
from dagrid.workflow.problems import Problems
from dagrid.workflow.schema import HANDLERS, STEP, WORKFLOW, described
from dagrid.workflow.source import plain, read
from tests.workflow.workflow_cases import GOOD

PAGE = Path(__file__).parent.parent.parent / "docs" / "workflow.md"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
# What is written in the program and not in the file.
FILLED_IN = {"kind", "group", "places"}
# What has a section of its own there, or in docs/steps.md.
TOLD_ELSEWHERE = {"container", "executor", "otel", "ssh"}
# Fields that stand in the published list of the format.
WORKFLOW_FIELDS = [
    "name",
    "group",
    "description",
    "tags",
    "type",
    "schedule",
    "skipIfSuccessful",
    "restartWaitSec",
    "env",
    "dotenv",
    "params",
    "preconditions",
    "handlerOn",
    "steps",
    "maxActiveSteps",
    "maxActiveRuns",
    "queue",
    "timeoutSec",
    "delaySec",
    "maxCleanUpTimeSec",
    "histRetentionDays",
    "logDir",
    "logOutput",
    "workerSelector",
    "smtp",
    "mailOn",
    "errorMail",
    "infoMail",
    "shell",
    "workingDir",
    "secrets",
    "defaults",
    "otel",
]
STEP_FIELDS = [
    "name",
    "id",
    "description",
    "command",
    "args",
    "script",
    "shell",
    "dir",
    "workingDir",
    "executor",
    "type",
    "stdout",
    "stderr",
    "output",
    "outputs",
    "depends",
    "continueOn",
    "retryPolicy",
    "repeatPolicy",
    "preconditions",
    "env",
    "mailOnError",
    "signalOnStop",
    "timeoutSec",
    "run",
    "call",
    "params",
    "parallel",
    "workerSelector",
    "approval",
    "priority",
    "resources",
]


def tables():
    """Return every table that hangs together with that of a workflow."""
    import dagrid.workflow.schema as module

    found = {id(value): value for value in vars(module).values() if isinstance(value, RecordOf)}
    return list(found.values())


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.name)
def test_a_table_fits_its_record(table):
    """A field that is read and not kept, or kept and never read, is a promise that nobody keeps."""
    attributes = {one.name for one in msgspec.structs.fields(table.record)} - {"places"}
    if table in (STEP, WORKFLOW):
        attributes -= FILLED_IN - ({"group"} if table is WORKFLOW else set())
    assert {row.target for row in table.fields} == attributes
    spellings = [spelling for row in table.fields for spelling in row.spellings()]
    assert len(spellings) == len(set(spellings)), "two fields claim one spelling"
    assert not set(table.hints) & set(spellings)
    assert all(row.doc for row in table.fields)


def test_the_format_is_whole():
    """These are the fields that files in the wild have."""
    assert set(WORKFLOW_FIELDS) <= WORKFLOW.spelled.keys()
    assert set(STEP_FIELDS) <= STEP.spelled.keys()
    assert {"init", "success", "failure", "cancel", "abort", "exit"} <= HANDLERS.spelled.keys()


@pytest.mark.parametrize("rule", GOOD)
def test_the_schema_takes_what_is_right(rule):
    """An editor that underlines a right line is turned off."""
    problems = Problems("f")
    for document in read(GOOD[rule][0], problems):
        assert [error.message for error in VALIDATOR.iter_errors(without_nothing(plain(document)))] == []


def without_nothing(value):
    """Return a tree without the keys that have no value: they say nothing, and the schema need not know them."""
    if isinstance(value, dict):
        return {key: without_nothing(one) for key, one in value.items() if one is not None}
    return [without_nothing(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "text",
    [
        "stepz: [x]",
        "steps: [{comand: x}]",
        "type: tree",
        "secrets: [{name: S, provider: vault, key: k}]",
        "steps: [{command: x, retryPolicy: {limit: many}}]",
        "steps: [{command: x, timeoutSec: -1}]",
        "steps: [{command: x, repeatPolicy: {repeat: often}}]",
        "maxActiveRuns: 1.5",
        "skipIfSuccessful: yes",
        "handlerOn: {end: x}",
    ],
)
def test_the_schema_and_the_checks_refuse_the_same(text):
    """What an editor shows and what `validate` says come from one table."""
    (document,) = read(text, Problems("f"))
    assert list(VALIDATOR.iter_errors(plain(document)))
    with pytest.raises(WorkflowError):
        loads(text)


def test_the_schema_is_a_schema():
    """It says the defaults and the meaning of a field where an editor shows them."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    workflow = json_schema()["$defs"]["workflow"]["properties"]
    assert workflow["maxCleanUpTimeSec"]["default"] == 5
    assert workflow["max_clean_up_time_sec"]["description"] == "The same as maxCleanUpTimeSec."
    assert workflow["dotenv"]["default"] == [".env"]
    assert json_schema()["$defs"]["step"]["properties"]["depends"]["description"].startswith(
        "The steps that come before"
    )


@pytest.mark.parametrize(
    "table", [one for one in tables() if one.name not in TOLD_ELSEWHERE], ids=lambda table: table.name
)
def test_the_page_shows_the_table(table):
    """The reference of the fields is written by the table itself, or it would be wrong within a month."""
    between = re.search(rf"<!-- fields of a {table.name} -->\n(.*?)<!-- end -->", PAGE.read_text("utf-8"), re.DOTALL)
    assert between is not None
    assert between[1] == described(table), f"write this to docs/workflow.md:\n{described(table)}"


def test_reading_costs_no_import_before_it_is_needed():
    """A command that starts in a moment cannot load a parser, a cron library or an engine for a look at its options."""
    program = (
        "import sys; sys.modules['dagrid'] = type(sys)('dagrid'); sys.modules['dagrid'].__path__ = [sys.argv[1]]\n"
        "import dagrid.workflow\n"
        "print(*sorted(set(sys.modules) & {'yaml', 'cronsim', 'zoneinfo', 'pydantic', 'asyncio', 'dagrid.execution', 'sqlite3'}))"
    )
    import dagrid.workflow

    folder = str(Path(dagrid.workflow.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.split() == []


WRITTEN = [
    "5",
    '"5"',
    "1.5",
    '"1.5"',
    '".5"',
    '"1e3"',
    '"0x10"',
    "'-1'",
    "$X",
    "'`x`'",
    "true",
    '"true"',
    "word",
    "two words",
    "a=b",
]
FIELDS = [(table, row) for table in tables() for row in table.fields]


@pytest.mark.parametrize(("table", "row"), FIELDS, ids=[f"{table.name}.{row.name}" for table, row in FIELDS])
def test_the_schema_takes_what_the_loader_takes(table, row):
    """Whatever way of writing a value there is, an editor that underlines it is wrong."""
    known: dict[str, object] = {}
    schema = row.kind.schema(known)
    validator = jsonschema.Draft202012Validator({**schema, "$defs": known})
    words = [word for word in strings(schema) if isinstance(word, str)]
    for text in [*WRITTEN, *map(json.dumps, words)]:
        problems = Problems("flow.yaml")
        (node,) = read(text, problems)
        row.kind.read(node, row.name, problems)
        assert problems.found or validator.is_valid(plain(node)), text


def strings(schema):
    """Yield the words that a schema names."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            yield from value if key == "enum" else strings(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from strings(one)
