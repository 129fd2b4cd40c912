"""The project of a Python graph, packed by content so that its modules are found on workers, and unpacked there.

What travels are the files below one folder that are modules of Python or were named; what is installed is taken to be installed
on the workers too. It knows files only.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from dagrid.commands import Launch
from dagrid.errors import InvalidSettingError
from dagrid.ports import Artifacts

LARGEST = 64 << 20
"""Bytes that a project may have, unpacked; who has more says what of it is wanted."""
_WHEN = (1980, 1, 1, 0, 0, 0)
_OURS = Path(__file__).resolve().parents[4]
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Project:
    """A project in a file: the same bytes for the same files, wherever and whenever it is packed.

    Attributes:
        digest, data: of the file.
        roots: where its modules are found, relative to its folder.
    """

    digest: bytes
    data: bytes
    roots: tuple[str, ...]


def packed(files: Sequence[str | os.PathLike[str]] | None = None, folder: Path | None = None) -> Project | None:
    """Return the project of this program, or None if there is nothing to send.

    Args:
        files: files and folders to send, below the folder; by default the modules of Python there, and nothing where the folder
            is no project: the folder of an installation, a home, or one so large that it cannot be meant.
        folder: of the project; by default that of the script, or the working one where there is none.

    Raises:
        InvalidSettingError: a file that is named is not there, or not below the folder.
    """
    folder = (folder or project_folder()).resolve()
    if files is None:
        found = _modules(folder)
    else:
        found = {}
        for name in files:
            found.update(_named(folder, Path(name)))
    if not found:
        return None
    stamps = [(name, str(path), path.stat().st_mtime_ns, path.stat().st_size) for name, path in sorted(found.items())]
    return _project(tuple(stamps), _roots(folder))


@lru_cache(4)
def _project(stamps: tuple[tuple[str, str, int, int], ...], roots: tuple[str, ...]) -> Project:
    """Return files as they are; as long as they do not change, they are not read again."""
    data = _zipped({name: Path(path) for name, path, _, _ in stamps})
    return Project(sha256(data).digest(), data, roots)


def project_folder() -> Path:
    """Return the folder of the script, if the program is one; else the working folder."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None or Path(file).suffix != ".py":
        return Path.cwd()
    return Path.cwd() if _installed(Path(file).resolve()) else Path(file).resolve().parent


def _roots(folder: Path) -> tuple[str, ...]:
    """Return the folders of a project in which modules are looked for, relative to it; that of dagrid is not of the project."""
    found = ["."]
    for entry in sys.path:
        path = Path(entry).resolve()
        if path != folder and path != _OURS and path.is_relative_to(folder) and path.is_dir() and not _installed(path):
            found.append(path.relative_to(folder).as_posix())
    return tuple(dict.fromkeys(found))


def _modules(folder: Path) -> dict[str, Path]:
    """Return the files of modules below a folder by their names there."""
    if folder in (Path("/"), Path.home(), Path(tempfile.gettempdir()).resolve()) or _installed(folder):
        return {}
    found: dict[str, Path] = {}
    size = 0
    for path in _walk(folder):
        if path.suffix == ".py":
            size += path.stat().st_size
            if size > LARGEST:
                return {}
            found[path.relative_to(folder).as_posix()] = path
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not (name in _LEFT_OUT or name.startswith(".") or Path(root, name) == _OURS)
            and not Path(root, name, "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file():
                yield path


def _named(folder: Path, name: Path) -> dict[str, Path]:
    path = (name if name.is_absolute() else folder / name).resolve()
    if not path.is_relative_to(folder) or not path.exists():
        raise InvalidSettingError(
            f"There is no {str(name)!r} below {str(folder)!r}. Name files and folders of the project, relative to that folder."
        )
    files = _walk(path) if path.is_dir() else [path]
    return {file.relative_to(folder).as_posix(): file for file in files}


def _installed(path: Path) -> bool:
    return path.is_relative_to(Path(sys.prefix).resolve()) or not _LEFT_OUT.isdisjoint(path.parts)


def _zipped(files: Mapping[str, Path]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, path in sorted(files.items()):
            info = zipfile.ZipInfo(name, _WHEN)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            archive.writestr(info, path.read_bytes())
    return out.getvalue()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a project into a folder, which is there as a whole or not at all; one that is there already is left alone."""
    if folder.is_dir():
        return
    made = Path(tempfile.mkdtemp(prefix="unpacking-", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as files:
            for info in files.infolist():
                path = files.extract(info, made)
                os.chmod(path, info.external_attr >> 16)
        made.rename(folder)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not folder.is_dir():
            raise


@dataclass(frozen=True, slots=True)
class ProjectKit:
    """What the calls of a Python graph need around them: the project that they come from (`dagrid.ports.Kit`).

    Attributes:
        digest: of the packed project; empty: there is none.
        roots: where its modules are found, relative to its folder.
        artifacts: where large values are kept, if not with the coordinator.
    """

    digest: bytes
    roots: tuple[str, ...] = ()
    artifacts: Artifacts | None = None

    @property
    def contents(self) -> Sequence[bytes]:
        return [self.digest] if self.digest else []

    def arrive(self, folder: Path, content: Callable[[bytes], Path], labels: Mapping[str, str]) -> ProjectSurroundings:
        """Unpack the project, once for all runs that have it; its modules are found there."""
        if not self.digest:
            return ProjectSurroundings((), folder / "work", None, self.artifacts)
        archive = content(self.digest)
        unpacked = archive.parent / f"{archive.name}.unpacked"
        unpack(archive, unpacked)
        path = tuple(str(unpacked / root) if root != "." else str(unpacked) for root in self.roots)
        return ProjectSurroundings(path, folder / "work", archive, self.artifacts)


@dataclass(slots=True)
class ProjectSurroundings:
    """The project on a worker, and a working folder with its files for the commands of a run."""

    path: tuple[str, ...]
    work: Path
    archive: Path | None
    artifacts: Artifacts | None = None

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Let a command run in a folder that is the run's own, unless it says where."""
        if self.archive is not None:
            unpack(self.archive, self.work)
        else:
            self.work.mkdir(exist_ok=True)

        def call(*args: Any, **kwargs: Any) -> Any:
            found = fn(*args, **kwargs)
            return self._steps(found) if isinstance(found, Generator) else self._placed(found)

        return call

    def _placed(self, thing: Any) -> Any:
        return replace(thing, cwd=self.work) if isinstance(thing, Launch) and thing.cwd is None else thing

    def _steps(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        try:
            thing = next(steps)
            while True:
                try:
                    came = yield self._placed(thing)
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - the task is told
                    thing = steps.throw(error)
                else:
                    thing = steps.send(came)
        except StopIteration as end:
            return end.value
        finally:
            with suppress(RuntimeError):
                steps.close()

    def close(self) -> None:
        """The folder goes with the run."""
