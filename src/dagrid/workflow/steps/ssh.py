"""Commands on other machines, by the OpenSSH client, with keys."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dagrid.commands import Exit, Launch
from dagrid.errors import StepError
from dagrid.workflow.model import Ssh as Defaults
from dagrid.workflow.model import Step, place
from dagrid.workflow.steps.settings import Found, Setting, Settings
from dagrid.workflow.steps.texts import arguments, known
from dagrid.workflow.surroundings import SHELLS
from dagrid.workflow.variables import for_program, for_shell, with_arguments
from dagrid.workflow.work import Work

NO_PASSWORDS = (
    "ssh logs in with keys alone here; remove `password`, and name the file of a private key: key: ~/.ssh/id_ed25519"
)
SETTINGS = Settings(
    "ssh",
    [
        Setting("user", "text", "Who logs in; without it ssh decides.", ""),
        Setting(
            "host",
            "text",
            "Where: a name, an address, or a host of the client's own configuration.",
            "",
            aliases=("ip",),
        ),
        Setting("port", "port", "The port.", 22),
        Setting("key", "text", "The file of the private key; without it those that ssh finds itself.", ""),
        Setting("password", "text", "Not taken: keys are.", "", refused=NO_PASSWORDS),
        Setting("strict_host_key", "flag", "The host must be known already.", True),
        Setting("known_host_file", "text", "The file of known hosts.", "", aliases=("known_hosts_file",)),
        Setting("timeout", "seconds", "How long a connection may take.", 30.0),
        Setting("shell", "words", "The shell there, with its options.", ("sh",)),
        Setting("shell_args", "texts", "More options of it.", ()),
    ],
)
"""The settings; those of a step go before those of the workflow."""

PROGRAM = str(Path(__file__).with_name("_ssh_main.py"))
_SILENT = "the connection broke, or the command there was killed, or exited with code 255."
UNREACHED = 255
"""What the client exits with when it is its own failure."""

STARTER = (
    'exec 3<&0; s=$(head -c "$1" <&3; echo x); s=${s%x}; g=$2; shift 2; '
    '(trap "" TERM HUP INT; cat <&3; kill -TERM 0; sleep "$g"; kill -KILL 0) >/dev/null 2>&1 & w=$!; '
    '(exec 3<&-; eval "$s") </dev/null; r=$?; kill -KILL "$w" 2>/dev/null; exit "$r"'
)
"""What the shell there runs: it reads the script, and while that runs, waits for the end of its input, which comes when the
client is gone; then it ends all that the script has started. Nothing of the script is on a command line."""
_USED = re.compile(r"\$\{?#?([A-Za-z_]\w*)", re.ASCII)


class Ssh:
    """A step of type ssh."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        yield from SETTINGS.check(step)
        if not step.command and not step.script:
            yield place(step), "a step of type ssh has nothing to do; give it `command:` or `script:`"
        if step.command and step.script:
            yield place(step, "script"), "a step of type ssh has a `command` or a `script`, not both; keep one"

    def perform(self, work: Work) -> Generator[Launch, Exit, None]:
        """Run the commands in order until one fails; or the script."""
        step = work.step
        config = yield from _config(work)
        argv = _client(work, config)
        words = yield from arguments(work)
        grace = max(1, int(work.context.workflow.max_clean_up_time_sec))
        for text in [step.script] if step.script else step.command:
            shell, script = _script(work, text, words, config)
            data = script.encode("utf-8", "surrogateescape")
            remote = shlex.join([*shell, "-c", STARTER, "dagrid", str(len(data)), str(grace)])
            launch = yield from work.launch([*argv, f"exec {remote}"], stdin=data, env=_environment(work))
            end = yield msgspec.structs.replace(launch, said=["ssh", config["host"], text])
            if end.code == UNREACHED and not end.signal:
                said = end.last_words
                raise StepError(
                    f"ssh {config['host']}: {said[-1] if said else _SILENT}{_remedy(said)}",
                    step.name,
                    UNREACHED,
                )
            end.check()


