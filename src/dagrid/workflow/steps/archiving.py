"""The functions behind steps of type archive. They run in warm processes, and know files alone."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath
from typing import IO, Any

from dagrid.errors import StepError
from dagrid.workflow.steps.writing import emit, note

FORMATS = {
    "zip": (".zip",),
    "tar": (".tar",),
    "tar.gz": (".tar.gz", ".tgz"),
    "tar.bz2": (".tar.bz2", ".tbz2"),
    "tar.xz": (".tar.xz", ".txz"),
    "tar.zst": (".tar.zst", ".tzst"),
}
"""The formats, with the endings of their files."""
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
_MOST_ZSTD = 19
_CHUNK = 1 << 20


def format_of(path: str) -> str:
    """Return the format that the name of a file says, or nothing."""
    name = path.lower()
    return next((known for known, endings in FORMATS.items() if name.endswith(endings)), "")


def create(
    sources: Sequence[str],
    destination: str,
    *,
    format: str,
    level: int = -1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip_components: int = 0,
    preserve_paths: bool = True,
    follow: bool = False,
    tolerant: bool = False,
    verbose: bool = False,
    dry_run: bool = False,
) -> None:
    """Make an archive. It is there as a whole or not at all, and one that was there before is replaced.

    Raises:
        StepError: a source is not there, or the archive cannot be written.
    """
    if format not in FORMATS:
        raise StepError(f"{destination!r} says no format; write format: one of {', '.join(FORMATS)}.", retryable=False)
    wanted = _each_once(
        _wanted(sources, include, exclude, strip_components, preserve_paths, follow, os.path.abspath(destination))
    )
    count = size = 0
    target = os.devnull if dry_run else f"{destination}.part{os.getpid()}"
    try:
        if not dry_run:
            os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
        with ExitStack() as closing:
            add = None if dry_run else closing.enter_context(_writer(target, format, level, follow))
            for path, name in wanted:
                if verbose:
                    note(name)
                try:
                    if add is not None:
                        add(path, name)
                    count, size = count + 1, size + (os.path.getsize(path) if os.path.isfile(path) else 0)
                except (OSError, UnicodeEncodeError) as error:
                    _tolerate(tolerant, path, error)
        if not dry_run:
            os.replace(target, destination)
    except OSError as error:
        raise StepError(f"The archive {destination!r} cannot be made: {error.strerror or error}.") from None
    finally:
        if not dry_run:
            with suppress(FileNotFoundError):
                os.unlink(target)
    _say(operation="create", archive=destination, format=format, entries=count, bytes=size)


def extract(
    source: str,
    destination: str,
    *,
    format: str = "",
    password: str = "",
    verify: bool = False,
    overwrite: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip_components: int = 0,
    preserve_paths: bool = True,
    tolerant: bool = False,
    verbose: bool = False,
    dry_run: bool = False,
) -> None:
    """Take an archive apart. No path, and no link, leads out of the destination.

    Raises:
        StepError: it is no archive, a path leads out of the destination, which cannot be made, or a file is there already.
    """
    if verify:
        for _ in _entries(source, format, password, whole=True):
            pass
    try:
        if not dry_run:
            os.makedirs(destination, exist_ok=True)
    except OSError as error:
        raise StepError(f"The folder {destination!r} cannot be made: {error.strerror or error}.") from None
    root = os.path.realpath(destination)
    count = size = 0
    for entry in _entries(source, format, password):
        name = _renamed(entry.name, include, exclude, strip_components, preserve_paths, entry.is_folder)
        if not name:
            continue
        try:
            if not _is_inside(root, name):
                raise StepError(
                    f"{entry.name!r} leads out of {destination!r}; such an archive is not taken apart.", retryable=False
                )
            path = os.path.join(root, name)
            if not entry.is_folder and os.path.lexists(path) and not overwrite:
                raise StepError(
                    f"{path!r} is there already; set overwrite: true, or choose another destination.", retryable=False
                )
            if verbose:
                note(name)
            if not dry_run:
                entry.write(
                    root, name, lambda linked: _renamed(linked, (), (), strip_components, preserve_paths, False)
                )
            count, size = count + 1, size + entry.size
        except _troubles() as error:
            _tolerate(tolerant, entry.name, error)
    _say(operation="extract", archive=source, destination=destination, entries=count, bytes=size)


def show(
    source: str,
    *,
    format: str = "",
    password: str = "",
    verify: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> None:
    """Print what an archive holds, as a JSON list.

    Raises:
        StepError: it is no archive.
    """
    found = [
        {
            "name": entry.name,
            "type": "folder" if entry.is_folder else entry.kind,
            "size": entry.size,
            "mode": f"{entry.mode:04o}",
        }
        for entry in _entries(source, format, password, whole=verify)
        if _renamed(entry.name, include, exclude, 0, True, entry.is_folder)
    ]
    emit(json.dumps(found, ensure_ascii=False, indent=4) + "\n")


# What goes in ---------------------------------------------------------------------------------------------------------


def _wanted(
    sources: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str],
    strip: int,
    whole_paths: bool,
    follow: bool,
    own: str,
) -> Iterator[tuple[str, str]]:
    """Yield the files and folders that go into an archive, and what they are called there: paths below what a source names."""
    for source in sources:
        found = [source] if os.path.lexists(source) else sorted(glob.glob(source, recursive=True))
        if not found:
            raise StepError(f"There is nothing at {source!r} to be packed.", retryable=False)
        for top in found:
            base = (
                ""
                if len(sources) == 1 and found == [source] and os.path.isdir(top)
                else os.path.basename(os.path.normpath(top))
            )
            for path, name in _below(top, base, follow):
                renamed = _renamed(
                    name, include, exclude, strip, whole_paths, os.path.isdir(path) and not os.path.islink(path)
                )
                if renamed and os.path.abspath(path) != own:
                    yield path, renamed


def _each_once(wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what goes in, what several sources name only once. Raises StepError: two files would be called the same."""
    paths: dict[str, str] = {}
    for path, name in wanted:
        there = paths.setdefault(name, path)
        if os.path.abspath(there) != os.path.abspath(path) and not (os.path.isdir(there) and os.path.isdir(path)):
            raise StepError(
                f"{there!r} and {path!r} would both be {name!r} in the archive; pack the folder above them, or two archives.",
                retryable=False,
            )
    return [(path, name) for name, path in paths.items()]


