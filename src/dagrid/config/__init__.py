"""Settings of the command line and of graphs: from flags, the environment and a file, each knowing where it came from.

A flag goes before a variable, that before the file, and that before the default. All names stand in `table`. It knows no command
and no run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dagrid.config.kinds import PATH, PORT
from dagrid.config.table import BY_KEY, BY_NAME, PREFIX, SETTINGS, Setting, settings_of
from dagrid.errors import InvalidSettingError, hint, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dagrid.config.files import Source

DEFAULT = "default"
# What a variable holds that Kubernetes sets for a Service whose name makes it look like ours.
_INJECTED = re.compile(r"(?:tcp|udp|sctp)://")
FILE = "config.yaml"


class Value(NamedTuple):
    """A setting with its value, and where that came from: a flag, a variable, a place in a file, or `default`."""

    setting: Setting
    value: Any
    source: str

    @property
    def named(self) -> str:
        """What a message says of it: a flag, a variable, or a key with its place in a file."""
        told = self.source in (*self.setting.flags, self.setting.variable)
        return self.source if told else f"{self.source}: {self.setting.key}"


class Config:
    """All settings of a call. The file is read when a setting is asked for that neither a flag nor a variable has.

    Attributes:
        remarks: what was not taken for a setting, though it has the name of one, among those that were asked for.

    Args:
        given: what flags say, by the name of the setting: the flag and its text, or its texts.
        environ: the environment; by default that of this process.
    """

    def __init__(
        self,
        given: Mapping[str, tuple[str, str | Iterable[str]]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._given = dict(given or {})
        self._environ = os.environ if environ is None else environ
        self._values: dict[str, Value] = {}
        self.remarks: list[str] = []

    def __getitem__(self, name: str) -> Any:
        """Return the value of a setting.

        Raises:
            InvalidSettingError: what was said of it cannot be, or the file cannot.
        """
        return self.value(name).value

    def value(self, name: str) -> Value:
        """Return a setting with its value and where it came from. Raises InvalidSettingError."""
        if name not in self._values:
            self._values[name] = self._found(BY_NAME[name])
        return self._values[name]

    def all(self) -> list[Value]:
        """Return all settings. Raises InvalidSettingError."""
        return [self.value(setting.name) for setting in SETTINGS]

    @property
    def home(self) -> Path:
        """The home folder. Raises InvalidSettingError."""
        return expanded(self["home"]).absolute()

    @cached_property
    def file(self) -> Source | None:
        """The file of settings, if there is one.

        Raises:
            InvalidSettingError: it is named and not there, cannot be read, or has a key that there is not.
        """
        path, named = self._path_of_file()
        if not named and not _is_file(path):
            return None
        from dagrid.config.files import read

        found = read(path, texts=True)
        _check_keys(found, found.data, ())
        if not named and "home" in found.data:
            raise found.refuse(
                "the file in the home cannot say where the home is. Set DAGRID_HOME, or name the file with --config.",
                "home",
            )
        return found

    def whereabouts(self) -> dict[str, str]:
        """Return the variables that let another process, wherever it works, find the same home, file and store.

        What neither a flag nor a variable says it finds by itself. Raises InvalidSettingError.
        """
        found = {}
        for setting in [BY_NAME[name] for name in ("home", "config", "store")]:
            given = self._given.get(setting.name)
            said = str(given[1]) if given else self._environ.get(setting.variable, "")
            if said and setting.kind is PATH:
                found[setting.variable] = str(expanded(said).absolute())
            elif given:
                found[setting.variable] = said
        return found

    def unknown_variables(self) -> list[tuple[str, str | None]]:
        """Return the variables that look like settings and are none, each with the nearest one that is."""
        known = [setting.variable for setting in SETTINGS]
        names = [name for name in self._environ if name.startswith(PREFIX) and name not in known]
        return [(name, nearest(name, known)) for name in sorted(names)]

    def _found(self, setting: Setting) -> Value:
        if setting.name in self._given:
            flag, said = self._given[setting.name]
            return Value(setting, _read(setting, said, flag), flag)
        text = self._environ.get(setting.variable)
        if text and setting.kind is PORT and _INJECTED.match(text):
            self.remarks.append(
                f"{setting.variable}={text} is what Kubernetes says of a Service, and no port: it does not count."
            )
            text = None
        if text:
            return Value(setting, _read(setting, text, setting.variable), setting.variable)
        if setting.name == "config":
            return Value(setting, str(self._path_of_file()[0]), DEFAULT)
        if setting.name == "home" and not self._path_of_file()[1]:
            return Value(setting, self._default_home(), DEFAULT)
        found = self._in_file(setting)
        if found is not None:
            return found
        return Value(setting, self._default_home() if setting.name == "home" else setting.default, DEFAULT)

    def _in_file(self, setting: Setting) -> Value | None:
        if self.file is None:
            return None
        way = setting.key.split(".")
        at: Any = self.file.data
        for number, part in enumerate(way):
            at = _get(at, part)
            if at is None:
                return None
            if number < len(way) - 1 and not isinstance(at, Mapping):
                raise self.file.refuse(f"{'.'.join(way[: number + 1])} holds settings by name.", *way[: number + 1])
        where = self.file.where(*way)
        if setting.kind.separator and isinstance(at, Mapping):
            at = [f"{name}={'' if value is None else _text(value)}" for name, value in at.items()]
        many = setting.kind.many and isinstance(at, list)
        if isinstance(at, (Mapping, list)) and not many:
            raise InvalidSettingError(f"{where}: {setting.key} is {setting.kind.wanted}.")
        said = [_text(_named_count(one)) for one in at] if many else _text(at)
        value = _read(setting, said, f"{where}: {setting.key}")
        if setting.kind.metavar == "PATH" and isinstance(value, str):
            value = str(Path(self.file.name).absolute().parent / expanded(value))
        return Value(setting, value, where)

    def _path_of_file(self) -> tuple[Path, bool]:
        """Return where the file of settings is, and whether it was named."""
        given = self._given.get("config")
        named = given[1] if given else self._environ.get(BY_NAME["config"].variable)
        if named:
            return expanded(str(named)), True
        home = self._given.get("home")
        said = home[1] if home else self._environ.get(BY_NAME["home"].variable)
        return expanded(str(said) if said else self._default_home()) / FILE, False

    def _default_home(self) -> str:
        data = self._environ.get("XDG_DATA_HOME", "")
        if os.path.isabs(data):
            return os.path.join(data, "dagrid")
        return os.path.join(self._environ.get("HOME") or _home_of_user(), ".local", "share", "dagrid")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home of the user whom a `~` in it means. Raises InvalidSettingError: there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidSettingError(f"{path}: there is no such user, or no home of theirs. Write the path out.") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise InvalidSettingError(
            f"{path}: whether there are settings cannot be seen: {error.strerror}. Name another home: --dagrid-home."
        ) from None


def _home_of_user() -> str:
    import pwd  # mostly the environment has it

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise InvalidSettingError(
            "There is no home: HOME is not set, and this user has none. Name a folder for runs: --dagrid-home, or DAGRID_HOME."
        ) from None


def _read(setting: Setting, said: str | Iterable[str], source: str) -> Any:
    kind = setting.kind
    texts = [said] if isinstance(said, str) else list(said)
    if kind.separator:
        texts = [part.strip() for text in texts for part in text.split(kind.separator) if part.strip()]
    try:
        values = tuple([kind.read(text) for text in texts])
    except (ValueError, OverflowError):
        wrong = next((text for text in texts if not _fits(setting, text)), "")
        near = hint(nearest(wrong, kind.choices))
        found = "" if setting.secret else f", not {wrong!r}"
        raise InvalidSettingError(f"{source} is {kind.wanted}{found}.{near}") from None
    if kind.separator and isinstance(next(iter(values), None), tuple):
        said_of: dict[str, Any] = {}
        for name, value in values:
            if said_of.setdefault(name, value) != value:
                raise InvalidSettingError(
                    f"{source} says two things of {name!r}: {said_of[name]} and {value}. Keep one."
                )
    return values if kind.many else values[-1]


def _fits(setting: Setting, text: str) -> bool:
    try:
        setting.kind.read(text)
    except (ValueError, OverflowError):
        return False
    return True


def _named_count(value: Any) -> Any:
    """Return NAME=NUMBER for an item such as {name: slow, maxConcurrency: 2}, and all else as it is."""
    if not isinstance(value, Mapping) or len(value) != 2 or "name" not in value:
        return value
    (number,) = [one for key, one in value.items() if key != "name"]
    return f"{value['name']}={number}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _get(data: Mapping[str, Any], key: str) -> Any:
    return next((value for name, value in data.items() if _camel(name) == key), None)


def _camel(name: str) -> str:
    """Return a key in camelCase; in snake_case it means the same."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _check_keys(source: Source, data: Mapping[str, Any], way: tuple[str, ...]) -> None:
    """Refuse keys that no setting has, with the nearest that there is."""
    parts = [key.split(".") for key in BY_KEY]
    rooms = {".".join(names[:depth]) for names in parts for depth in range(1, len(names))}
    spelled: dict[str, str] = {}
    for name, value in data.items():
        below = (*way, name)
        other = spelled.setdefault(_camel(name), name)
        if other != name:
            raise source.refuse(f"{name} is {other} in another spelling. Keep one.", *below)
        key = ".".join(map(_camel, below))
        if "." in name and (key in BY_KEY or key in rooms):
            room, _, rest = name.partition(".")
            raise source.refuse(f"{name} is written as a mapping in a mapping: {room}: {{{rest}: ...}}.", *below)
        if key in BY_KEY:
            continue
        if key in rooms:
            if isinstance(value, Mapping):
                _check_keys(source, value, below)
            elif value is not None:
                raise source.refuse(f"{key} holds settings by name, such as {_example(key)}.", *below)
            continue
        raise source.refuse(f"there is no setting {key!r}.{hint(nearest(key, (*BY_KEY, *rooms)))}", *below)


def _example(room: str) -> str:
    return next(key for key in BY_KEY if key.startswith(f"{room}."))


__all__ = ["BY_NAME", "SETTINGS", "Config", "Setting", "Value", "settings_of"]
