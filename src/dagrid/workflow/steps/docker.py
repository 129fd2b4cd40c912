"""Steps in containers, by the docker client: in one of their own, in one that runs already, or in the one of their run.

The container of a run is made by the first step that needs it, under a name that follows from the run; so a run that goes on in
another process finds it again. `remove` takes it away when the run is over.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

import msgspec

from dagrid.attempt import current
from dagrid.commands import NOT_FOUND, Await, Exit, Launch
from dagrid.errors import CommandError, NoCurrentTaskError, StepError
from dagrid.workflow.context import Context
from dagrid.workflow.model import Container, Step, place
from dagrid.workflow.steps.settings import Found, Setting, Settings, at
from dagrid.workflow.steps.texts import arguments, known, split
from dagrid.workflow.surroundings import SHELLS
from dagrid.workflow.variables import for_program, for_shell, with_arguments
from dagrid.workflow.work import Work

Performing = Generator[Launch | Await, Any, Any]

_ON_HELP = re.compile(r"(Run|See) 'docker .*--help'")

SETTINGS = Settings(
    "docker",
    [
        Setting("image", "text", "The image of a new container."),
        Setting("exec", "any", "A container that runs already: its name, or {container, user, workingDir, env}."),
        Setting(
            "container_name",
            "text",
            "The name of the new container; without an image, of one that runs already.",
            aliases=("name",),
        ),
        Setting(
            "pull",
            "text",
            "When the image is fetched.",
            choices=("always", "missing", "never"),
            aliases=("pull_policy",),
        ),
        Setting("auto_remove", "flag", "`false` keeps the container when the step is over.", True),
        Setting("env", "variables", "Its variables: a list of NAME=VALUE, or a mapping.", ()),
        Setting("volumes", "texts", "Volumes, as SOURCE:TARGET[:ro].", ()),
        Setting("user", "text", "The user in it.", ""),
        Setting("working_dir", "text", "The folder in it.", ""),
        Setting("platform", "text", "Such as linux/amd64.", ""),
        Setting("ports", "texts", "Ports, as HOST:CONTAINER.", ()),
        Setting("network", "text", "The network that it joins.", ""),
        Setting("shell", "words", "The shell in it; without one a command is a program and its arguments.", ()),
        Setting("host", "table", "Only `binds`, an older spelling of volumes."),
        Setting("container", "table", "Older spellings of env, user and workingDir."),
    ],
)
"""The settings of `type: docker`; `container:` of a step has the same and more."""

NEEDED = ("PATH", "HOME")
"""Variables that the client needs itself: for the container they stand on its command line."""
NO_CLIENT = "There is no program docker; install the docker client, and let PATH name its folder."
PATIENCE = 120.0
INTERVAL = 0.25
MARK = "container"
"""The file beside the log of a run that says that the run has made a container."""
KEEP_ALIVE = 'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done'
STATE = "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}"

RUN_GUARD = (
    'name=$1 grace=$2 keep=$3; shift 3; trap \'trap "" TERM INT HUP; docker stop --time "$grace" "$name" >/dev/null 2>&1; '
    '[ "$keep" ] || docker rm --force "$name" >/dev/null 2>&1; wait; exit 143\' TERM INT HUP; '
    'exec 3<&0; "$@" <&3 3<&- & wait "$!"'
)
"""What a client runs under: told to stop, it stops the container, for a process in one may not hear of it otherwise."""
EXEC_GUARD = (
    'name=$1 file=$2; shift 2; trap \'trap "" TERM INT HUP; docker exec "$name" sh -c "kill -TERM -- -\\$(cat $file); '
    'rm -f $file" >/dev/null 2>&1; wait; exit 143\' TERM INT HUP; exec 3<&0; "$@" <&3 3<&- & wait "$!"'
)
"""The same for a process in a container that goes on: it is told to stop, with all that it has started."""
EXEC_START = 'echo $$ >"$0"; "$@"; r=$?; rm -f "$0"; exit $r'
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A container as a step wants it; all texts are expanded."""

    image: str = ""
    running: str = ""
    name: str = ""
    pull: str = ""
    keep: bool = False
    env: dict[str, str] = msgspec.field(default_factory=dict)
    volumes: Sequence[str] = ()
    user: str = ""
    folder: str = ""
    platform: str = ""
    ports: Sequence[str] = ()
    network: str = ""
    shell: Sequence[str] = ()
    command: Sequence[str] = ()
    restart: str = ""
    health: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Docker:
    """A step of type docker, or with `container`."""

    def check(self, step: Step) -> Found:
        """Yield what is wrong with a step, see `StepType`."""
        if step.container is not None:
            yield from check_container(step.container)
            if step.executor.config:
                yield at(step), "the container is in `container` too; keep one of the two"
            return
        yield from SETTINGS.check(step)
        says = {name: SETTINGS.says(step, name) for name in ("image", "exec", "container_name", "host", "container")}
        if not says["image"] and not says["exec"] and not says["container_name"]:
            yield at(step), "a step of type docker needs an image; write image: ... in its config"
        if says["image"] and says["exec"]:
            yield at(step, "exec"), "`exec` is for a container that runs already, and `image` for a new one; keep one"
        for outer, inner in (("host", ("binds",)), ("container", ("env", "user", "workingDir", "working_dir"))):
            if isinstance(says[outer], Mapping):
                for key in says[outer]:
                    if key not in inner:
                        yield at(step, outer), f"unknown key {key!r} in {outer}. There are: {', '.join(inner)}"

    def perform(self, work: Work) -> Performing:
        """Run the command in the container."""
        box = yield from (
            _of_record(work, work.step.container) if work.step.container is not None else _of_config(work)
        )
        if box.running:
            yield from _execute(work, box)
        else:
            yield from _run(work, box)


