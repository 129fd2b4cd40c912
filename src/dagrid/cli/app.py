"""The command as a whole: which commands there are, and what becomes of an error. A command is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import click

from dagrid.cli import options
from dagrid.config import settings_of
from dagrid.config.kinds import FLAG
from dagrid.config.table import Setting

# Command -> its room, and what it does; in the order in which people need them. Those that dagrid calls stand in `ROOMS` alone.
COMMANDS = {
    "start": ("starting", "Run a workflow, or a graph of Python's, and wait for it."),
    "enqueue": ("queues", "Put a workflow into a queue, to be started later."),
    "dequeue": ("queues", "Take a run out of a queue."),
    "stop": ("stopping", "Stop a run."),
    "restart": ("stopping", "Stop a run if it goes on, and start what it is of anew."),
    "retry": ("resuming", "Go on with a run from what did not complete."),
    "approve": ("resuming", "Let a run go on that waits for a person."),
    "reject": ("resuming", "Refuse what a run waits for."),
    "status": ("showing", "Show how a run stands, or how all stand that go on."),
    "explain": ("showing", "Say why a step is not running, or how it ended."),
    "history": ("listing", "List runs."),
    "logs": ("logs", "Show what a run or a step has written."),
    "dry": ("looking", "Show what a workflow would do."),
    "validate": ("checking", "Say all that is wrong with workflows."),
    "graph": ("drawing", "Draw a workflow, a graph of Python's, or a run."),
    "schema": ("checking", "Print the JSON schema of workflows, or of settings."),
    "exec": ("executing", "Run one command as a workflow of one step."),
    "coordinator": ("serving", "Perform the runs in all queues on workers, which call here."),
    "start-all": ("serving", "Be a coordinator, and answer HTTP as well."),
    "worker": ("working", "Perform steps and calls for a coordinator, until it is stopped."),
    "cleanup": ("cleaning", "Forget old runs."),
    "config": ("settings", "Show every setting, and where its value came from."),
    "version": ("settings", "Print the version."),
    "completion": ("completing", "Print what lets a shell complete commands, runs and steps."),
}
ROOMS = {**{name: room for name, (room, _) in COMMANDS.items()}, "perform": "resuming"}
EXAMPLES = (
    "dagrid start nightly.yaml -- DAY=2026-01-31",
    "dagrid start flows.etl:nightly --backend multiprocessing",
    "dagrid history --last 7d --status failed",
    "dagrid logs -f nightly fetch",
    "dagrid retry nightly --from load",
)


class Commands(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ROOMS:
            return None
        room = import_module(f"dagrid.cli.commands.{ROOMS[cmd_name]}")
        found: click.Command = getattr(room, f"{cmd_name.replace('-', '_')}_command")
        if cmd_name in COMMANDS:
            found.short_help = COMMANDS[cmd_name][1]
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in ROOMS and not args[0].startswith("-"):
            from dagrid.errors import hint, nearest

            raise click.UsageError(f"There is no command {args[0]!r}.{hint(nearest(args[0], COMMANDS))}", ctx)
        return super().resolve_command(ctx, args)


@click.pass_context
def _begin(context: click.Context, /, **_: Any) -> None:
    context.obj = options.common(context)


def _common() -> Iterator[tuple[Callable[[Setting], click.Option], Setting]]:
    for one in settings_of(""):
        yield options.option, one
        if one.kind is FLAG:
            yield options.negation, one


def group() -> click.Group:
    """Return the command."""
    return Commands(
        "dagrid",
        callback=_begin,
        params=[make(one) for make, one in _common()],
        help=options.with_examples("Run workflows in YAML and graphs of Python's, and find every run again.", EXAMPLES),
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
        subcommand_metavar="COMMAND [ARGS]...",
    )


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code. Errors are told here, once, and never as a traceback."""
    given = ["version"] if list(arguments) == ["--version"] else options.without_values(arguments)
    try:
        # Without arguments or with --help click has said what it had to say.
        result = group().main(
            args=given, prog_name="dagrid", complete_var=options.COMPLETE_VARIABLE, standalone_mode=False
        )
        return int(result or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except BaseException as error:  # noqa: BLE001  # the last one who can tell the user
        from dagrid.cli.complaints import told

        return told(error, given)
