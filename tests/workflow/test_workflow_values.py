"""What steps have of each other and of their settings: outputs, files, arguments, parameters, env, backticks."""

from __future__ import annotations

import pytest


def test_outputs_reach_all_steps_behind_directly_or_not(runner):
    """A variable is there for every step that comes later, in its text and in the environment of its processes."""
    told = runner.run(
        """
        steps:
          - {name: a, command: echo one, output: A}
          - {name: b, command: 'true'}
          - {name: c, command: 'echo "$A"; sh -c "env | grep ^A="'}
        """
    )
    assert told.status == "succeeded"
    assert told.out("c") == "one\nA=one\n"


def test_a_step_does_not_see_what_does_not_come_before_it(runner):
    """What a step sees must not depend on which of two others happened to be quicker."""
    told = runner.run(
        """
        type: graph
        steps:
          - {name: a, command: echo one, output: A}
          - {name: b, command: 'echo "[$A]"'}
          - {name: c, command: 'echo "[$A]"', depends: [a, b]}
        """
    )
    assert (told.out("b"), told.out("c")) == ("[]\n", "[one]\n")


def test_what_the_first_handler_leaves_is_there_for_all(runner):
    """`handlerOn.init` comes before every step, and what it had found out was known to none of them."""
    told = runner.run(
        """
        handlerOn:
          init: {command: 'echo {\\"day\\":1}', output: FOUND}
          exit: {command: 'echo "exit $FOUND"'}
        type: graph
        steps:
          - {name: a, command: 'echo "$FOUND ${FOUND.day}"', output: A}
          - {name: b, command: 'echo "$FOUND $A"', depends: a}
          - {name: c, python: 'builtins:print', args: ['${FOUND.day}']}
        """
    )
    assert (told.out("a"), told.out("b")) == ('{"day":1} 1\n', '{"day":1} {"day":1} 1\n')
    assert (told.out("c"), told.out("onExit")) == ("1\n", 'exit {"day":1}\n')


@pytest.mark.parametrize(("init", "ran"), [("precondition: 'false'", "completed"), ("script: exit 3", "skipped")])
def test_a_first_handler_that_has_nothing_to_do_keeps_nobody_from_it(runner, init, ran):
    """A workflow of which nothing had run was said to have succeeded."""
    told = runner.run(f"handlerOn: {{init: {{command: sh, {init}}}}}\nsteps: [{{name: a, command: echo a}}]")
    assert told.node("a").status == ran


def test_fields_of_steps_are_files_and_codes(runner):
    """`${id.stdout}` is a file, also of a step that failed and is gone on after."""
    told = runner.run(
        """
        steps:
          - {name: first step, id: first, command: 'echo out; echo err >&2; exit 3', continueOn: {exitCode: [3]}}
          - {name: second, command: 'cat ${first.stdout} ${first.stderr}; echo ${first.exitCode}'}
        """
    )
    assert told.status == "partially_succeeded"
    assert told.out("second") == "out\nerr\n3\n"


@pytest.mark.parametrize(
    ("a_run", "a_step", "statuses", "printed"),
    [
        ("", "timeoutSec: 0.2, continueOn: failure", ("timed_out", "completed"), "out\n"),
        ("timeoutSec: 0.2", "continueOn: {}", ("cancelled", "cancelled"), "out\n"),
        ("", "precondition: 'false', continueOn: skipped", ("skipped", "completed"), ""),
    ],
)
def test_a_step_without_an_end_has_files_all_the_same(runner, a_run, a_step, statuses, printed):
    """Who comes after a step that was late, stopped or skipped shows what it wrote; it has no exit code."""
    told = runner.run(
        f"""
        {a_run}
        handlerOn: {{exit: 'cat "${{first.stdout}}" "${{first.stderr}}"; echo "[${{first.exitCode}}${{first.output}}]"'}}
        steps:
          - {{name: a, id: first, command: 'echo out; sleep 9', output: A, {a_step}}}
          - {{name: b, command: 'cat "${{first.stdout}}"; echo "[${{first.exitCode}}]"'}}
        """
    )
    assert (told.statuses["a"], told.statuses["b"]) == statuses
    assert told.out("onExit") == f"{printed}[]\n"
    assert told.out("b") == (f"{printed}[]\n" if statuses[1] == "completed" else "")


