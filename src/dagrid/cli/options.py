"""Commands of click's, made of functions and the table of settings: a function gets a `Call` and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from dagrid.cli.calls import Call
from dagrid.config import BY_NAME, Config, settings_of
from dagrid.config.kinds import FLAG, is_text
from dagrid.config.table import Setting
from dagrid.errors import InvalidSettingError

Body = Callable[..., int | None]
Complete = Callable[[click.Context, click.Parameter, str], list[Any]]
# Through which shells ask for completions.
COMPLETE_VARIABLE = "_DAGRID_COMPLETE"
# How click calls the value of a flag -> the setting.
_PARAMS = {f"set_{name.replace('.', '__')}": setting for name, setting in BY_NAME.items()}
_UNSET = {f"unset_{name.replace('.', '__')}": setting for name, setting in BY_NAME.items() if setting.kind is FLAG}
_FLAGS = {flag for setting in _UNSET.values() for flag in setting.flags if flag.startswith("--")}


def command(
    name: str,
    *arguments: click.Parameter,
    examples: Sequence[str] = (),
    completes: Mapping[str, Complete] | None = None,
) -> Callable[[Body], click.Command]:
    """Make a command of a function, with the flags that the table of settings gives it.

    Args:
        name: of the command.
        arguments: what stands without a flag; the function gets them by name.
        examples: lines for its help.
        completes: what completes the values of flags, by the names of their settings.
    """
    complete = completes or {}

    def made(body: Body) -> click.Command:
        own = settings_of(name)
        params: list[click.Parameter] = [
            *arguments,
            *[option(one, name, complete.get(one.name)) for one in own if one.flags],
        ]
        params += [negation(one) for one in own if one.flags and one.kind is FLAG]
        return click.Command(
            name,
            callback=_called(body, name, [one.name or "" for one in arguments if not isinstance(one.type, click.Path)]),
            params=params,
            help=with_examples(body.__doc__ or "", examples),
            context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
        )

    return made


def option(setting: Setting, command: str = "", complete: Complete | None = None) -> click.Option:
    """Return the flag of a setting. Its value is text: what it means, and what goes before it, is for the settings."""
    said = setting.doc
    if setting.default not in (None, (), "", False) or setting.shown:
        said = f"{said.rstrip('.')}. [default: {setting.shown or setting.default}]"
    names = [*setting.flags_of(command), f"set_{setting.name.replace('.', '__')}"]
    if setting.kind is FLAG:
        return click.Option(names, is_flag=True, default=None, help=said, expose_value=True)
    kind: click.ParamType[str] = click.Path() if setting.kind.metavar == "PATH" else click.STRING
    choices = setting.kind.choices
    return click.Option(
        names,
        type=kind,
        multiple=setting.kind.many,
        default=None,
        metavar=setting.kind.metavar,
        help=said,
        shell_complete=_among(choices) if choices else complete,
    )


def negation(setting: Setting) -> click.Option:
    """Return what stands for a flag that is said to be false, see `without_values`."""
    names = [f"--no-{flag[2:]}" for flag in setting.flags if flag.startswith("--")]
    return click.Option([*names, f"unset_{setting.name.replace('.', '__')}"], is_flag=True, default=None, hidden=True)


def without_values(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which `--flag=true` and `--flag=false` are flags without a value, for those that take none."""
    found: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[number:]]
        flag, equals, said = argument.partition("=")
        if equals and flag in _FLAGS:
            try:
                argument = flag if FLAG.read(said) else f"--no-{flag[2:]}"
            except ValueError:
                pass  # it is refused, as any value of theirs is
        found.append(argument)
    return found


def completing(words: Callable[[Call, str], list[tuple[str, str]]]) -> Complete:
    """Return what completes with words that are looked up: it gets a call and what is typed, and gives words with remarks."""

    def complete(context: click.Context, _: click.Parameter, typed: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        above = context.parent.params if context.parent is not None else {}
        call = Call(Config({**_given(above), **_given(context.params)}), "")
        try:
            with context:
                return [CompletionItem(word, help=said or None) for word, said in words(call, typed)]
        except Exception:  # noqa: BLE001  # nobody who presses a key wants to read about it
            return []
        finally:
            call.close()

    return complete


def _among(choices: Sequence[str]) -> Complete:
    return lambda _context, _param, typed: [word for word in choices if word.startswith(typed)]


def _called(body: Body, name: str, texts: Sequence[str]) -> Callable[..., int]:
    @click.pass_context
    def call(context: click.Context, /, **values: Any) -> int:
        given = {**(context.obj or {}), **_given(values)}
        arguments = {name: value for name, value in values.items() if name not in _PARAMS and name not in _UNSET}
        now = Call(Config(given), name)
        _calls.append(now)
        for word in map(arguments.get, texts):
            if isinstance(word, str) and not is_text(word):
                raise InvalidSettingError(
                    f"{word!r} is no text in UTF-8, and names nothing. Write what {name} --help says."
                )
        try:
            with now.handed_on():
                return int(body(now, **arguments) or 0)
        finally:
            now.close()

    return call


_calls: list[Call] = []


def last_call() -> Call | None:
    """Return the call that was begun last, for who tells of its end."""
    return _calls[-1] if _calls else None


def common(context: click.Context) -> dict[str, tuple[str, Any]]:
    """Return the settings that were said before the name of the command."""
    return _given(context.params)


def _given(values: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return what flags have said, by the name of the setting: the flag and its text."""
    found = {}
    for name, said in values.items():
        if name in _UNSET and said:
            found[_UNSET[name].name] = (_UNSET[name].flags[0], "false")
        setting = _PARAMS.get(name)
        if setting is not None and said not in (None, ()):
            found[setting.name] = (setting.flags[0], "true" if said is True else said)
    return found


def with_examples(text: str, examples: Sequence[str]) -> str:
    """Return the help of a command."""
    import inspect

    said = inspect.cleandoc(text).partition("\n\nArgs:")[0]
    if examples:
        said += "\n\n\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
    return said