def _config(work: Work) -> Generator[Any, Any, dict[str, Any]]:
    """Return the settings of a step over those of its workflow."""
    found: dict[str, Any] = {}
    defaults = work.context.workflow.ssh
    if defaults is not None:
        if defaults.password:
            raise StepError(f"{NO_PASSWORDS[0].upper()}{NO_PASSWORDS[1:]}.", retryable=False)
        for name in defaults.places:
            if name in SETTINGS.spelled and name in Defaults.__struct_fields__:
                value = getattr(defaults, name)
                found[name] = list(value) if isinstance(value, tuple) else value
    base = SETTINGS.read((yield from work.plain(found)))
    own = SETTINGS.read((yield from work.config()))
    said = {SETTINGS.spelled[key].name for key in work.step.executor.config if key in SETTINGS.spelled}
    config = base | {name: value for name, value in own.items() if name in said}
    if not config["host"]:
        raise StepError(
            "It is not said where to; write config: {host: ...} in the step, or ssh: {host: ...} in the workflow.",
            retryable=False,
        )
    if config["host"].startswith("-") or config["user"].startswith("-"):
        raise StepError(f"{config['host']!r} is no host.", retryable=False)
    return config


def _client(work: Work, config: Mapping[str, Any]) -> list[str]:
    """Return the client with its options, and the host."""
    argv = [sys.executable, "-I", "-S", PROGRAM, "ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"]
    argv += ["-o", f"ConnectTimeout={max(1, round(config['timeout']))}"]
    argv += ["-o", f"StrictHostKeyChecking={'yes' if config['strict_host_key'] else 'no'}"]
    if config["known_host_file"]:
        argv += ["-o", f"UserKnownHostsFile={_quoted(work.file(config['known_host_file']))}"]
    elif not config["strict_host_key"]:
        argv += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    if config["key"]:
        argv += ["-i", work.file(config["key"]), "-o", "IdentitiesOnly=yes"]
    if config["port"] != 22:
        argv += ["-p", str(config["port"])]
    return [*argv, *(["-l", config["user"]] if config["user"] else []), "--", config["host"]]


def _environment(work: Work) -> dict[str, str]:
    """Return the environment of the client, which finds the user's agent in it."""
    agent = os.environ.get("SSH_AUTH_SOCK")
    return {"SSH_AUTH_SOCK": agent, **work.env} if agent else work.env


def _script(work: Work, text: str, words: list[str], config: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the shell there, and what it reads: a command or a script, behind the variables that it uses."""
    shell = [word for word in (*config["shell"], *config["shell_args"]) if word != "-c"] or ["sh"]
    if shell[0].rpartition("/")[2] not in SHELLS:
        raise StepError(
            f"The shell there must be one that understands sh, not {shell[0]!r}; begin the script with #! instead."
        )
    names = known(work)
    first, _, _ = text.partition("\n")
    if first.startswith("#!") and work.step.script and not _is_shell(first):
        return shell, _file(for_program(text, names), words)
    written, held = for_shell(text, names)
    values = {name: names.variable(name) for name in _USED.findall(text)}
    values |= {one.name: names.variable(one.name) for one in work.step.env}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in (values | held).items() if value is not None]
    if words:
        if work.step.script:
            lines.append(f"set -- {shlex.join(words)}")
        else:
            written = with_arguments(written, words)
    return shell, "\n".join([*lines, written]) + "\n"


def _file(text: str, words: list[str]) -> str:
    """Return what a shell does with a script for another interpreter: it writes a file, runs it, and removes it."""
    mark = "DAGRID_END"
    while mark in text:
        mark += "_"
    return (
        f"f=$(umask 077; mktemp) || exit\ntrap 'rm -f \"$f\"' EXIT\ncat >\"$f\" <<'{mark}'\n{text}\n{mark}\n"
        f'chmod 700 "$f"\n"$f" {shlex.join(words)}\n'
    )


def _is_shell(first: str) -> bool:
    names = [word.rpartition("/")[2] for word in first[2:].split() if not word.startswith("-")]
    names = names[1:] if names[:1] == ["env"] else names
    return bool(names) and names[0] in SHELLS


def _quoted(path: str) -> str:
    """Return a path as an option of the client has it, where blanks divide files."""
    return f'"{path}"' if " " in path else path


def _remedy(said: list[str]) -> str:
    text = " ".join(said)
    if "Host key verification failed" in text or "No ED25519 host key" in text:
        return " Add the host to the file of known hosts (ssh-keyscan HOST), or set strictHostKey: false."
    if "Permission denied" in text:
        return " Check `user` and `key`; passwords are not taken."
    return ""