def _below(top: str, base: str, follow: bool) -> Iterator[tuple[str, str]]:
    if base:
        yield top, base
    if not os.path.isdir(top) or (os.path.islink(top) and not follow):
        return
    for folder, folders, files in os.walk(top, followlinks=follow):
        folders.sort()
        inner = os.path.relpath(folder, top)
        for name in sorted([*folders, *files]):
            yield os.path.join(folder, name), os.path.normpath(os.path.join(base, inner, name)).replace(os.sep, "/")


@contextmanager
def _writer(target: str, format: str, level: int, follow: bool) -> Iterator[Callable[[str, str], None]]:
    """Return what adds a file or a folder, without what is in it, to a new archive."""
    if format == "zip":
        packing = {"compresslevel": min(level, 9)} if level >= 0 else {}
        with zipfile.ZipFile(  # type: ignore[call-overload]
            target, "x", zipfile.ZIP_DEFLATED, strict_timestamps=False, **packing
        ) as packed:

            def add(path: str, name: str) -> None:
                if os.path.islink(path) and not follow:
                    info = zipfile.ZipInfo(name)
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                    packed.writestr(info, os.readlink(path))
                else:
                    packed.write(path, name)

            yield add
        return
    with ExitStack() as closing:
        opening: Any = tarfile.open  # its overloads know each mode by itself
        if format == "tar.zst":
            file = closing.enter_context(_zstd(target, "wb", level))
            archive = closing.enter_context(opening(fileobj=file, mode="w|", dereference=follow))
        else:
            kind = "preset" if format == "tar.xz" else "compresslevel"
            packing = {} if level < 0 or format == "tar" else {kind: min(max(level, 1), 9)}
            mode = f"x:{format.partition('.')[2]}"
            archive = closing.enter_context(opening(target, mode, dereference=follow, **packing))
        yield lambda path, name: archive.add(path, name, recursive=False)


# What comes out -------------------------------------------------------------------------------------------------------