def inside(work: Work) -> Performing:
    """Run the command of a step in the container of its run, which is made if it is not there."""
    container = work.context.workflow.container
    assert container is not None
    box = yield from _of_record(work, container)
    if not box.running:
        name = box.name or name_of(work.context)
        yield from _ensure(work, container, msgspec.structs.replace(box, name=name))
        box = msgspec.structs.replace(box, running=name, env={})
    yield from _execute(work, box)


def check_container(container: Container) -> Found:
    """Yield what is wrong with a `container`."""
    if container.image and container.exec:
        yield (
            place(container, "exec"),
            "`exec` is for a container that runs already, and `image` for a new one; keep one",
        )
    elif not container.image and not container.exec:
        yield place(container), "a container needs an image; write image: ..., or exec: NAME for one that runs already"
    if container.startup == "command" and not container.command:
        yield place(container, "startup"), "startup: command needs the command; write command: [...]"
    if container.log_pattern and "$" not in container.log_pattern:
        try:
            re.compile(container.log_pattern)
        except re.error as error:
            yield place(container, "log_pattern"), f"logPattern is no regular expression: {error}"


def name_of(context: Context) -> str:
    """Return the name of the container of a run."""
    return f"dagrid-{_UNSAFE.sub('-', context.logs.run_id)}"


