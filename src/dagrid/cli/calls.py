"""One call of the command: its settings, its history and where it writes; each made when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from dagrid.cli.output import Output
from dagrid.config import Config, expanded
from dagrid.errors import InvalidSettingError

if TYPE_CHECKING:
    from datetime import tzinfo
    from pathlib import Path

    from dagrid.history import History


class Call:
    """What a command is given.

    Args:
        config: the settings.
        command: the name of the command.
    """

    def __init__(self, config: Config, command: str) -> None:
        self.config = config
        self.command = command
        self._opened = self._writes = False

    @cached_property
    def out(self) -> Output:
        """Where it writes. Raises InvalidSettingError."""
        self._writes = True
        return Output(self.config["quiet"], self.config["json"], self.zone)

    @cached_property
    def zone(self) -> tzinfo | None:
        """The time zone of times that are shown and given. Raises InvalidSettingError."""
        if not self.config["tz"]:
            return None
        from dagrid.config.times import zone

        said = self.config.value("tz")
        try:
            return zone(said.value)
        except ValueError:
            raise InvalidSettingError(
                f"{said.named} is a time zone such as Europe/Zurich, not {said.value!r}."
            ) from None

    @cached_property
    def history(self) -> History:
        """The runs of the home. Raises InvalidSettingError."""
        from dagrid.history import History

        self._opened = True
        return History(self.config.home, self.config["store"])

    @property
    def dags(self) -> Path:
        """The folder where workflows are looked for by name. Raises InvalidSettingError."""
        said = self.config["paths.dags_dir"]
        return expanded(said) if said else self.config.home / "dags"

    @contextmanager
    def handed_on(self) -> Iterator[None]:
        """Let what is started meanwhile find the same home, settings and store, also where flags have said them."""
        own = self.config.whereabouts()
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def close(self) -> None:
        """Close what was opened."""
        if self._opened:
            self.history.close()
        if self._writes:
            self.out.close()
