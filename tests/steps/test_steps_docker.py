"""Steps in containers: no engine is needed here, for a program named docker writes down how it is called, and plays its part."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time

import pytest

from dagrid.workflow.steps import docker
from tests.steps.conftest import wrong

CLIENT = """#!PYTHON -S
import json, os, signal, sys, time
folder = 'FOLDER'
words = sys.argv[1:]
told = {"words": words, "env": dict(os.environ)}
if "-i" in words:
    told["stdin"] = sys.stdin.read()
with open(folder + "/calls", "a") as file:
    file.write(json.dumps(told) + "\\n")
name = words[words.index("--name") + 1] if "--name" in words else words[-1]
made = folder + "/made"
if words[0] == "container":
    if not os.path.exists(made):
        sys.exit("No such container")
    print("running healthy")
elif words[:2] == ["run", "--detach"]:
    try:
        open(made, "x").close()
    except FileExistsError:
        sys.exit("docker: the container name is already in use")
elif words[0] in ("run", "exec"):
    if "no-daemon" in words:
        print("docker: no daemon there.\\n\\nRun 'docker run --help' for more information", file=sys.stderr)
        sys.exit(125)
    if "fail" in words:
        print("why", file=sys.stderr)
        sys.exit(3)
    if "forever" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(folder + "/begun", "w").close()
        while not os.path.exists(folder + "/stopped"):
            time.sleep(0.02)
        sys.exit(137)
    print("ran")
elif words[0] == "stop":
    open(folder + "/stopped", "w").close()
elif words[0] == "logs":
    print("ready to serve")
"""


class Docker:
    def __init__(self, folder):
        self.folder = folder

    @property
    def calls(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def lines(self):
        return [call["words"] for call in self.calls]


@pytest.fixture
def client(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(CLIENT.replace("PYTHON", sys.executable).replace("FOLDER", str(folder)))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Docker(folder)


NAME = f"dagrid-a-{hashlib.sha256(b'run-1/a').hexdigest()[:16]}"
MARKS = ["--env", "DAG_NAME", "--env", "DAG_RUN_ID", "--env", "DAG_RUN_STEP_NAME"]


def flow(container, work="command: echo hi", before=""):
    return f"""
        {before}
        params: {{WHO: "it's you", N: "1"}}
        steps:
          - name: a
            container: {container}
            {work}
    """


def test_a_step_in_a_container_of_its_own(perform, client):
    ended = perform(flow("alpine:3", "command: echo \"hi $WHO\" '$WHO' ${N}2"))
    assert (ended.error, ended.out) == ("", "ran\n")
    assert client.lines == [["run", "--rm", "--name", NAME, *MARKS, "alpine:3", "echo", "hi it's you", "$WHO", "12"]]


def test_all_that_can_be_said_of_a_container(perform, client, tmp_path):
    container = (
        '{image: "alpine:${N}", pullPolicy: always, platform: linux/amd64, user: "1000:1000", workingDir: /work, network: host, '
        'ports: ["8080:80"], volumes: ["./data:/data:ro", "cache:/cache"], env: {MODE: "for ${WHO}", PATH: /opt/bin}}'
    )
    assert not perform(flow(container, "command: run it\n            env: {OWN: x}")).error
    (call,) = client.calls
    assert call["words"] == [
        "run", "--rm", "--name", NAME, "--pull", "always", "--platform", "linux/amd64", "--user", "1000:1000",
        "--workdir", "/work", "--network", "host", "--publish", "8080:80",
        "--volume", f"{tmp_path}/data:/data:ro", "--volume", "cache:/cache",
        *MARKS, "--env", "OWN", "--env", "MODE", "--env", "PATH=/opt/bin", "alpine:1", "run", "it",
    ]  # fmt: skip
    assert (call["env"]["MODE"], call["env"]["OWN"]) == ("for it's you", "x")
    assert call["env"]["PATH"] != "/opt/bin"


def test_the_older_spelling(perform, client, tmp_path):
    config = (
        "{image: alpine, autoRemove: false, pull: never, containerName: mine, host: {binds: ['/a:/b']}, "
        "container: {env: [A=1, B=2], user: me, workingDir: /w}}"
    )
    assert not perform(f"steps: [{{name: a, type: docker, config: {config}, command: echo hi}}]").error
    assert client.lines == [
        [
            "run", "--name", "mine", "--pull", "never", "--user", "me", "--workdir", "/w", "--volume", "/a:/b",
            *MARKS, "--env", "A", "--env", "B", "alpine", "echo", "hi",
        ]
    ]  # fmt: skip


def test_shells_and_scripts(perform, client):
    assert not perform(flow("{image: alpine, shell: [/bin/sh, -c]}", 'command: echo "$WHO" | cat')).error
    call = client.calls[-1]
    assert call["words"][-4:] == ["alpine", "/bin/sh", "-c", 'echo "$WHO" | cat']
    assert "WHO" in call["words"]
    assert call["env"]["WHO"] == "it's you"
    assert not perform(flow("alpine", 'script: |\n              echo "$WHO" "${N}"\n            args: [x]')).error
    call = client.calls[-1]
    assert call["stdin"] == 'echo "$WHO" "${N}"\n'
    assert call["words"][:3] == ["run", "--rm", "-i"]
    assert call["words"][-4:] == ["alpine", "sh", "-s", "x"]
    script = "script: |\n              #!/usr/bin/env python3\n              print('${WHO}', 1)"
    assert not perform(flow("python:3", script)).error
    call = client.calls[-1]
    assert call["words"][-3:] == ["python:3", "/usr/bin/env", "python3"]
    assert "print(" in call["stdin"]


def test_without_a_command_the_image_does_what_it_does(perform, client):
    assert not perform(flow("{image: hello-world, name: mine}", "")).error
    assert not perform(flow("{image: alpine, command: [echo, '${N}']}", "")).error
    assert client.lines == [
        ["run", "--rm", "--name", "mine", *MARKS, "hello-world"],
        ["run", "--rm", "--name", NAME, *MARKS, "alpine", "echo", "1"],
    ]


def test_a_container_that_runs_already(perform, client):
    assert not perform(flow("{exec: {name: web, user: me, workingDir: /app}}")).error
    (words,) = client.lines
    file = f"/tmp/.{NAME}"
    assert words == [
        "exec",
        "--user",
        "me",
        "--workdir",
        "/app",
        *MARKS,
        "web",
        "sh",
        "-c",
        docker.EXEC_START,
        file,
        "echo",
        "hi",
    ]
    assert not perform("steps: [{name: a, type: docker, config: {containerName: web}, command: echo hi}]").error
    assert client.lines[-1] == ["exec", *MARKS, "web", "sh", "-c", docker.EXEC_START, file, "echo", "hi"]


def test_why_there_is_no_container_is_told(perform, client):
    """What a client says last is how to get help, and the step had failed with that alone."""
    ended = perform(flow("alpine", "command: no-daemon"))
    assert "docker exited with code 125: docker: no daemon there." in ended.error


def test_a_failure_says_what_the_container_said(perform, client):
    ended = perform(flow("alpine", "command: fail"))
    assert ended.error == "docker exited with code 3: why"
    assert "There is nothing to run" in perform(flow("{exec: web}", "")).error


def test_there_is_no_client(perform, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert perform(flow("alpine")).error.startswith("There is no program docker; install the docker client")


def until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_step_that_is_stopped_takes_its_container_with_it(perform, client, how):
    """The client may die without its container: so the container is told, by its name."""
    late = "timeoutSec: 1.5" if how == "timeout" else ""
    run = perform.start(flow("alpine", f"command: forever\n            {late}", before="maxCleanUpTimeSec: 10"))
    until((client.folder / "begun").exists)
    if how == "cancel":
        run.cancel()
    run.wait()
    assert client.lines[1:] == [["stop", "--time", "9", NAME], ["rm", "--force", NAME]]


def test_a_process_in_another_container_is_told_to_stop(perform, client):
    run = perform.start(flow("{exec: web}", "command: forever", before="maxCleanUpTimeSec: 1"))
    until((client.folder / "begun").exists)
    run.cancel()
    run.wait()
    file = f"/tmp/.{NAME}"
    assert client.lines[1] == ["exec", "web", "sh", "-c", f"kill -TERM -- -$(cat {file}); rm -f {file}"]


def test_what_an_earlier_process_left_behind_is_removed_first(perform, client):
    """After kill -9 the container may still be there, and its name with it."""
    perform.resumed = True
    assert not perform(flow("alpine")).error
    assert client.lines[0] == ["rm", "--force", NAME]
    assert client.lines[1][:4] == ["run", "--rm", "--name", NAME]


def test_secrets_are_not_on_the_command_line(perform, client, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cr3t-token")
    secret = "secrets: [{name: T, provider: env, key: TOKEN}]"
    for work in ("command: go", "script: echo $T"):
        assert not perform(flow("{image: alpine, env: {GIVEN: '${T}'}}", work, before=secret)).error
        call = client.calls[-1]
        assert "s3cr3t" not in " ".join(call["words"])
        assert call["env"]["GIVEN"] == "s3cr3t-token"


WHOLE = """
        container: {image: "alpine:3", env: {A: x}, volumes: ["./data:/data"], %s}
        steps:
          - name: a
            command: echo hi
