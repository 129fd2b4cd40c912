"""Text with `$` and backticks in it: what is replaced, what is left to the shell, and which names a text uses."""

from __future__ import annotations

import time

import pytest

from dagrid.workflow.expressions import STEP_FIELDS, Literal, Reference, evaluate, parse

JSON = '{"db":{"host":"h1","ports":[1,2]},"n":5,"none":null,"yes":true,"a-b":{"c d":[{"e":"deep"}]},"o":{"k":"ü"}}'


class Known:
    """A scope of a few names; it keeps the commands that it ran."""

    def __init__(self, **more):
        self.variables = {"OUT": "hello world", "EMPTY": "", "J": JSON, "1": "first", "10": "tenth"} | more
        self.ran = []

    def variable(self, name):
        return self.variables.get(name)

    def step(self, id, field):
        assert field in STEP_FIELDS.values()
        return {"stdout": "/logs/build.out", "exitCode": "3"}.get(field) if id == "build" else None

    def run(self, command):
        self.ran.append(command)
        return f"  <{command}>\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[${OUT}] [$OUT]", "[hello world] [hello world]"),
        ("$OUTER ${NOPE} $NOPE", "$OUTER ${NOPE} $NOPE"),
        ("$1 ${1} $10 $2", "first first tenth $2"),
        ("${NOPE:-d} ${EMPTY:-d} ${EMPTY-d} ${OUT:-d}", "d d  hello world"),
        ("${NOPE-a b} ${OUT:+set} [${EMPTY:+set}] ${EMPTY+set}", "a b set [] set"),
        ("${NOPE:-${OUT:0:5}-${NOPE:-x}}", "hello-x"),
        ("${NOPE:-}", ""),
        ("${OUT:6} ${OUT:0:5} ${OUT: -5} ${OUT: -5:2} ${OUT:50}|", "world hello world wo |"),
        ("${#OUT} ${#EMPTY} ${#NOPE}", "11 0 ${#NOPE}"),
        ("${J.db.host} ${J.db.ports[1]} ${J.db.ports[-1]} ${J.n}", "h1 2 2 5"),
        ("${J.none} ${J.yes} ${J.o} ${J.db.ports}", 'null true {"k":"ü"} [1,2]'),
        ('${J.a-b["c d"][0].e} ${J.db.host:1}', "deep 1"),
        ("[${J.missing}] ${J.missing:-d} [${J.db.ports[7]}] [${J.n.x}]", "[] d [] []"),
        ("${OUT.a} ${NOPE.a} ${NOPE.a:-d}", "${OUT.a} ${NOPE.a} d"),
        ("$J.n", JSON + ".n"),
        ("${build.stdout} ${build.exitCode} ${build.exit_code} ${build.stdout:0:5}", "/logs/build.out 3 3 /logs"),
        ("${other.stdout}", "${other.stdout}"),
        (r"\$OUT \${OUT} \` a\b", r"$OUT ${OUT} ` a\b"),
        ("'${OUT}' '$OUT' '${J.n}'", "'${OUT}' '$OUT' '5'"),
        ("'a ${OUT}' \"${OUT}\" '${OUT}\"", "'a hello world' \"hello world\" 'hello world\""),
        ("x`echo $OUT`y", "x<echo hello world>y"),
        ("``", "``"),
        ("a ` b", "a ` b"),
        (
            "$(wc -l < f) $((X+1)) $@ $? $$ ${x%.txt} ${} ${a b} $",
            "$(wc -l < f) $((X+1)) $@ $? $$ ${x%.txt} ${} ${a b} $",
        ),
        ("${OUT", "${OUT"),
        ("${ ${OUT}", "${ hello world"),
    ],
)
def test_what_a_text_becomes(text, value):
    """These are the rules of the format; what is none of them goes to the shell as it was written."""
    assert evaluate(text, Known()) == value


def test_a_path_that_is_not_there_is_told():
    """The text gets nothing, but a run can say that a name was wrong."""
    told: list[str] = []
    assert evaluate("${J.db.hots}!", Known(), missing=told.append) == "!"
    assert told == ["${J.db.hots}"]
    assert evaluate("${J.db.hots:-d}", Known(), missing=told.append) == "d"
    assert len(told) == 1


def test_backticks_can_be_left_to_a_shell():
    """In a command the shell runs them, in its own folder and with its own variables."""
    scope = Known()
    assert evaluate(parse(r"`date $OUT` \`", backticks=False), scope) == r"`date hello world` \`"
    assert scope.ran == []


def test_parts_can_be_left_as_they_are():
    """Where the shell has the variables itself, only what it cannot know is put in."""
    text = "$OUT ${OUT:-x} ${J.n} ${build.stdout}"
    found = evaluate(text, Known(), only=lambda part: type(part) is Reference and bool(part.path))
    assert found == "$OUT ${OUT:-x} 5 /logs/build.out"


def test_values_can_be_escaped_by_the_quotes_around_them():
    """A value with a quote in it must not end the text of the JSON or of the shell around it."""
    seen = []

    def escape(value, quote):
        seen.append(quote)
        return value.replace('"', '\\"') if quote == '"' else value

    assert evaluate('{"a": "${Q}", "b": $Q}', Known(Q='x"y'), escape=escape) == '{"a": "x\\"y", "b": x"y}'
    assert seen == ['"', ""]


def test_a_value_is_not_expanded_again():
    """Or the output of one step would run commands of its own choice in the next."""
    scope = Known(EVIL="`rm -rf /` $OUT ${OUT}")
    assert evaluate("$EVIL", scope) == "`rm -rf /` $OUT ${OUT}"
    assert scope.ran == []


def test_a_text_says_which_names_it_uses():
    """From them follows what a step needs of others before it can start."""
    found = parse("$A ${B:-${C}} `echo $D` ${build.stdout} ${J.x} '$E' \\$F ${id.exit_code}")
    assert found.names() == {"A", "B", "C", "D", "E", "J", "build", "id"}
    assert found.step_references() == {("build", "stdout"), ("id", "exitCode")}
    assert not found.is_literal
    assert parse("no names").is_literal


def test_a_text_without_names_is_one_part():
    """Most texts have none, and cost nothing."""
    assert parse("echo a; test 1 = 1").parts == (Literal("echo a; test 1 = 1", "echo a; test 1 = 1"),)
    assert parse("").parts == ()


@pytest.mark.parametrize("piece", ["${", "${A:-", "`", "$", "${A", "\\", "}", "${A.", "'$A'"])
def test_long_nonsense_is_read_in_one_pass(piece):
    """A step's script may be a megabyte of anything; a search for the end of each brace would take hours."""
    text = piece * (200_000 // len(piece)) + "}" * 50_000
    began = time.process_time()
    expression = parse(text)
    assert time.process_time() - began < 20
    assert expression.written == text
