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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from dagrid.commands import Launch
from dagrid.execution.backends.cluster.contents import UNPACKED
from dagrid.execution.gathering import Folder, Found, unreadable
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
        files: files, folders and patterns below the folder (`Folder.named`) that are sent beside its modules; an empty list sends
            nothing at all. Modules are sent where the folder is a project: not the folder of an installation, nor a home, nor one
            so large that it cannot be meant.
        folder: of the project; by default that of the script, or the working one where there is none.

    Raises:
        InvalidSettingError: a file that is named is not there, or not below the folder.
        TransferError: a file cannot be read.
    """
    if files is not None and not files:
        return None
    folder = (folder or project_folder()).resolve()
    found = {one.path: one for one in _modules(folder)}
    found |= {one.path: one for one in named(files or (), folder)}
    return _project(folder, tuple(sorted(found.values())), _roots(folder)) if found else None


def named(files: Sequence[str | os.PathLike[str]], folder: Path | None = None) -> Iterator[Found]:
    """Yield the files of a project that names mean. Arguments and errors are those of `packed`."""
    return Folder(folder or project_folder(), skips=_skips).named(files)


@lru_cache(4)
def _project(folder: Path, found: tuple[Found, ...], roots: tuple[str, ...]) -> Project:
    """Return files as they are; as long as they do not change, they are not read again."""
    data = _zipped(folder, found)
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


def _modules(folder: Path) -> Iterable[Found]:
    """Return the files of modules below a folder."""
    if folder in (Path("/"), Path.home(), Path(tempfile.gettempdir()).resolve()) or _installed(folder):
        return ()
    found: list[Found] = []
    size = 0
    for one in Folder(folder, skips=_skips).everything():
        if one.path.endswith(".py") and not one.is_folder:
            size += one.size
            if size > LARGEST:
                return ()
            found.append(one)
    return found


def _skips(entry: os.DirEntry[str]) -> bool:
    return (
        entry.name in _LEFT_OUT
        or entry.name.startswith(".")
        or Path(entry.path) == _OURS
        or Path(entry.path, "pyvenv.cfg").exists()
    )


def _installed(path: Path) -> bool:
    return path.is_relative_to(Path(sys.prefix).resolve()) or not _LEFT_OUT.isdisjoint(path.parts)


def _zipped(folder: Path, found: Sequence[Found]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for one in found:
            name = os.fsencode(one.path).decode("latin-1")  # a name need not be text; in an archive it has to be
            info = zipfile.ZipInfo(f"{name}/" if one.is_folder else name, _WHEN)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if one.is_folder or one.mode & 0o100 else 0o644) << 16
            try:
                archive.writestr(info, b"" if one.is_folder else (folder / one.path).read_bytes())
            except FileNotFoundError:
                continue  # it has gone
            except OSError as error:
                raise unreadable(str(folder / one.path), error) from error
    return out.getvalue()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a project into a folder, which is there as a whole or not at all; one that is there already is left alone."""
    if folder.is_dir():
        return
    made = Path(tempfile.mkdtemp(prefix="unpacking-", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as files:
            for info in files.infolist():
                info.filename = os.fsdecode(info.filename.encode("latin-1"))
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
        """Unpack the project, once for all runs that have it, where its modules are found, and once for this one to run in."""
        work = folder / "work"
        if not self.digest:
            work.mkdir()
            return ProjectSurroundings((), str(work), self.artifacts)
        archive = content(self.digest)
        unpack(archive, work)
        unpacked = archive.with_name(f"{archive.name}{UNPACKED}")
        unpack(archive, unpacked)
        path = tuple(str(unpacked / root) if root != "." else str(unpacked) for root in self.roots)
        return ProjectSurroundings(path, str(work), self.artifacts)


@dataclass(slots=True)
class ProjectSurroundings:
    """The project on a worker, and a working folder with its files for the calls of a run."""

    path: tuple[str, ...]
    folder: str
    artifacts: Artifacts | None = None

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Let a command run in a folder that is the run's own, unless it says where."""

        def call(*args: Any, **kwargs: Any) -> Any:
            found = fn(*args, **kwargs)
            return self._steps(found) if isinstance(found, Generator) else self._placed(found)

        return call

    def _placed(self, thing: Any) -> Any:
        return (
            msgspec.structs.replace(thing, cwd=self.folder)
            if isinstance(thing, Launch) and thing.cwd is None
            else thing
        )

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