"""
RUN = "dagrid-run-1"


def test_the_container_of_a_run(perform, client, tmp_path):
    """The first step makes it, the others find it, and the end of the run removes it."""
    assert not perform(WHOLE % "").error
    assert not perform(WHOLE % "").error
    inspect = ["container", "inspect", "--format", docker.STATE, RUN]
    start = ["run", "--detach", "--name", RUN, "--volume", f"{tmp_path}/data:/data", "--env", "A"]
    start += ["--entrypoint", "sh", "alpine:3"]
    execute = ["exec", *MARKS, RUN, "sh", "-c", docker.EXEC_START, f"/tmp/.{NAME}", "echo", "hi"]
    assert client.lines == [inspect, [*start, "-c", docker.KEEP_ALIVE], inspect, execute, inspect, execute]
    context = perform.context(WHOLE % "")
    assert docker.remove(context) == ""
    assert docker.remove(context) == ""
    assert client.lines[6:] == [["rm", "--force", RUN]]


def test_how_the_container_of_a_run_starts_and_when_it_is_ready(perform, client):
    assert not perform(
        WHOLE % "startup: command, command: [serve, now], waitFor: healthy, logPattern: 'ready to .*'"
    ).error
    assert client.lines[1][-3:] == ["alpine:3", "serve", "now"]
    assert ["logs", RUN] in client.lines
    context = perform.context(WHOLE % "keepContainer: true")
    assert docker.remove(context) == ""
    assert ["rm", "--force", RUN] not in client.lines


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: docker, command: x}", "a step of type docker needs an image"),
        ("{type: docker, command: x, config: {image: a, exec: b}}", "`exec` is for a container that runs already"),
        (
            "{type: docker, command: x, config: {image: a, host: {bind: b}}}",
            "unknown key 'bind' in host. There are: binds",
        ),
        ("{container: {user: me}, command: x}", "a container needs an image"),
        ("{container: {image: a, startup: command}, command: x}", "startup: command needs the command"),
        ("{container: {image: a, logPattern: '('}, command: x}", "logPattern is no regular expression"),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
