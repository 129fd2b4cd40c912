"""Small workflows, one for each rule of the format: what waits for what, or what is wrong and where."""

from __future__ import annotations

GOOD: dict[str, tuple[str, dict[str, list[str]]]] = {
    "a chain follows the order of the file": (
        "steps:\n  - name: load\n    command: sleep 0.1\n  - name: show\n    command: echo shown\n",
        {"load": [], "show": ["load"]},
    ),
    "depends adds to the chain": (
        "steps: [{name: a, command: x}, {name: b, command: x}, {name: c, command: x, depends: a}]",
        {"a": [], "b": ["a"], "c": ["a", "b"]},
    ),
    "an empty depends frees a step, and the chain goes on behind it": (
        "steps: [{name: a, command: x}, {name: b, command: x, depends: []}, {name: c, command: x}]",
        {"a": [], "b": [], "c": ["b"]},
    ),
    "a graph has only what depends says": (
        "type: graph\nsteps: [{name: a, command: x}, {name: b, command: x}, {name: c, command: x, depends: [a, b]}]",
        {"a": [], "b": [], "c": ["a", "b"]},
    ),
    "a nested list runs in parallel": (
        "steps:\n  - first\n  - [left, right]\n  - last\n",
        {"cmd_1": [], "cmd_2": ["cmd_1"], "cmd_3": ["cmd_1"], "cmd_4": ["cmd_2", "cmd_3"]},
    ),
    "two nested lists are two links of the chain": (
        "steps: [[a, b], [c, d]]",
        {"cmd_1": [], "cmd_2": [], "cmd_3": ["cmd_1", "cmd_2"], "cmd_4": ["cmd_1", "cmd_2"]},
    ),
    "in a graph a nested list waits for nothing": (
        "type: graph\nsteps: [a, [b, c], d]",
        {"cmd_1": [], "cmd_2": [], "cmd_3": [], "cmd_4": []},
    ),
    "steps may be a mapping by name": (
        "type: graph\nsteps:\n  one:\n    command: x\n  two: {command: y, depends: one}\n  three: echo\n",
        {"one": [], "two": ["one"], "three": []},
    ),
    "depends takes ids, and a step behind it in the file": (
        "type: graph\nsteps: [{name: last, command: x, depends: f}, {name: the first, id: f, command: x}]",
        {"last": ["the first"], "the first": []},
    ),
    "names are made where there are none": (
        "steps: [a, {name: cmd_3, command: b}, c, {script: d}, {type: http, command: GET u}, {python: m:f}]",
        {
            "cmd_1": [],
            "cmd_3": ["cmd_1"],
            "cmd_4": ["cmd_3"],
            "script_4": ["cmd_4"],
            "http_5": ["script_4"],
            "python_6": ["http_5"],
        },
    ),
    "a root command is a workflow of one step": ("command: echo alone\n", {"cmd_1": []}),
    "outputs and paths": (
        'steps:\n  - name: a\n    command: |\n      echo \'{"db":{"ports":[1,2]}}\'\n    output: CFG\n'
        '  - name: b\n    command: echo "${CFG.db.ports[1]} ${CFG.missing}"\n',
        {"a": [], "b": ["a"]},
    ),
    "env in all its forms": (
        "env:\n  - A: one\n  - B: ${A}-two\n  - 'C=three'\n  - D: '`echo cmd`'\n"
        "steps:\n  - name: a\n    env: {A: 1, E: }\n    command: env\n  - name: b\n    env: X=1\n    command: env\n",
        {"a": [], "b": ["a"]},
    ),
    "preconditions in all their forms": (
        "preconditions: test -d /\nsteps:\n  - name: a\n    command: x\n    preconditions:\n      - test 1 = 1\n"
        "      - condition: '`echo 07`'\n        expected: 're:0[1-9]'\n"
        "  - name: b\n    command: x\n    precondition: {condition: 'false', negate: true}\n",
        {"a": [], "b": ["a"]},
    ),
    "handlers": (
        "handlerOn:\n  init: echo i\n  success: {command: echo s}\n  failure: {script: echo f}\n"
        "  cancel: {command: echo c}\n"
        "  exit:\n    command: echo $DAG_RUN_STATUS\nsteps: [{name: a, command: x}]\n",
        {"a": []},
    ),
    "going on after a failure": (
        "steps:\n  - {name: a, command: x, continueOn: {failure: true, exitCode: 3, output: ['re:^W', bad], markSuccess: true}}\n"
        "  - {name: b, command: x, continue_on: skipped}\n",
        {"a": [], "b": ["a"]},
    ),
    "retries and repetitions": (
        "steps:\n  - {name: a, command: x, retryPolicy: {limit: 5, intervalSec: 0.5, backoff: true, exitCode: [1, 2]}}\n"
        "  - {name: b, command: x, retry_policy: {limit: $N, interval_sec: '${S}', backoff: 1.5}}\n"
        "  - {name: c, command: x, repeatPolicy: {repeat: until, condition: $N, expected: '4', intervalSec: 0, limit: 10}}\n"
        "  - {name: d, command: x, repeatPolicy: {repeat: true, intervalSec: 60}}\n",
        {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]},
    ),
    "several commands, scripts and shells": (
        "steps:\n  - {name: a, command: [echo one, 'false']}\n  - name: b\n    script: |\n"
        "      #!/usr/bin/env python3\n      print(1)\n"
        "  - {name: c, command: python3, script: print(1)}\n  - {name: d, shell: bash -e, script: x}\n"
        "  - {name: e, exec: {command: ls, args: [-l, 1]}}\n",
        {"a": [], "b": ["a"], "c": ["b"], "d": ["c"], "e": ["d"]},
    ),
    "a sub-workflow in the same file": (
        "steps:\n  - {name: call, call: child, params: 'X=5 Y=hello', output: RES}\n---\nname: child\n"
        "params: X=1 Y=2\nsteps: [s, t]\n",
        {"call": []},
    ),
    "a circle of calls that a condition ends": (
        "steps: [{name: s, call: a}]\n---\nname: a\nsteps: [{call: b}]\n---\n"
        "name: b\npreconditions: test -f more\nsteps: [{call: a}]\n",
        {"s": []},
    ),
    "a sub-workflow for each item": (
        "steps:\n  - name: fan\n    run: child\n    parallel:\n      items: [a, {NAME: x, NUM: 1}]\n"
        "      maxConcurrent: 2\n    params: IT=${ITEM}\n"
        "  - {name: later, call: child, parallel: '${RES}'}\n  - {name: which, call: '${NAME}'}\n---\nname: child\n"
        "steps: [s]\n",
        {"fan": [], "later": ["fan"], "which": ["later"]},
    ),
    "types of steps": (
        "steps:\n  - {name: a, executor: jq, command: .id, script: '{}'}\n"
        "  - {name: b, executor: {type: http, config: {timeout: 3}}, command: GET u}\n"
        "  - {name: c, type: ssh, with: {host: h}, command: ls}\n"
        "  - {name: d, type: sqlite, config: {path: x}, script: select 1}\n",
        {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]},
    ),
    "secrets, files and workers": (
        "secrets:\n  - {name: TOK, provider: env, key: SECRET}\ndotenv: [a.env, b.env]\nworkingDir: /\n"
        "logOutput: merged\n"
        "workerSelector: {gpu: true}\nsteps:\n  - {name: a, command: x, workerSelector: {gpu: 'true'}, "
        "dir: /data, priority: 3, resources: {ram: 0.5}}\n",
        {"a": []},
    ),
    "every key in snake_case": (
        "max_active_steps: 1\nhist_retention_days: 3\nhandler_on: {abort: x}\nmax_output_size: 10MiB\n"
        "steps:\n  - {name: a, command: x, retry_policy: {limit: 1, interval_sec: 1}, signal_on_stop: SIGINT, timeout_sec: 1}\n",
        {"a": []},
    ),
    "schedules": (
        "schedule: {start: ['0 1 * * mon-fri', 'CRON_TZ=Asia/Tokyo */5 9-17 * * *'], stop: '@daily', "
        "restart: 5 4 ? * 7}\nsteps: [x]",
        {"cmd_1": []},
    ),
    "an approval between steps": (
        "steps:\n  - {name: a, command: x}\n  - {name: ask, approval: {prompt: Go on?, input: [WHY], required: [WHY]}}\n"
        "  - {name: b, command: y}\n",
        {"a": [], "ask": ["a"], "b": ["ask"]},
    ),
}

