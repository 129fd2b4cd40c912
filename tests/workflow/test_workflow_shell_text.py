"""Values in the text of a command: whatever they hold, a real shell sees each as one value and never as a part of the program."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagrid.errors import StepError
from dagrid.workflow.context import StepEnd
from dagrid.workflow.variables import Names, environment, for_program, for_shell

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\n"), max_size=20)
NASTY = [
    "'; touch hurt; '",
    '"; touch hurt; "',
    "$(touch hurt)",
    "`touch hurt`",
    "\\",
    "a b",
    "*",
    "${HOME}",
    "$HOME",
    "-n",
    "'",
    '"',
]


def printed(text, variables, steps=None, shell="/bin/sh"):
    """Return what a shell prints for a text of a workflow."""
    names = Names([variables, os.environ], steps)
    written, held = for_shell(text, names)
    env = {**environment(variables), **held, "PATH": os.environ["PATH"]}
    done = subprocess.run([shell, "-c", written], env=env, capture_output=True, text=True, check=True)
    return done.stdout


@given(TEXT)
@example(NASTY[0])
@example(NASTY[2])
@example(NASTY[3])
@pytest.mark.parametrize(
    ("text", "around"),
    [
        ("printf '%s' \"${V.a}\"", ""),
        ("printf '%s' \"<${V.a}>\"", "<>"),
        ("printf '%s' '${V.a}'", ""),
        ("printf '%s' 'a ${V.a} b'", "a  b"),
        ("printf '%s' \"it's ${V.a}\"", "it's "),
    ],
)
def test_a_value_out_of_json_is_never_a_part_of_the_program(text, around, value):
    """In double quotes, in single quotes and with text around it, it is printed as it is."""
    expected = text.partition("'%s' ")[2][1:-1].replace("${V.a}", value)
    assert printed(text, {"V": json.dumps({"a": value})}) == expected


PIECES = st.sampled_from([*"'\"`$(){}\\;#<>&|\n\t *!", "END", "\nEND\n", "touch hurt", "${V.a}", "$'", "x", "\u00e9"])
PLACES = [  # a text, and what it prints
    ("# don't forget\nprintf '%s' \"${V.a}\"", "@"),
    ("# don't ${V.a}\nprintf '%s' '${V.a}'", "@"),
    ("printf '%s' x#'${V.a}' # it's ${V.a}\n", "x#@"),
    ("printf '%s' \"$(printf '<%s>' '${V.a}')\"", "<@>"),
    ("printf '%s' \"`printf '<%s>' '${V.a}'`\"", "<@>"),
    ("printf '%s' \"`printf '<%s>' \\\"it's ${V.a}\\\"`\" '${V.a}'", "<it's @>@"),
    ("printf '%s' \"$(case x in x) printf '<%s>' '${V.a}';; esac)\"", "<@>"),
    ("printf '%s' \"$( (printf '<%s>' 'it '\\''s ${V.a}') )\"", "<it 's @>"),
    ("printf '%s' \"${NONE:-'it'}\" '<${V.a}>'", "'it'<@>"),
    ("printf '%s|' ${NONE:-\"<${V.a}>\"} ${NONE:-'<${V.a}>'} '<${NONE:-${V.a}}>'", "<@>|<@>|<@>|"),
    ("printf '%s' \"${NONE:-$(printf '<%s>' '${V.a}')}\"", "<@>"),
    ("printf '%s' $((1 << 2)) '<${V.a}>'", "4<@>"),
    ("cat <<END\nit's '${V.a}' \"x\"\nEND\nprintf '%s' '${V.a}'", "it's '@' \"x\"\n@"),
    ("cat <<END\nit's $(printf '%s' '<${V.a}>') '${V.a}'\nEND\n", "it's <@> '@'\n"),
    ("cat <<'END'\nit's $HOME \\ \\\\ `x` '${V.a}' \\\nEND\nprintf '%s' '${V.a}'", "it's $HOME \\ \\\\ `x` '@' \\\n@"),
    ("cat <<\\END; printf '%s' \"${V.a}\"\n<${V.a}>\nEND\n", "<@>\n@"),
    ("cat <<-\"END\"\n\t<${V.a}>\n\tEND\nprintf '%s' '${V.a}'", "<@>\n@"),
    ("x=$(cat <<'END'\n<${V.a}> (it's\nEND\n)\nprintf '%s' \"$x\" '${V.a}'", "<@> (it's@"),
    ("cat <<A; cat <<'B'\na '${V.a}'\nA\nb '${V.a}'\nB\n", "a '@'\nb '@'\n"),
    ("cat <<''\n<${V.a}>\n\nprintf '%s' '${V.a}'", "<@>\n@"),
    ("((case x in x) printf x;; esac); printf '%s' '<${V.a}>')", "x<@>"),
    ("(((printf x); printf y); printf '%s' '<${V.a}>')", "xy<@>"),
    ("printf '%s' $(((1 << 2) + (3))) '<${V.a}>'", "7<@>"),
]


@given(st.lists(PIECES, max_size=8).map("".join))
@example("Tom & Jerry; touch hurt")
@example("it's")
@example("\nEND\ntouch hurt\n")
@example("$(touch hurt)`touch hurt`")
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize(("text", "expected"), PLACES)
def test_wherever_a_value_stands_nothing_of_it_is_run(text, expected, shell, value):
    """In comments, documents and commands within others it is printed as it is, or not at all."""
    assert printed(text, {"V": json.dumps({"a": value})}, shell=shell) == expected.replace("@", value)


@pytest.mark.parametrize(
    ("shell", "text"),
    [
        ("/bin/sh", "((cat <<'END'\n${V.a}\nEND\n); printf '%s' '${V.a}')"),
        ("/bin/sh", "((cat <<'END'\nit's ( ${V.a}\nEND\n); printf '%s' '${V.a}') | sed \"s/it's ( //\""),
        ("/bin/bash", "printf '%s' \"$((cat <<'END'\n${V.a}\nEND\n); printf '%s' '${V.a}')\""),
    ],
)
def test_a_subshell_that_begins_with_another_is_no_arithmetic(shell, text):
    """`((` begins arithmetic only where `))` ends it: a document between them has its values. Its shell reads each text."""
    assert printed(text, {"V": '{"a":"it\'s"}'}, shell=shell) == "it's\nit's"


def test_bash_reads_quotes_of_its_own():
    """A quotation mark that is escaped in them ends nothing."""
    text = "printf '%s' $'it\\'s ${V.a}\\t|' '${V.a}'"
    assert printed(text, {"V": '{"a":"it\'s"}'}, shell="/bin/bash") == "it's it's\t|it's"


@given(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=12).map("".join))
def test_any_text_can_be_read(before, after):
    """What no shell understands is for the shell to refuse; no value is ever in what it gets."""
    try:
        written, _ = for_shell(f"{before}${{V.a}}{after}", Names([{"V": '{"a":"secret"}'}]))
    except StepError as error:
        assert "in place of the backticks" in error.message  # noqa: PT017  # it is the only reason there is
        return
    assert "secret" not in written


@pytest.mark.parametrize("value", NASTY)
def test_a_numbered_parameter_is_never_a_part_of_the_program(value, tmp_path, monkeypatch):
    """`$1` is none of the shell's own here; its value comes to it as that of a variable."""
    monkeypatch.chdir(tmp_path)
    assert printed('printf \'%s|\' "$1" "${1}"', {"1": value}) == f"{value}|{value}|"
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo $NAME ${NAME:-other} ${#NAME}", "ada ada 3\n"),  # all of it the shell's own
        ('echo "${UNKNOWN}" "${UNKNOWN:-none}"', " none\n"),
        ("echo '${NAME}'", "${NAME}\n"),
        ("echo \\${NAME} \\$NAME", "${NAME} $NAME\n"),
        ('echo "${NAME:0:2}" ${NAME:1}', "ad da\n"),  # a plain sh knows no slices
        ('echo "${V.list[1]} ${V.list} ${V.none}|"', "2 [1,2] |\n"),
        ('echo "${V.none:-nothing} ${V.a:-nothing}"', "nothing x\n"),
        ("echo ${V.none:-\"x  y\"} ${V.a:+'z  z'} ${V.none:-$(echo d)}", "x  y z  z d\n"),
        ('echo ${9:-"a  b"} ${NONE:-"${9:-c  d}"}', "a  b c  d\n"),
        (r"""printf '%s|' "\\${V.a}" "\\\${V.a}" '\\${V.a}'""", r"\x|\${V.a}|\\x|"),
        ("echo $((${V.n} + 1)) $(echo ${V.n})", "5 4\n"),
        ("cat <<END\n${V.a}\nEND", "x\n"),
        ("cat <<'END'\n${V.a} $NAME\nEND", "x $NAME\n"),
        ("echo ${a_step.exitCode} ${a_step.stdout}", "3 /tmp/a.out\n"),
        ("echo $1 $2 ${9}|cat", "\n"),  # parameters that nobody gave are empty, as in any shell
        ("for i in 1 2; do echo $i; done", "1\n2\n"),
        ("echo `echo $NAME`", "ada\n"),
    ],
)
def test_a_shell_gets_what_it_cannot_find_by_itself(text, expected):
    """Paths, slices and fields of steps are ours; everything else is left to the shell, with its own rules."""
    variables = {"NAME": "ada", "V": '{"a":"x","n":4,"list":[1,2]}'}
    assert printed(text, variables, {"a_step": StepEnd(code=3, stdout="/tmp/a.out")}) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("echo $(( ${V.list[1]} + ${V.a ))", "V_list_1"),
        ("echo ${a_step.exitCode} $((", "a_step_exitCode"),
        ("echo $1 $((", "1"),
        ("echo ${V.a} ${V.list} ${V.a:0:1} $(( ${V.n}", "V_n"),
    ],
)
def test_who_reads_what_a_shell_complains_of_knows_what_was_written(text, name):
    """A shell shows the line that it cannot read; the names of ours in it say which of the values is meant."""
    names = Names([{"V": '{"a":"xy","n":4,"list":[1,2]}', "1": "one"}], {"a_step": StepEnd(code=3)})
    written, held = for_shell(text, names)
    assert f"${{DAGRID_VALUE_{name}}}" in written
    assert len(set(held.values())) == len(held)


