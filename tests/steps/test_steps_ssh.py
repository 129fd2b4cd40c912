"""Steps of type ssh, against a real OpenSSH server on this machine."""

from __future__ import annotations

import os
import pwd
import signal
import time

import pytest

from tests.steps.conftest import wrong
from tests.steps.sshd_place import ssh_server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture
def ask(perform, server):
    def ask(work, before="", params=(), **more):
        text = f"{before}\nsteps:\n  - name: a\n    type: ssh\n    config: {server.settings(**more)}\n{work}\n"
        return perform(text, params)

    return ask


def until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_runs_there_and_its_end_comes_back(ask):
    ended = ask('    command: echo out; echo err >&2; test -n "$SSH_CONNECTION"')
    assert (ended.error, ended.out, ended.err) == ("", "out\n", "err\n")
    ended = ask("    command: echo why >&2; exit 7")
    assert "exited with code 7: why" in ended.error
    ended = ask("    command: [echo one, 'echo two; false', echo three]")
    assert ended.error
    assert ended.out == "one\ntwo\n"


def test_a_failure_names_the_host_and_the_command(ask):
    """And not a program of ours around the client, which nobody knows."""
    ended = ask("    command: [echo one, 'exit 7']")
    assert ended.error == "ssh 127.0.0.1 'exit 7' exited with code 7."
    ended = ask("    command: kill -9 $$")
    assert "the connection broke, or the command there was killed" in ended.error


def test_the_shell_there_reads_what_the_file_says(ask):
    """What the workflow knows has its value, whatever is in it; what it does not know means what it means there."""
    hostile = 'it\'s; $(touch /tmp/dagrid-evil) `id` \\ "quoted"'
    before = "params: {HOSTILE: '', LIST: '{\"a\": [1, \"x y\"]}'}"
    work = """
    env: [OWN: "own value"]
    script: |
      printf '%s\\n' "$HOSTILE" "${LIST.a[1]}" "$OWN"
      printf '%s\\n' '$HOSTILE' "$HOME"
      for one in a b; do echo "$one"; done | cat
      cat <<END
      here $OWN
      END
      read line || echo nothing to read
"""
    ended = ask(work, before, [f"HOSTILE={hostile}"])
    assert not ended.error
    assert ended.out.splitlines() == [
        hostile, "x y", "own value", "$HOSTILE", pwd.getpwuid(os.getuid()).pw_dir,
        "a", "b", "here own value", "nothing to read",
    ]  # fmt: skip
    assert not os.path.exists("/tmp/dagrid-evil")


def test_arguments_and_other_shells_and_interpreters(ask):
    assert ask('    command: printf \'%s|\'\n    args: ["a b", "it\'s"]').out == "a b|it's|"
    assert ask('    script: printf \'%s|\' "$@"\n    args: ["a b", c]').out == "a b|c|"
    assert ask("    command: echo ${BASH_VERSION:+bash}; false | true", shell="bash -o pipefail").error
    script = "    args: [x y]\n    script: |\n      #!/usr/bin/env python3\n      import sys\n      print(sys.argv[1:], '$HOME')"
    assert ask(script).out == "['x y'] $HOME\n"
    assert "must be one that understands sh" in ask("    command: echo", shell="python3").error


def test_large_scripts_and_outputs_come_through(ask):
    text = "x" * 300_000
    ended = ask(f"    script: |\n      printf '%s' '{text}' | wc -c\n      head -c 500000 /dev/zero | tr '\\0' 'y'")
    assert not ended.error
    count, _, rest = ended.out.partition("\n")
    assert (int(count), rest) == (300_000, "y" * 500_000)


def test_settings_of_the_step_go_over_those_of_the_workflow(perform, server):
    common = f"ssh: {server.settings(port=1)}"
    step = "steps: [{type: ssh, command: echo here, config: {%s}}]"
    assert perform(f"{common}\n{step % f'port: {server.port}'}").out == "here\n"
    assert "Connection refused" in perform(f"{common}\n{step % ''}").error


def test_no_secret_is_on_a_command_line(ask, monkeypatch):
    """Whoever may list processes, here or there, must not read it."""
    monkeypatch.setenv("TOKEN", "s3cr3t-token")
    script = """
    script: |
      test -n "$T" || exit 9
      cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 's3cr3t-[t]oken'
"""
    ended = ask(script, before="secrets: [{name: T, provider: env, key: TOKEN}]")
    assert ended.out == "0\n"


def test_hosts_and_keys_that_are_not_right(ask, server, tmp_path):
    (tmp_path / "none").touch()
    unknown = ask("    command: echo x", knownHostFile=str(tmp_path / "none"))
    assert "Host key verification failed" in unknown.error
    assert "or set strictHostKey: false" in unknown.error
    assert ask("    command: echo x", knownHostFile=None, strictHostKey=False).out == "x\n"
    refused = ask("    command: echo x", key=f"{server.folder}/other")
    assert "Permission denied" in refused.error
    assert "Check `user` and `key`" in refused.error
    assert "It is not said where to" in ask("    command: echo x", host=None).error
    assert "is no host" in ask("    command: echo x", host="-oProxyCommand=touch /tmp/dagrid-evil").error
    assert not os.path.exists("/tmp/dagrid-evil")


RUNS_ON = """    script: |
      trap '' TERM
      sh -c 'echo $$ > {file}; sleep 600; echo late'
      sleep 600
    timeoutSec: {timeout}
"""


@pytest.mark.parametrize("how", ["timeout", "cancel", "kill"])
def test_what_runs_there_ends_with_the_step(perform, server, tmp_path, how):
    """However the step ends, also when our process is killed: a server must not fill up with commands that nobody waits for."""
    pidfile = tmp_path / "pid"
    config = f"maxCleanUpTimeSec: 1\nsteps:\n  - name: a\n    type: ssh\n    config: {server.settings()}\n"
    run = perform.start(config + RUNS_ON.format(file=pidfile, timeout=1.5 if how == "timeout" else 0))
    until(lambda: pidfile.exists() and pidfile.read_text().strip())
    pid = int(pidfile.read_text())
    assert how == "timeout" or is_alive(pid)
    if how == "cancel":
        run.cancel()
    elif how == "kill":
        (client,) = clients(server.port)
        os.kill(client, signal.SIGKILL)
    result = run.wait()
    assert result.status.value in ("failed", "aborted")
    until(lambda: not is_alive(pid))


def clients(port):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if words[0] == b"ssh" and str(port).encode() in words:
                found.append(int(name))
    return found


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: ssh, config: {host: x}}", "a step of type ssh has nothing to do"),
        ("{type: ssh, command: a, script: b, config: {host: x}}", "has a `command` or a `script`, not both"),
        (
            "{type: ssh, command: a, config: {host: x, password: y}}",
            "ssh logs in with keys alone here; remove `password`",
        ),
        ("{type: ssh, command: a, config: {host: x, port: 70000}}", "'port' must be a port from 1 to 65535, not 70000"),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