Write = Callable[[str, str, Callable[[str], str]], None]
"""Writes an entry: the destination, its path there, and what other entries are called there."""


class _Entry:
    """What an archive holds at one path."""

    def __init__(self, name: str, kind: str, size: int, mode: int, write: Write) -> None:
        self.name = name
        self.kind = kind
        self.is_folder = kind == "folder"
        self.size = size
        self.mode = mode
        self.write = write


def _entries(source: str, format: str, password: str, *, whole: bool = False) -> Iterator[_Entry]:
    """Yield what an archive holds, in its order; `whole` reads the contents too."""
    try:
        with open(source, "rb") as file:
            start = file.read(4)
        is_zip = format == "zip" or (not format and zipfile.is_zipfile(source))
        if is_zip:
            yield from _zip_entries(source, password, whole)
        else:
            yield from _tar_entries(source, start == _ZSTD, whole)
    except FileNotFoundError:
        raise StepError(f"There is no archive {source!r}.") from None
    except OSError as error:
        raise StepError(f"The archive {source!r} cannot be read: {error.strerror or error}.") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        first, *more = str(error).splitlines() or [""]
        why = f": {first}" if first and not more else ""  # else each format says why it is not that
        raise StepError(f"{source!r} is no archive that can be read, or is damaged{why}.") from None
    except RuntimeError as error:  # a password that is missing or wrong
        raise StepError(f"{source!r} cannot be read: {error}.", retryable=False) from None
    except _damages() as error:
        raise StepError(f"{source!r} is damaged: {error}.") from None


def _troubles() -> tuple[type[Exception], ...]:
    """Return what one entry may be in trouble with."""
    return (OSError, StepError, tarfile.TarError, zipfile.BadZipFile, RuntimeError, EOFError, *_damages())


def _damages() -> tuple[type[Exception], ...]:
    """Return what the modules that are loaded raise for damaged data, where that is no `OSError`."""
    found = [zlib.error]
    found += [sys.modules["lzma"].LZMAError] if "lzma" in sys.modules else []
    found += [sys.modules[name].ZstdError for name in _ZSTD_MODULES if name in sys.modules]
    return tuple(found)


def _zip_entries(source: str, password: str, whole: bool) -> Iterator[_Entry]:
    with zipfile.ZipFile(source) as archive:
        if password:
            archive.setpassword(password.encode())
        if whole and (bad := archive.testzip()) is not None:
            raise StepError(f"{source!r} is damaged at {bad!r}.")
        for info in archive.infolist():

            def write(root: str, name: str, _: Any, info: zipfile.ZipInfo = info) -> None:
                _write_zip(archive, info, root, name)

            mode = info.external_attr >> 16
            kind = "folder" if info.is_dir() else "link" if stat.S_ISLNK(mode) else "file"
            yield _Entry(info.filename, kind, info.file_size, stat.S_IMODE(mode), write)


def _write_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, root: str, name: str) -> None:
    path = os.path.join(root, name)
    mode = info.external_attr >> 16
    if info.is_dir():
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if stat.S_ISLNK(mode):
        # Made plain, so that `..` never follows on a link.
        target = os.path.normpath(archive.read(info).decode("utf-8", "surrogateescape"))
        if os.path.isabs(target) or not _is_inside(root, os.path.join(os.path.dirname(name), target)):
            raise StepError(
                f"The link {info.filename!r} leads out of the destination; such an archive is not taken apart."
            )
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(target, path)
        return
    descriptor, part = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file, archive.open(info) as opened:
            shutil.copyfileobj(opened, file, _CHUNK)
        os.chmod(part, (stat.S_IMODE(mode) & 0o755 or 0o644) | 0o600)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _tar_entries(source: str, is_zstd: bool, whole: bool) -> Iterator[_Entry]:
    if not hasattr(tarfile, "data_filter"):
        raise StepError(
            "This Python cannot take tar archives apart safely; take 3.11.4 or a newer one.", retryable=False
        )
    with ExitStack() as closing:
        if is_zstd:
            file: Any = closing.enter_context(_zstd(source, "rb"))
            archive = closing.enter_context(tarfile.open(fileobj=file, mode="r|"))
        else:
            archive = closing.enter_context(tarfile.open(source, "r:*"))
            file = archive.fileobj
        for member in archive:
            if whole and member.isreg():
                content = archive.extractfile(member)
                while content is not None and content.read(_CHUNK):
                    pass

            def write(root: str, name: str, rename: Callable[[str], str], member: tarfile.TarInfo = member) -> None:
                linked = rename(member.linkname) if member.islnk() else os.path.normpath(member.linkname)
                _write_tar(archive, member, root, name, linked)

            kind = (
                "folder"
                if member.isdir()
                else "link"
                if member.issym() or member.islnk()
                else "file"
                if member.isreg()
                else "other"
            )
            yield _Entry(member.name, kind, member.size, member.mode, write)
        while file.read(_CHUNK):
            pass  # what tells that all before it is sound stands at the end, which nobody has read yet