BAD: dict[str, tuple[str, list[str]]] = {
    "names stand once": (
        "steps:\n  - name: a\n    command: x\n  - name: a\n    command: y\n",
        ["4:11: there is a step 'a' in line 2 already; give this one another name"],
    ),
    "ids stand once, and are not the names of others": (
        "steps:\n  - {name: a, id: one, command: x}\n  - {name: b, id: one, command: y}\n"
        "  - {name: c, id: a, command: y}\n",
        [
            "3:19: the id 'one' is taken in line 2 already; give this step another one",
            "4:19: the id 'a' is the name of the step in line 2; choose another one",
        ],
    ),
    "a cycle is shown with its path": (
        "type: graph\nsteps:\n  - {name: a, command: x, depends: c}\n  - {name: b, command: x, depends: a}\n"
        "  - {name: c, command: x, depends: b}\n",
        ["4:36: the steps wait for each other in a circle: a -> b -> c -> a; remove one of these dependencies"],
    ),
    "two cycles are both shown": (
        "type: graph\nsteps:\n  - {name: a, command: x, depends: b}\n  - {name: b, command: x, depends: a}\n"
        "  - {name: c, command: x, depends: d}\n  - {name: d, command: x, depends: c}\n",
        [
            "4:36: the steps wait for each other in a circle: a -> b -> a; remove one of these dependencies",
            "6:36: the steps wait for each other in a circle: c -> d -> c; remove one of these dependencies",
        ],
    ),
    "a chain closes a cycle too": (
        "steps:\n  - {name: a, command: x, depends: b}\n  - {name: b, command: x}\n",
        [
            "2:36: the steps wait for each other in a circle: a -> b -> a (in a chain each step also follows on the one before"
        ],
    ),
    "a step does not wait for itself": (
        "type: graph\nsteps: [{name: a, command: x, depends: [a]}]",
        ["2:41: step 'a' depends on itself; remove it from `depends`"],
    ),
    "an unknown step gets the nearest one": (
        "type: graph\nsteps:\n  - {name: extract, command: x}\n  - name: load\n    command: x\n    depends:\n"
        "      - extract\n      - extrct\n",
        ["8:9: step 'load' depends on 'extrct', and there is no such step. Did you mean 'extract'?"],
    ),
    "an unknown key gets the nearest one, in its own spelling": (
        "maxActiveStep: 1\nsteps:\n  - command: x\n    retry_polcy: {limit: 1}\n    retryPolicy: {limt: 1, limit: 1}\n",
        [
            "1:1: unknown key 'maxActiveStep' in workflow. Did you mean 'maxActiveSteps'?",
            "4:5: unknown key 'retry_polcy' in step. Did you mean 'retry_policy'?",
            "5:19: unknown key 'limt' in retryPolicy. Did you mean 'limit'?",
        ],
    ),
    "one field has one spelling": (
        "steps:\n  - command: x\n    timeoutSec: 1\n    timeout_sec: 2\n",
        ["4:5: timeout_sec is said in line 3 already, in another spelling; keep one"],
    ),
    "values have types": (
        "skipIfSuccessful: yes\nmaxActiveRuns: 1.5\ntype: grap\nname: a b\nsteps:\n  - command: {a: b}\n"
        "    timeoutSec: soon\n"
        "    continueOn: {exitCode: 300}\n    depends: {a: b}\n    resources: {ram: 0}\n",
        [
            "1:19: skipIfSuccessful is true or false, and 'yes' is text; write true",
            "2:16: maxActiveRuns is a whole number, -1 or more, not 1.5",
            "3:7: type is chain or graph, not 'grap'. Did you mean 'graph'?",
            "4:7: name is a name of letters, digits, '_', '.' and '-', not 'a b'",
            "6:14: command is text, not a mapping",
            "7:17: timeoutSec is seconds, 0 or more, not 'soon'",
            "8:28: continueOn.exitCode is an exit code from 0 to 255, not 300",
            "9:14: depends is text, not a mapping",
            "10:22: resources.ram is an amount greater than 0, not 0",
        ],
    ),
    "a policy needs its limit": (
        "steps:\n  - command: x\n    retryPolicy: {intervalSec: 1}\n",
        ["3:18: retryPolicy needs 'limit'; write limit: ..."],
    ),
    "until what?": (
        "steps:\n  - {command: x, repeatPolicy: {repeat: until}}\n"
        "  - {command: x, repeatPolicy: {repeat: while, expected: 3}}\n",
        [
            "2:41: `repeat: until` needs something to wait for; write `condition:` or `exitCode:`",
            "3:58: `expected` says what `condition` must be; write `condition:` beside it",
        ],
    ),
    "a step has something to do": (
        "steps:\n  - name: a\n  - description: b\n  -\n  - {parallel: [1]}\n  - {call: x, command: y, python: z}\n",
        [
            "2:5: step 'a' has nothing to do; give it `command:`, `script:`, `python:` or `call:`",
            "3:5: this step has nothing to do; give it `command:`, `script:`, `python:` or `call:`",
            "4:4: an empty step has nothing to do; write `command:`, or remove it",
            "5:16: `parallel` runs another workflow once for each item; say which with `call:`",
            "6:12: a step with `call` cannot also have `command` and `python`; make two steps of it",
            "6:12: there is no workflow 'x': no document of this file and no file has that name.",
            "6:35: python names a function as package.module:function, not 'z'",
        ],
    ),
    "what a step does is not empty": (
        "steps:\n  - ''\n  - {command: '', type: duckdb}\n  - {command: ['', ' ']}\n  - {script: ''}\n  - {call: ''}\n"
        "  - {python: ''}\n  - {exec: {command: ''}}\n  - {command: '', script: x}\n  - {command: '', script: ' '}\n"
        "handlerOn: {exit: {command: ' '}}\n",
        [
            f"{place}: `{field}` is empty; write what is to be done, or remove it"
            for place, field in (
                *(("2:5", "command"), ("3:15", "command"), ("4:15", "command"), ("5:14", "script"), ("6:12", "call")),
                *(("7:14", "python"), ("8:12", "exec"), ("10:15", "command"), ("11:29", "command")),
            )
        ],
    ),
    "what the settings of an approval may say": (
        "steps:\n  - {type: approval, config: {promt: Sure?}}\n  - executor: {type: hitl, config: [Sure?]}\n"
        "  - {type: approval, approval: Sure?, config: {prompt: Sure?}}\nhandlerOn:\n"
        "  exit: {executor: {type: approval, config: {input: {A: b}}}}\n",
        [
            "2:31: unknown key 'promt' in config. Did you mean 'prompt'?",
            "3:36: executor.config is a mapping, not a list",
            "4:39: what the person is asked stands in `approval` too; keep one of the two",
            "6:53: config.input is text, not a mapping",
        ],
    ),
    "a type does what it reads": (
        "steps:\n  - {type: shell, python: m:f}\n  - {type: python, command: echo}\n  - {type: approval, command: echo}\n"
        "  - {executor: dag, script: echo}\n  - {type: http, command: GET u, call: b}\n  - type: shell\n"
        "  - {type: python}\n  - {type: dag}\n  - {container: {image: i}, exec: {command: x}}\n"
        "  - {container: {image: i}, python: m:f}\n---\nname: b\nsteps: [x]\n",
        [
            "2:27: a step of type shell does nothing with `python`; remove it, or make two steps of it",
            "3:29: a step of type python does nothing with `command`; remove it, or make two steps of it",
            "4:31: a step of type approval does nothing with `command`; remove it, or make two steps of it",
            "5:29: a step of type dag does nothing with `script`; remove it, or make two steps of it",
            "6:40: a step of type http does nothing with `call`; remove it, or make two steps of it",
            "6:40: a step with `call` cannot also have `command`; make two steps of it",
            "7:5: a step of type shell has nothing to do; give it `command:` or `script:` or `exec:`",
            "8:5: a step of type python has nothing to do; give it `python:`",
            "9:5: a step of type dag has nothing to do; give it `call:`",
            "10:35: a step of type docker does nothing with `exec`; remove it, or make two steps of it",
            "11:17: a step of type python does nothing with `container`; remove it, or make two steps of it",
        ],
    ),
    "a call names a workflow": (
        "steps:\n  - call: chld\n  - run: make\n---\nname: child\nsteps: [x]\n",
        [
            "2:11: there is no workflow 'chld': no document of this file and no file has that name. Did you mean 'child'? "
            "To run a shell command write `command: chld`",
            "3:10: there is no workflow 'make': no document of this file and no file has that name. "
            "To run a shell command write `command: make`",
        ],
    ),
    "documents do not call each other without end": (
        "steps: [{call: a}]\n---\nname: a\nsteps: [x, {call: b}]\n---\nname: b\nsteps: [{call: c}, {call: a}]\n"
        "---\nname: c\nsteps: [{call: a, preconditions: test -f more}]\n",
        ["4:19: the workflows call each other without end: a -> b -> a; give one of them preconditions"],
    ),
    "the newest spelling is refused with the line converted": (
        "consts: {A: 1}\nsteps:\n  - run: echo hi | wc\n  - action: http.request\n    with: {url: u}\n"
        "  - action: exec\n"
        "  - action: git.checkout\n  - with: {a: b}\n    command: x\n  - run: |\n      echo 1\n      echo 2\n",
        [
            "1:1: `consts:` is a newer spelling that is not read here; write `env:` with the same lines",
            "3:10: `run:` and `call:` name a workflow, and this is a shell command; write `command: echo hi | wc`",
            "4:5: `action: http.request` is a newer spelling that is not read here; write `type: http`; `with:` may stay",
            "6:5: `action: exec` is a newer spelling that is not read here; write `exec: {command: PROGRAM, args: [...]}`",
            "7:5: `action: git.checkout` is a newer spelling, and dagrid has no step of that type; there are: approval, archive",
            "8:11: settings without a type; write executor: {type: ..., config: ...}",
            "10:10: `run:` and `call:` name a workflow, and this is a shell command; write `command: | (and the lines below it",
        ],
    ),
    "words of other tools": (
        "resources: {db: 2}\nsteps:\n  - {command: x, retries: 3, if: y}\n",
        [
            "1:1: how much there is of what steps take is said at the start; write `dagrid start --resources NAME=NUMBER`",
            "3:18: `retries:` is another tool's word; write `retryPolicy: {limit: 3, intervalSec: 10}`",
            "3:30: `if:` is another tool's word; write `preconditions: [COMMAND]`",
        ],
    ),
    "what dagrid does not have": (
        "llm: {}\nsteps:\n  - {type: router, value: x, routes: {}}\n  - {type: htpp, command: x}\n",
        [
            "1:1: `llm:` means nothing here, for dagrid has no steps for language models; remove it",
            "3:12: there is no step type 'router'. There are: approval, archive",
            "3:20: `value:` means nothing here, for dagrid has no routers; give the steps preconditions",
            "3:30: `routes:` means nothing here, for dagrid has no routers; give the steps preconditions",
            "4:12: there is no step type 'htpp'. Did you mean 'http'?",
        ],
    ),
    "cron expressions": (
        "schedule:\n  start: ['* * *', '61 * * * *', '0 0 31 2 *', 7]\n  stop: CRON_TZ=Mars/Base 0 0 * * *\n"
        "  begin: '@daily'\n"
        "steps: [x]\n",
        [
            "2:11: schedule.start: '* * *' is no cron expression: it has 3 fields and not 5",
            "2:20: schedule.start: '61 * * * *' is no cron expression: bad minute",
            "2:34: schedule.start: '0 0 31 2 *' is no cron expression: bad day-of-month",
            "2:48: schedule.start is a cron expression, not 7",
            "3:9: schedule.stop: there is no time zone 'Mars/Base'",
            "4:3: unknown key 'begin' in schedule.",
        ],
    ),
    "moments have a time zone": (
        "schedule: {kind: at, at: 2026-03-29T02:10:00}\nsteps: [x]\n",
        ["1:26: schedule.at is a moment with its time zone, not '2026-03-29T02:10:00'"],
    ),
    "regular expressions, signals and variables": (
        "env: [A, {1B: x}, {C: [x]}]\nsteps:\n  - command: x\n    signalOnStop: SIGKIL\n    output: a b\n"
        "    preconditions: [{condition: x, expected: 're:('}]\n    continueOn: {output: [ok, 're:[']}\n",
        [
            "1:7: env is a list of NAME=value or NAME: value, not 'A'; write - NAME: value",
            "1:11: env: '1B' is no name of a variable",
            "1:23: env.C is text, not a list",
            "4:19: there is no signal 'SIGKIL'; write one such as SIGTERM. Did you mean 'SIGKILL'?",
            "5:13: output is the name of a variable (letters, digits and _), not 'a b'; write output: RESULT",
            "6:46: expected: '(' is no regular expression",
            "7:31: continueOn.output: '[' is no regular expression",
        ],
    ),
    "what is wrong with a default is said once, where it stands": (
        "defaults: {signalOnStop: SIGKIL}\nhandlerOn: {exit: x}\nsteps: [x, y, {command: z, signalOnStop: SIGTERM}]\n",
        ["1:26: there is no signal 'SIGKIL'; write one such as SIGTERM. Did you mean 'SIGKILL'?"],
    ),
    "what cannot be read is all that is said": (
        "preconditions: [{condition: [x]}]\ndefaults: {continueOn: 5, retryPolicy: 1}\nhandlerOn: {init: x}\nsteps: [x]\n",
        [
            "1:29: preconditions.condition is text, not a list",
            "2:24: defaults.continueOn is a mapping, or one of failed and skipped, not 5",
            "2:40: defaults.retryPolicy is a mapping, not 1",
        ],
    ),
    "secrets stand once": (
        "secrets:\n  - {name: S, provider: env, key: A}\n  - {name: S, provider: env, key: B}\nsteps: [x]\n",
        ["3:12: there is a secret 'S' in line 2 already; keep one of the two"],
    ),
    "what is no key is said once": (
        "steps: [{command: x, [a]: b}]\n",
        ["1:22: a key is text, not a list; in front of ':' stands a name"],
    ),
    "spans of time": (
        "catchupWindow: 12 parsecs\nsteps: [x]\n",
        ["1:16: catchupWindow is a span of time such as 12h or 1h30m, not '12 parsecs'"],
    ),
    "a secret is somewhere": (
        'steps: [x]\n---\nname: b\nsteps: [y]\nsecrets: [{name: A, provider: file, key: "a\\0b"}]\n',
        [r"5:42: secrets.key is the name of a variable or a file, not 'a\x00b'"],
    ),
    "quotes of parameters are closed": (
        "params: 'A=\"x B=1'\nsteps:\n  - {call: b, params: [C=it's, 'D=''y']}\n---\nname: b\nsteps: [x]\n",
        [
            "1:9: params has a quote that is not closed; close it, or write NAME: value",
            "3:32: params has a quote that is not closed; close it, or write NAME: value",
        ],
    ),
    "documents have names": (
        "steps: [x]\n---\nsteps: [y]\n---\nname: b\nsteps: [y]\n---\nname: b\nsteps: [z]\n",
        [
            "3:1: a document behind the first one needs a name, by which steps call it; write `name:`",
            "8:7: there is a workflow 'b' in line 5 already; give this one another name",
        ],
    ),
    "no document is called as the first one": (
        "name: a\nsteps: [{call: b}]\n---\nname: b\nsteps: [y]\n---\nname: a\nsteps: [z]\n",
        ["7:7: there is a workflow 'a' in line 1 already; give this one another name"],
    ),
    "a workflow has steps": ("name: a\n", ["1:1: the workflow has no steps; write `steps:` with a list of steps"]),
    "steps are not empty": ("steps: []\n", ["1:8: `steps` is empty; a workflow needs at least one step"]),
    "a file is not empty": (
        "# nothing\n---\n",
        ["1:1: the file is empty; a workflow needs `steps:` with a list of steps"],
    ),
    "a workflow is a mapping": ("- a\n", ["1:1: a workflow is a mapping with `steps:`, not a list"]),
    "lists of parallel steps have one level": (
        "steps: [[a, [b]]]",
        ["1:13: a list of parallel steps holds steps, not a list; one level is enough"],
    ),
    "handlers wait for nothing": (
        "handlerOn: {exit: {command: x, depends: a}}\nsteps: [{name: a, command: x}]",
        ["1:41: the exit handler waits for no step"],
    ),
    "runs are kept by days or by number": (
        "histRetentionDays: 3\nhistRetentionRuns: 4\nsteps: [x]",
        ["2:20: runs are kept by days or by number, not by both; keep one"],
    ),
    "a step under a key has the key's name": (
        "steps: {a: {name: b, command: x}}",
        ["1:19: the step stands under the key 'a' and calls itself 'b'; keep one of the names"],
    ),
}