def test_arguments_of_commands_are_as_the_file_has_them(runner):
    """Numbers are texts there, as they are in `params`; what is in a word is not expanded again; a last line may end."""
    (runner.folder / "tasks.py").write_text("def kinds(*values):\n    return repr(values)\n")
    told = runner.run(
        r"""
        env: [V: '{"a": "x"}']
        steps:
          - {name: w, exec: {command: printf, args: ['%s', '\${V.a} \`id\`']}, output: W}
          - name: a
            command: |
              printf '%s|'
            args: [true, 1.50, 007, 0x1F, 1e3, ~, 3, '$W']
          - {name: b, script: 'printf "%s|" "$@"', args: [true, 1.50, 007]}
          - {name: c, python: 'tasks:kinds', args: [true, 1.50, 0x1F, ~], output: KINDS}
        """
    )
    assert told.out("a") == "true|1.50|007|0x1F|1e3|~|3|${V.a} `id`|"
    assert told.out("b") == "true|1.50|007|"
    assert told.node("c").value.outputs == {"KINDS": "(True, 1.5, 31, None)"}


@pytest.mark.parametrize(
    "how", ["command: '', script: 'echo hi $#'", 'script: "#!\\necho hi $#"', "script: 'echo hi $#'"]
)
def test_a_script_is_the_shells_where_nothing_else_is_said(runner, how):
    """An empty command or first line says nothing; arguments come to it all the same."""
    assert runner.run(f"steps: [{{name: a, {how}, args: [x]}}]").out("a") == "hi 1\n"


def test_an_interpreter_that_is_no_shell_reads_commands(runner):
    """It expands no names, so that what is known is put in; backticks are for a shell still, and arguments are its own."""
    told = runner.run(
        """
        shell: python3
        env: [V: '{"a": "x y"}']
        preconditions: "import sys; sys.exit('${V.a}' != 'x y')"
        steps:
          - name: a
            command: 'import sys; print("${DAG_NAME}", "${V.a}", "${NO}", sys.argv[1:])'
            args: ['$V', 'b c']
            env: [W: '`echo shell`']
            preconditions: [{condition: '`echo $W`', expected: shell}]
          - {name: b, command: 'echo "${V.a}"', args: [c d], shell: nice sh -c}
        """
    )
    assert told.out("a") == "flow x y ${NO} ['{\"a\": \"x y\"}', 'b c']\n"
    assert told.out("b") == "x y c d\n"


def test_which_shell_reads_commands_may_be_a_variable(runner):
    """As all texts may; it is that of conditions too."""
    told = runner.run(
        """
        params: {SH: sh, PY: python3}
        shell: $SH -e
        preconditions: 'false; true'
        steps: [{name: a, command: echo a}]
        """
    )
    assert told.status == "aborted"
    told = runner.run(
        """
        params: {SH: sh, PY: python3}
        shell: $SH -e
        steps: [{name: a, command: 'echo a; false; echo b', continueOn: failed}, {name: b, shell: $PY, command: print(1)}]
        """
    )
    assert (told.out("a"), told.out("b")) == ("a\n", "1\n")


def test_env_uses_parameters_that_are_made_when_a_run_begins(runner):
    """Also those of a command, which runs once, and again when the run is taken up: what has env in it is made after that."""
    told = runner.run(
        """
        params: ['DAY=`echo day; echo x >> asked`', 'FOLDER=$DAY/f', 'WHERE=$ROOT/$DAY', 'DEEP=${WHERE}/d', PLAIN=p]
        env: [{ROOT: '/r-$PLAIN'}, {TARGET: '$ROOT/$DAY/$FOLDER'}, {NOT_YET: '<$DEEP>'}]
        steps:
          - {name: a, command: 'echo "$TARGET $WHERE $DEEP $NOT_YET"; test -f ok'}
        """
    )
    said = "/r-p/day/day/f /r-p/day /r-p/day/d <$DEEP>\n"
    assert told.out("a") == said
    assert (runner.folder / "asked").read_text() == "x\n"
    (runner.folder / "ok").touch()
    again = runner.go_on(told.id, again=True)
    assert again.out("a") == 2 * said
    assert (runner.folder / "asked").read_text() == "x\n"


