"""`dagrid completion`: what a shell needs to complete the command."""

from __future__ import annotations

import click

from dagrid.cli.calls import Call
from dagrid.cli.options import COMPLETE_VARIABLE, command

SHELLS = ("bash", "zsh", "fish")


@command(
    "completion",
    click.Argument(["shell"], type=click.Choice(SHELLS)),
    examples=(
        'eval "$(dagrid completion bash)"        # in ~/.bashrc',
        'eval "$(dagrid completion zsh)"         # in ~/.zshrc',
        "dagrid completion fish > ~/.config/fish/completions/dagrid.fish",
    ),
)
def completion_command(call: Call, shell: str) -> None:
    """Print what lets a shell complete commands, files, runs and steps."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    call.out.write(kind(root, {}, "dagrid", COMPLETE_VARIABLE).source())