def _write_tar(archive: tarfile.TarFile, member: tarfile.TarInfo, root: str, name: str, linked: str) -> None:
    path = os.path.join(root, name)
    renamed = member.replace(name=name, linkname=linked, deep=False)
    try:
        if os.path.lexists(path) and not member.isdir():
            tarfile.data_filter(renamed, root)  # nothing is removed for what is not sound
            os.unlink(path)
        try:
            archive.extract(renamed, root, filter="data")
        except BaseException:
            if member.isreg():
                with suppress(OSError):
                    os.unlink(path)  # half a file looks like a whole one
            raise
    except tarfile.FilterError as error:
        raise StepError(f"{error}; such an archive is not taken apart.", retryable=False) from None


# Both -----------------------------------------------------------------------------------------------------------------


def _renamed(
    name: str, include: Sequence[str], exclude: Sequence[str], strip: int, whole_paths: bool, is_folder: bool
) -> str:
    """Return what an entry is called on the other side, empty if it is left out."""
    plain = name.rstrip("/")
    if include and not is_folder and not any(_matches(plain, pattern) for pattern in include):
        return ""
    if (include and is_folder) or any(_matches(plain, pattern) for pattern in exclude):
        return ""
    parts = PurePosixPath(plain).parts
    if not whole_paths:
        return "" if is_folder or not parts else parts[-1]
    return "/".join(part for part in parts[strip:] if part != "/") if not plain.startswith("/") or strip else plain


def _matches(name: str, pattern: str) -> bool:
    """Return whether a glob means a path: as a whole, its last part, or a folder above it; `**` is any number of folders."""
    parts = name.split("/")
    paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    pattern = pattern.rstrip("/")
    if pattern.startswith("**/") and _matches(name, pattern[3:]):
        return True
    if "/" not in pattern:
        return any(fnmatch.fnmatchcase(part, pattern) for part in parts)
    return any(fnmatch.fnmatchcase(path, pattern.replace("**", "*")) for path in paths)


def _is_inside(root: str, name: str) -> bool:
    """Return whether a path in a folder stays there, whatever links are on its way."""
    if os.path.isabs(name):
        return False
    whole = os.path.join(root, name)
    real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    return os.path.commonpath([root, os.path.normpath(real)]) == root


@contextmanager
def _zstd(path: str, mode: str, level: int = -1) -> Iterator[IO[bytes]]:
    """Return an open file in the format of Zstandard."""
    found: Any = None
    for name in _ZSTD_MODULES:
        try:
            found = __import__(name, fromlist=["open"])
            break
        except ImportError:
            continue
    if found is None:
        raise StepError("Archives in tar.zst need a package: pip install 'dagrid[archive]'", retryable=False)
    options = {}
    if "w" in mode:
        kinds = found.CompressionParameter
        options = {kinds.checksum_flag: 1} | ({kinds.compression_level: min(level, _MOST_ZSTD)} if level >= 0 else {})
    with found.open(path, mode, options=options) as file:
        yield file


def _tolerate(tolerant: bool, name: str, error: Exception) -> None:
    """Say what went wrong with an entry, or raise it."""
    why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, UnicodeEncodeError):
        why = "its name is no UTF-8, which a zip must have; make a tar"
    if not tolerant:
        raise error if isinstance(error, StepError) else StepError(f"{name!r}: {why}.") from None
    note(f"{name}: {why}")


def _say(**said: Any) -> None:
    emit(json.dumps(said, ensure_ascii=False) + "\n")