def remove(context: Context) -> str:
    """Take away the container of a run that is over, if it has made one; return what went wrong, empty if nothing did."""
    container = context.workflow.container
    mark = Path(context.logs.log).with_name(MARK)
    if container is None or container.keep_container:
        return ""
    try:
        name = mark.read_text("utf-8")
    except OSError:
        return ""
    try:
        done = subprocess.run(
            ["docker", "rm", "--force", name],
            env=dict(context.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the container {name} was not removed: {error}"
    if done.returncode:
        return f"the container {name} was not removed: {done.stderr.decode('utf-8', 'replace').strip()}"
    with suppress(FileNotFoundError):
        mark.unlink()
    return ""


# What is wanted -------------------------------------------------------------------------------------------------------


def _of_record(work: Work, container: Container) -> Generator[Any, Any, Box]:
    env = {}
    for variable in container.env:
        env[variable.name] = yield from work.text(variable.value)
    said: dict[str, Any] = {
        "name": container.name,
        "user": container.user,
        "folder": container.working_dir,
        "platform": container.platform,
        "network": container.network,
        "volumes": container.volumes,
        "ports": container.ports,
        "command": container.command,
        "shell": container.shell,
        "image": container.image,
        "restart": container.restart_policy,
        "health": container.healthcheck,
    }
    texts = yield from work.plain(said)
    pull = container.pull_policy if "pull_policy" in container.places else ""
    box = Box(**texts, pull=pull, keep=container.keep_container, env=env)
    return (yield from _running(work, box, container.exec))


def _of_config(work: Work) -> Generator[Any, Any, Box]:
    config = SETTINGS.read((yield from work.config()))
    inner, host = config["container"] or {}, config["host"] or {}
    box = Box(
        image=config["image"] or "",
        name=config["container_name"] or "",
        pull=config["pull"] or "",
        keep=not config["auto_remove"],
        env=_variables(inner.get("env") or ()) | _variables(config["env"]),
        volumes=[*config["volumes"], *(host.get("binds") or ())],
        user=config["user"] or str(inner.get("user") or ""),
        folder=config["working_dir"] or str(inner.get("workingDir") or inner.get("working_dir") or ""),
        platform=config["platform"],
        ports=config["ports"],
        network=config["network"],
        shell=config["shell"],
    )
    return (yield from _running(work, box, config["exec"]))


def _running(work: Work, box: Box, said: Any) -> Generator[Any, Any, Box]:
    """Return a box with the container that runs already, if one is said."""
    if said is None:
        return msgspec.structs.replace(box, running=box.name, name="") if not box.image and box.name else box
    own = yield from work.plain(said)
    if isinstance(own, Mapping):
        name = str(own.get("container") or own.get("containerName") or own.get("name") or box.name)
        box = msgspec.structs.replace(
            box,
            user=str(own.get("user") or box.user),
            folder=str(own.get("workingDir") or own.get("working_dir") or box.folder),
            env={**box.env, **_variables(own.get("env") or ())},
        )
    else:
        name = str(own)
    if not name:
        raise StepError("It is not said which container runs already; write exec: NAME.", retryable=False)
    return msgspec.structs.replace(box, running=name, name="")


def _variables(said: Any) -> dict[str, str]:
    if isinstance(said, Mapping):
        return {str(name): str(value) for name, value in said.items()}
    found: dict[str, str] = {}
    for one in [said] if isinstance(said, str) else said:
        if isinstance(one, Mapping):
            found |= _variables(one)
        else:
            name, _, value = str(one).partition("=")
            found[name] = value
    return found


# What is run ----------------------------------------------------------------------------------------------------------


def _run(work: Work, box: Box) -> Performing:
    """Run the commands of a step, each in a new container."""
    name = box.name or _name(work)
    if not box.name and (work.context.is_resumed or _attempt() > 1):
        # one that an attempt before left behind, when it was killed
        yield _aside(work, ["docker", "rm", "--force", name])
    keep = "keep" if box.keep else ""
    stop = max(1, int(work.context.workflow.max_clean_up_time_sec) - 1)
    for argv, env, stdin in (yield from _commands(work, box)):
        values = _own_variables(work) | box.env | env
        removal = [] if box.keep else ["--rm"]
        client = [
            "docker",
            "run",
            *removal,
            *(["-i"] if stdin is not None else []),
            "--name",
            name,
            *_options(work, box),
        ]
        client += [*_env_options(values), box.image, *argv]
        yield from _finished(
            work, ["/bin/sh", "-c", RUN_GUARD, "dagrid-docker", name, str(stop), keep, *client], values, stdin
        )


def _execute(work: Work, box: Box) -> Performing:
    """Run the commands of a step, one after the other, in a container that runs."""
    commands = yield from _commands(work, box)
    if not commands or not all(argv for argv, _, _ in commands):
        raise StepError(
            "There is nothing to run in the container; give the step `command:` or `script:`.", retryable=False
        )
    for argv, env, stdin in commands:
        values = _own_variables(work) | box.env | env
        file = f"/tmp/.{_name(work)}"
        client = ["docker", "exec", *(["-i"] if stdin is not None else [])]
        client += ["--user", box.user] if box.user else []
        client += ["--workdir", box.folder] if box.folder else []
        client += [*_env_options(values), box.running, "sh", "-c", EXEC_START, file, *argv]
        guard = ["/bin/sh", "-c", EXEC_GUARD, "dagrid-docker", box.running, file, *client]
        yield from _finished(work, guard, values, stdin)


def _finished(work: Work, argv: list[str], values: Mapping[str, str], stdin: bytes | None) -> Performing:
    """Run a client to its end. Raises CommandError: it failed; StepError: there is no client."""
    passed = {name: value for name, value in values.items() if not _is_needed(name)}
    end: Exit = yield (yield from work.launch(argv, stdin=stdin, env={**work.env, **passed}))
    if end.code == 127 and any(
        "docker: not found" in line or "docker: command not found" in line for line in end.last_words
    ):
        raise StepError(NO_CLIENT, retryable=False)
    if end.code:
        said = _reason(end)
        raise StepError(f"docker exited with code {end.code}{f': {said}' if said else '.'}", work.step.name, end.code)
    end.check()


def _reason(end: Exit) -> str:
    """Return the last line that a client has said; how to get help on it is not why it failed."""
    lines = [line for line in end.last_words if not _ON_HELP.match(line)]
    return lines[-1] if lines else ""


def _commands(work: Work, box: Box) -> Generator[Any, Any, list[tuple[list[str], dict[str, str], bytes | None]]]:
    """Return what is run in a container: words, variables, and what is read; none means what the image does itself."""
    step = work.step
    names = known(work)
    more = yield from arguments(work)
    shell = [word for word in (step.shell or box.shell) if word != "-c"]
    if step.script:
        first, _, _ = step.script.partition("\n")
        if first.startswith("#!"):
            argv = shlex.split(first[2:])
        else:
            argv = (yield from split(step.command[0], work)) if step.command else []
        argv = argv or [*(shell or ["sh"])]
        is_shell = argv[:1] != [] and argv[0].rpartition("/")[2] in SHELLS
        text, held = for_shell(step.script, names) if is_shell else (for_program(step.script, names), {})
        env = {**(_used(step.script, work) if is_shell else {}), **held}
        if more:
            argv = [*argv, "-s" if is_shell else "-", *more]
        return [(argv, env, text.encode("utf-8", "surrogateescape"))]
    found: list[tuple[list[str], dict[str, str], bytes | None]] = []
    for command in step.command:
        if shell:
            text, held = for_shell(command, names)
            found.append(([*shell, "-c", with_arguments(text, more)], {**_used(command, work), **held}, None))
        else:
            found.append(([*(yield from split(command, work)), *more], {}, None))
    return found or [([] if box.running else [str(word) for word in box.command], {}, None)]


def _used(text: str, work: Work) -> dict[str, str]:
    """Return the variables of the workflow that a text for a shell names."""
    names = known(work)
    values = {name: names.variable(name) for name in re.findall(r"\$\{?#?([A-Za-z_]\w*)", text, re.ASCII)}
    return {name: value for name, value in values.items() if value is not None}


def _own_variables(work: Work) -> dict[str, str]:
    """Return the variables that a step has everywhere: those of its `env`, and what tells it where it stands."""
    found = {name: work.env[name] for name in ("DAG_NAME", "DAG_RUN_ID", "DAG_RUN_STEP_NAME") if name in work.env}
    return found | work.own


def _options(work: Work, box: Box) -> list[str]:
    """Return the options of a new container."""
    said: list[str] = []
    for option, value in (
        ("--pull", box.pull),
        ("--platform", box.platform),
        ("--user", box.user),
        ("--workdir", box.folder),
        ("--network", box.network),
    ):
        said += [option, value] if value else []
    for port in box.ports:
        said += ["--publish", port]
    for volume in box.volumes:
        said += ["--volume", _volume(work, volume)]
    return said


def _env_options(values: Mapping[str, str]) -> list[str]:
    """Return the options for variables; their values are not on the command line, where others could read them."""
    return [
        word for name, value in values.items() for word in ("--env", f"{name}={value}" if _is_needed(name) else name)
    ]


def _is_needed(name: str) -> bool:
    return name in NEEDED or name.startswith("DOCKER_")


def _volume(work: Work, text: str) -> str:
    """Return a volume whose source is a folder of this machine as a full path; a name stays a name."""
    source, mark, rest = text.partition(":")
    if mark and source.startswith((".", "~")):
        source = os.path.normpath(work.file(source))
    return f"{source}{mark}{rest}"


def _name(work: Work) -> str:
    """Return the name of the container of a step."""
    text = f"{work.context.logs.run_id}/{work.step.name}"
    return (
        f"dagrid-{_UNSAFE.sub('-', work.step.name)[:40].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    )


def _attempt() -> int:
    try:
        return current().number
    except NoCurrentTaskError:
        return 1


# The container of a run -----------------------------------------------------------------------------------------------


def _ensure(work: Work, container: Container, box: Box) -> Performing:
    """Make the container of a run, if no other step has, and wait until it is ready."""
    waited = 0.0
    made = False
    while True:
        try:
            end: Exit = yield _aside(work, ["docker", "container", "inspect", "--format", STATE, box.name])
        except CommandError as error:
            raise StepError(NO_CLIENT if error.code == NOT_FOUND else error.message, retryable=False) from None
        status, _, health = end.text.partition(" ")
        if end.code:
            yield from _make(work, container, box)
            made = True
        elif status in ("exited", "dead"):
            if made:
                raise StepError(
                    f"The container of the run, of image {box.image}, has ended by itself; see startup.",
                    retryable=False,
                )
            yield _aside(work, ["docker", "rm", "--force", box.name])
        elif (
            status == "running"
            and (container.wait_for != "healthy" or health == "healthy")
            and (not container.log_pattern or (yield from _has_said(work, container.log_pattern, box.name)))
        ):
            return
        if waited > PATIENCE:
            raise StepError(
                f"The container of the run, of image {box.image}, was not ready within {PATIENCE:g} s: it is {end.text}."
            )
        if not end.code:
            yield Await(_pause)
            waited += INTERVAL


def _make(work: Work, container: Container, box: Box) -> Performing:
    Path(work.context.logs.log).with_name(MARK).write_text(box.name, "utf-8")
    client = ["docker", "run", "--detach", "--name", box.name, *_options(work, box)]
    client += ["--restart", box.restart] if box.restart else []
    for key, option in (("test", "cmd"), ("interval", "interval"), ("timeout", "timeout"), ("retries", "retries")):
        value = box.health.get(key)
        if value is not None:
            text = shlex.join(str(one) for one in value[1:]) if isinstance(value, list) else str(value)
            client += [f"--health-{option}", text]
    client += _env_options(box.env)
    if container.startup == "keepalive":
        client += ["--entrypoint", "sh", box.image, "-c", KEEP_ALIVE]
    else:
        client += [box.image, *(box.command if container.startup == "command" else ())]
    passed = {name: value for name, value in box.env.items() if not _is_needed(name)}
    end: Exit = yield _aside(work, client, passed)
    if end.code and not any("already in use" in line for line in end.last_words):
        raise StepError(
            f"The container of the run cannot be started: {_reason(end) or f'code {end.code}'}", code=end.code
        )


def _has_said(work: Work, pattern: str, name: str) -> Generator[Any, Any, bool]:
    end: Exit = yield _aside(work, ["docker", "logs", name])
    wanted = yield from work.text(pattern)
    return re.search(wanted, f"{end.text}\n{end.stderr.decode('utf-8', 'replace')}", re.MULTILINE) is not None


def _aside(work: Work, argv: list[str], more: Mapping[str, str] | None = None) -> Launch:
    """Return a client whose output is not that of the step."""
    return msgspec.structs.replace(work.aside(shlex.join(argv), {}), argv=argv, env={**work.env, **(more or {})})


def _pause(notify: Any) -> Any:
    timer = Timer(INTERVAL, notify, (None,))
    timer.daemon = True
    timer.start()
    return timer.cancel
