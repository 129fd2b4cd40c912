"""The functions behind steps of type file. They run in warm processes, and know files alone.

Each prints one JSON value, but for `read`, which prints the file. What could do harm is refused: the folder of the step, what is
above it, a home folder and the root are neither moved nor deleted, and links are never followed when something is deleted.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import json
import os
import shutil
import stat as modes
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from dagrid.errors import StepError
from dagrid.workflow.steps.writing import emit

_CHUNK = 1 << 20


def copy(
    sources: Sequence[str],
    destination: str,
    *,
    recursive: bool = False,
    overwrite: bool = False,
    create_dirs: bool = False,
    follow: bool = False,
    dry_run: bool = False,
) -> None:
    """Copy files, and with `recursive` folders.

    Raises:
        StepError: a source is not there, or what is there already is not to be replaced.
    """
    with _told():
        done = []
        for source, target in _pairs(_found(sources), destination, create_dirs, dry_run):
            is_folder = os.path.isdir(source) and (follow or not os.path.islink(source))
            if is_folder and not recursive:
                raise StepError(f"{source!r} is a folder; set recursive: true to copy it.", retryable=False)
            if _is_in(target, source) or os.path.realpath(source) == os.path.realpath(target):
                raise StepError(f"{source!r} cannot be copied into itself.", retryable=False)
            _free(target, overwrite or is_folder)
            if is_folder and os.path.lexists(target) and not overwrite:
                raise StepError(f"{target!r} is there already; set overwrite: true to copy into it.", retryable=False)
            if not dry_run:
                if is_folder:
                    _copy_folder(source, target, follow)
                else:
                    _copy_file(source, target, follow)
            done.append({"source": source, "destination": target})
        _say(done)


def move(
    sources: Sequence[str],
    destination: str,
    *,
    recursive: bool = False,  # noqa: ARG001  # a folder is moved whole in any case
    overwrite: bool = False,
    create_dirs: bool = False,
    limit: int = 0,
    dry_run: bool = False,
) -> None:
    """Move files and folders.

    Raises:
        StepError: a source is not there, is not to be moved, or what is there already is not to be replaced.
    """
    with _told():
        found = _found(sources)
        _bounded(found, limit, "moved")
        for source in found:
            _harmless(source, os.getcwd(), "moved")
        done = []
        for source, target in _pairs(found, destination, create_dirs, dry_run):
            if os.path.abspath(source) == os.path.abspath(target):
                continue
            if _is_in(target, source):
                raise StepError(f"{source!r} cannot be moved into itself.", retryable=False)
            _free(target, overwrite)
            if os.path.isdir(target) and not os.path.islink(target):
                raise StepError(f"{target!r} is a folder, and is not replaced; delete it first.", retryable=False)
            if not dry_run:
                _move(source, target)
            done.append({"source": source, "destination": target})
        _say(done)


def delete(
    sources: Sequence[str],
    folder: str,
    *,
    recursive: bool = False,
    missing_ok: bool = False,
    limit: int = 0,
    dry_run: bool = False,
) -> None:
    """Delete files, and with `recursive` folders with all that is in them.

    Args:
        sources: what is deleted.
        folder: that of the step, which stays.
        recursive: whether folders that are not empty are deleted.
        missing_ok: whether it is well if there is nothing.
        limit: how many files may be deleted, those in folders counted.
        dry_run: only say what would be deleted.

    Raises:
        StepError: it is not to be deleted, and nothing was.
    """
    with _told():
        found = _found(sources, missing_ok=missing_ok)
        files = 0
        for path in found:
            _harmless(path, folder, "deleted")
            if os.path.isdir(path) and not os.path.islink(path):
                if not recursive and os.listdir(path):
                    raise StepError(
                        f"The folder {path!r} is not empty; set recursive: true to delete it.", retryable=False
                    )
                files += sum(len(names) + len(folders) for _, folders, names in os.walk(path))
            files += 1
        if limit and files > limit:
            raise StepError(
                f"{files} files would be deleted, and the limit is {limit}. Set limit: {files}, or 0, if that is meant.",
                retryable=False,
            )
        for path in () if dry_run else found:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)
        _say([{"path": path} for path in found])


def mkdir(paths: Sequence[str], *, mode: int | None = None, dry_run: bool = False) -> None:
    """Make folders, and those above them; a folder that is there stays as it is."""
    with _told():
        for path in () if dry_run else paths:
            os.makedirs(path, exist_ok=True)
            if mode is not None:
                os.chmod(path, mode)
        _say([{"path": path} for path in paths])


def write(
    path: str,
    content: str,
    *,
    mode: int | None = None,
    append: bool = False,
    overwrite: bool = False,
    create_dirs: bool = False,
    dry_run: bool = False,
) -> None:
    """Write a file; it is there as a whole or not at all, unless it is appended to.

    Raises:
        StepError: it is there already and is not to be replaced, or cannot be written.
    """
    data = content.encode("utf-8", "surrogateescape")
    with _told():
        if not append:
            _free(path, overwrite)
        folder = os.path.dirname(os.path.abspath(path))
        _have(folder, create_dirs, dry_run)
        if dry_run:
            pass
        elif append:
            with open(path, "ab") as file:
                file.write(data)
            if mode is not None:
                os.chmod(path, mode)
        else:
            descriptor, part = tempfile.mkstemp(dir=folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                os.chmod(part, _rights(path) if mode is None else mode)
                os.replace(part, os.path.realpath(path))
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(part)
                raise
        _say([{"path": path, "bytes": len(data)}])


def read(sources: Sequence[str], *, most: int = 0, whole: bool = False) -> None:
    """Print files, or with `whole` JSON with their paths, sizes and contents.

    Raises:
        StepError: one is not there, is no file, or is larger than it may be.
    """
    with _told():
        told = []
        for path in _found(sources):
            if os.path.isdir(path):
                raise StepError(f"{path!r} is a folder; `list` shows what is in it.", retryable=False)
            size = os.path.getsize(path)
            if most and size > most:
                raise StepError(f"{path!r} has {size} bytes, and maxBytes is {most}.", retryable=False)
            with open(path, "rb") as file:
                if whole:
                    told.append({"path": path, "bytes": size, "content": file.read().decode("utf-8", "replace")})
                else:
                    while piece := file.read(_CHUNK):
                        emit(piece)
        if whole:
            _say(told)


def show(sources: Sequence[str], *, recursive: bool = False, pattern: str = "", folders: bool = False) -> None:
    """Print the paths of files, sorted, as a JSON list: of globs what they match, of folders what is in them."""
    with _told():
        found: list[str] = []
        for path in _found(sources):
            if not os.path.isdir(path):
                found.append(path)
                continue
            for above, inner, names in os.walk(path):
                found += [os.path.join(above, name) for name in (names + inner if folders else names)]
                if not recursive:
                    break
        chosen = [path for path in found if not pattern or _matches(path, sources, pattern)]
        emit(json.dumps(sorted(set(chosen)), ensure_ascii=False, indent=4) + "\n")


def stat(sources: Sequence[str], *, follow: bool = False, missing_ok: bool = False) -> None:
    """Print what is known of files, as JSON: one mapping, or a list of them for a glob or several paths."""
    with _told():
        told = []
        for path in _found(sources, missing_ok=missing_ok):
            found = os.stat(path) if follow else os.lstat(path)
            told.append(
                {
                    "path": path,
                    "exists": True,
                    "type": _kind(found.st_mode),
                    "size": found.st_size,
                    "mode": f"{modes.S_IMODE(found.st_mode):04o}",
                    "modified": datetime.fromtimestamp(found.st_mtime, UTC).isoformat(),
                }
            )
        if not told and len(sources) == 1:
            told = [{"path": sources[0], "exists": False}]
        _say(told[0] if len(sources) == 1 and len(told) == 1 else told)


def mode_of(text: str) -> int | None:
    """Return the rights that a text means, or None if it means none."""
    digits = text.strip().lower().removeprefix("0o")
    try:
        return int(digits, 8) if 3 <= len(digits) <= 4 else None
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the system says into an error that names the file."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename  # the first is one of ours where a file is replaced
        raise StepError(f"{name!r}: {error.strerror}." if name else f"{error}.") from None


def _found(sources: Sequence[str], *, missing_ok: bool = False) -> list[str]:
    """Return what paths and globs mean, each once."""
    found: list[str] = []
    for source in sources:
        if os.path.lexists(source):
            found.append(source)
            continue
        matching = sorted(glob.glob(source, recursive=True, include_hidden=False)) if glob.has_magic(source) else []
        if not matching and not missing_ok:
            raise StepError(f"There is nothing at {source!r}.")
        found += matching
    return list(dict.fromkeys(found))


def _pairs(found: Sequence[str], destination: str, create_dirs: bool, dry_run: bool) -> Iterator[tuple[str, str]]:
    """Yield each source with the path that it gets."""
    into = os.path.isdir(destination) or destination.endswith("/")
    if len(found) > 1 and not into:
        raise StepError(
            f"{len(found)} files cannot all become {destination!r}; end it with / to name a folder.", retryable=False
        )
    folder = destination if into else os.path.dirname(os.path.abspath(destination))
    _have(folder, create_dirs, dry_run)
    targets: set[str] = set()
    for source in found:
        target = os.path.join(destination, os.path.basename(os.path.normpath(source))) if into else destination
        if target in targets:
            raise StepError(f"Two files would become {target!r}; copy them one by one.", retryable=False)
        targets.add(target)
        yield source, target


def _have(folder: str, create_dirs: bool, dry_run: bool) -> None:
    """Make a folder that is not there, or refuse to."""
    if os.path.isdir(folder):
        return
    if not create_dirs:
        raise StepError(f"There is no folder {folder!r}; set createDirs: true to have it made.", retryable=False)
    if not dry_run:
        os.makedirs(folder, exist_ok=True)


def _copy_file(source: str, target: str, follow: bool) -> None:
    """Copy one file so that the target is there as a whole or not at all."""
    if os.path.islink(source) and not follow:
        with suppress(FileNotFoundError):
            os.unlink(target)
        os.symlink(os.readlink(source), target)
        return
    descriptor, part = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(target)))
    os.close(descriptor)
    try:
        shutil.copy2(source, part)
        os.replace(part, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _copy_folder(source: str, target: str, follow: bool) -> None:
    """Copy a folder with all that is in it, over what is there; each file and link is there as a whole or not at all."""
    os.makedirs(target, exist_ok=True)
    for entry in sorted(os.scandir(source), key=lambda one: one.name):
        path = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=follow):
            _copy_folder(entry.path, path, follow)
        else:
            _copy_file(entry.path, path, follow)
    shutil.copystat(source, target)


def _move(source: str, target: str) -> None:
    """Move a file or a folder, also to another file system."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if os.path.isdir(source) and not os.path.islink(source):
            _copy_folder(source, target, follow=False)
            shutil.rmtree(source)
        else:
            _copy_file(source, target, follow=False)
            os.unlink(source)