def test_many_large_outputs_keep_no_step_from_starting(runner):
    """What a step names it has; of the others those are left out for which there is no room."""
    steps = "\n".join(f"- {{name: s{n}, command: 'printf %090000d {n}', output: OUT{n}}}" for n in range(25))
    told = runner.run(
        f"""
        type: graph
        steps:
        - {{name: none, depends: all, command: 'env | wc -c'}}
        - {{name: last, depends: all, command: 'echo ${{#OUT3}}; test `id -u` = "$(id -u)"', preconditions: ['test -n "$OUT24"']}}
        - {{name: prog, depends: all, script: "#!/usr/bin/env python3\\nimport os\\nprint(len(os.environ['OUT7']))"}}
        - {{name: py, depends: all, python: 'os:getcwd'}}
        - {{name: all, command: 'true', depends: [{", ".join(f"s{n}" for n in range(25))}]}}
"""
        + "\n".join(f"        {line}" for line in steps.splitlines())
    )
    assert set(told.statuses.values()) == {"completed"}, [told.node("none").error, told.node("last").error]
    assert told.out("last") == told.out("prog") == "90000\n"


def test_settings_may_be_what_commands_print(runner):
    """Backticks run in the folder of the workflow, in numbers of tries, and in paths of logs and of variables."""
    (runner.folder / "sub").mkdir()
    (runner.folder / "sub" / "x.env").write_text("X=found\n")
    told = runner.run(
        """
        workingDir: '`pwd`/sub'
        dotenv: ['`echo x`.env']
        logDir: '`echo logs`'
        steps:
          - {name: a, command: 'pwd; echo $X'}
          - {name: b, command: 'echo x >> tries; test $(wc -l < tries) = 3', retryPolicy: {limit: '`echo 2`', intervalSec: 0}}
        """
    )
    assert told.status == "succeeded"
    assert told.out("a") == f"{runner.folder / 'sub'}\nfound\n"
    assert told.folder.parent == runner.folder / "logs" / "flow"


@pytest.mark.parametrize(
    "value", ["$(touch hurt)", "x; touch hurt", '"; touch hurt; "', "'; touch hurt; '", "`touch hurt`"]
)
def test_no_value_is_run_in_backticks(runner, value):
    """Parameters, outputs and places in JSON are variables of the shell that reads a command in backticks."""
    told = runner.run(
        """
        params: [P: none]
        env: [J: '{"a":1}', ENV: '`printf "<%s>" "$P" "${J.a}" "${P:0:99}"`']
        steps:
          - {name: a, command: 'printf "%s" "$ENV"'}
          - {name: b, command: 'printf "%s" "$P"', output: OUT}
          - {name: c, command: "true", preconditions: [{condition: '`printf %s "$OUT"`', expected: $P}]}
          - {name: d, call: child, params: {R: '`printf %s "$OUT"`'}, output: CALLED}
          - {name: e, command: 'echo "${CALLED.outputs.R}"'}
        ---
        name: child
        params: [R: none]
        steps: [{command: 'printf "%s" "$R"', output: R}]
        """,
        [f"P={value}"],
    )
    assert set(told.statuses.values()) == {"completed"}
    assert told.out("a") == f"<{value}><1><{value}>"
    assert told.out("e") == f"{value}\n"
    assert not list(runner.folder.rglob("hurt"))


def test_commands_in_backticks_know_all_that_settings_know(runner, monkeypatch):
    """What only the environment of dagrid has is known to them, as in the text around; what is escaped is the shell's own."""
    monkeypatch.setenv("ONLY_HERE", "a  b")
    told = runner.run(
        r"""
        params: one
        env:
          - A: '`printf "%s|" $ONLY_HERE "$ONLY_HERE" ${NONE:-$1}`'
          - B: "`for P in 1 2; do printf %s $P; done; echo a b | awk '{print \\$2}'`"
        steps: [{name: a, command: 'echo "$A $B"'}]
        """,
        ["two"],
    )
    assert told.out("a") == "a|b|a  b|two| 12b\n"