def test_a_program_that_is_no_shell_keeps_its_dollars():
    """In a Python script only `${...}` with a known name is ours."""
    names = Names([{"NAME": "ada", "V": '{"a":1}'}])
    assert for_program("print('$NAME', '${NAME}', '${V.a}', '${other}', r'\\$')", names) == (
        "print('$NAME', 'ada', '1', '${other}', r'\\$')"
    )


@pytest.mark.parametrize("value", ["x" * 100_001, "\u20ac" * 60_000, "a\0b", "\ud800"])
@pytest.mark.parametrize("text", ["echo $BIG", 'echo "${#BIG}"', "echo ${V.a}", "echo ${BIG:1}x", "echo ${NONE:-$BIG}"])
def test_a_value_that_no_process_can_get_is_not_taken_for_an_empty_one(text, value):
    """Who names it is told how to read it; who does not name it knows nothing of it."""
    names = Names([{"BIG": f"x{value}", "V": json.dumps({"a": value}), "SMALL": "s"}])
    with pytest.raises(StepError, match=r"\$\{ID.stdout\}"):
        for_shell(text, names)
    assert for_shell("echo $SMALL", names) == ("echo $SMALL", {})
    assert "BIG" not in environment(*names.layers)


def test_what_is_no_name_or_too_long_is_not_in_the_environment():
    """A process could not be started with it; a layer before another one wins."""
    found = environment({"A": "new", "1": "x", "LONG": "x" * 200_000}, {"A": "old", "B": "b", "LONG": "short"})
    assert found == {"A": "new", "B": "b"}


@pytest.mark.parametrize(
    "opening", ["((", "(( $( ", '(( "$( ', "((`", "(( # '\n", "<<A$( ", "<<A\n$( ", "${a:-'", '"`', "'${V.a}"]
)
def test_a_text_with_much_that_is_not_closed_takes_no_time(opening):
    """Whoever writes such a text, or has it made: its step fails by its shell, and nobody waits for a look at it."""
    begun = time.process_time()
    written, _ = for_shell(f"{opening * 20_000} ${{V.a}}", Names([{"V": '{"a":1}'}]))
    assert time.process_time() - begun < 20
    assert written.startswith(opening[:1])