def _free(path: str, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise StepError(f"{path!r} is there already; set overwrite: true to replace it.", retryable=False)


def _harmless(path: str, folder: str, what: str) -> None:
    """Refuse what a workflow can hardly mean: the root, a home, the folder of the step, and what is above them."""
    real = os.path.realpath(path) if not os.path.islink(path) else os.path.abspath(path)
    for kept in (folder, os.path.expanduser("~"), "/"):
        if os.path.isabs(kept) and (real == os.path.realpath(kept) or _is_in(kept, real)):
            raise StepError(f"{path!r} is not {what}: {kept!r} is in it, or is it.", retryable=False)


def _is_in(path: str, folder: str) -> bool:
    """Return whether a path is in a folder, and not the folder itself."""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return inner != outer and os.path.commonpath([inner, outer]) == outer


def _bounded(found: Sequence[str], limit: int, what: str) -> None:
    if limit and len(found) > limit:
        raise StepError(
            f"{len(found)} files would be {what}, and the limit is {limit}. Set limit: {len(found)}, or 0, if that is meant.",
            retryable=False,
        )


def _matches(path: str, sources: Sequence[str], pattern: str) -> bool:
    names = [os.path.basename(path)]
    names += [os.path.relpath(path, source) for source in sources if os.path.isdir(source)]
    return any(fnmatch.fnmatchcase(name, pattern.replace("**/", "*").replace("**", "*")) for name in names)


def _kind(mode: int) -> str:
    if modes.S_ISLNK(mode):
        return "link"
    return "folder" if modes.S_ISDIR(mode) else "file" if modes.S_ISREG(mode) else "other"


def _rights(path: str) -> int:
    """Return the rights of the file that is there, or those that a new one has."""
    with suppress(FileNotFoundError):
        return modes.S_IMODE(os.stat(path).st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _say(told: Any) -> None:
    emit(json.dumps(told, ensure_ascii=False) + "\n")
