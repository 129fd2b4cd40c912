"""Functions, files and values are known by their digest: sent once, believed when they are whole, and dropped in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from textwrap import dedent

import pytest

from dagrid.errors import BackendError, TamperedError
from dagrid.execution.backends.cluster import contents as contents_module
from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.contents import SMALL, UNPACKED, Contents, parts
from dagrid.execution.backends.cluster.outbox import PIECE
from tests.fleet.wire import PATIENCE

LARGE = bytes(range(256)) * (3 * PIECE // 256) + b"end"


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return Contents(tmp_path / "contents")


def digest_of(data: bytes) -> bytes:
    return sha256(data).digest()


@pytest.mark.parametrize("data", [b"", b"small", bytes(SMALL), bytes(SMALL + 1), LARGE])
def test_what_goes_in_pieces_arrives_whole(contents: Contents, tmp_path: Path, data: bytes) -> None:
    there = Contents(tmp_path / "there")
    digest = contents.put(data)
    whole = [there.add(part) for part in contents.pieces(digest)]
    assert whole == [False] * (len(whole) - 1) + [True]
    assert there.get(digest) == data == contents.get(digest)
    assert there.path(digest).read_bytes() == data
    assert there.small(digest) == (data if len(data) <= SMALL else None)


def test_what_is_not_what_its_digest_says_is_refused(contents: Contents) -> None:
    for data in (b"small", LARGE):
        digest = digest_of(data)
        *before, last = parts(data[:-1] + b"X", digest)
        for part in before:
            assert not contents.add(part)
        with pytest.raises(TamperedError, match="something else"):
            contents.add(last)
        assert digest not in contents
    assert not list(contents.folder.iterdir()), "nothing of it may stay on the disk"


def test_a_gap_is_refused_and_a_repetition_let_go(contents: Contents) -> None:
    digest = digest_of(LARGE)
    first, second, third, last = parts(LARGE, digest)
    contents.add(first)
    with pytest.raises(TamperedError, match="does not fit"):
        contents.add(third)
    for part in (first, second, first, second, third):
        assert not contents.add(part)
    assert contents.add(last)
    assert contents.add(first), "it is here"
    assert contents.get(digest) == LARGE


def test_two_may_send_the_same_at_once(contents: Contents) -> None:
    digest = digest_of(LARGE)
    mine, theirs = list(parts(LARGE, digest)), list(parts(LARGE, digest))
    contents.add(mine[0], "a")
    for part in theirs:
        contents.add(part, "b")
    assert contents.get(digest) == LARGE
    assert contents.add(mine[1], "a")
    contents.give_up("a")
    assert [path.name for path in contents.folder.iterdir()] == [digest.hex()]


def test_what_has_come_in_part_goes_with_its_source(contents: Contents) -> None:
    part = next(parts(LARGE, digest_of(LARGE)))
    contents.add(part, "a")
    assert contents.is_coming(part.digest)
    contents.give_up("a")
    assert not contents.is_coming(part.digest)
    assert not list(contents.folder.iterdir())


def test_a_piece_that_is_larger_than_the_whole_is_refused(contents: Contents) -> None:
    with pytest.raises(TamperedError):
        contents.add(pb.Part(digest=digest_of(b"abc"), size=2, data=b"abc"))
    with pytest.raises(TamperedError):
        contents.add(pb.Part(digest=digest_of(LARGE), offset=2**62, size=2**63, data=b"abc"))


def test_what_nobody_holds_is_dropped(contents: Contents) -> None:
    digest = contents.put(LARGE)
    for holder in ("a", "b"):
        contents.hold(holder, digest)
    contents.release("a")
    contents.release("b", digest_of(b"other"))
    assert digest in contents
    contents.release("b", digest)
    assert digest not in contents
    assert not list(contents.folder.iterdir())
    with pytest.raises(KeyError):
        contents.get(digest)
    assert list(contents.pieces(digest)) == []


def test_a_small_one_goes_with_the_file_that_was_made_of_it(contents: Contents) -> None:
    """What is in memory becomes a file for who wants one, and neither stays when nobody holds it."""
    digest = contents.put(b"small")
    contents.hold("a", digest)
    assert contents.path(digest).read_bytes() == b"small"
    contents.release("a")
    assert digest not in contents
    assert not list(contents.folder.iterdir())


def test_what_is_unpacked_of_something_goes_with_it(contents: Contents) -> None:
    """Each state of a project that a worker was ever sent stayed on its disk as long as the worker."""
    digest = contents.put(LARGE)
    contents.hold("a", digest)
    path = contents.path(digest)
    (path.parent / f"{path.name}{UNPACKED}").mkdir()
    (path.parent / f"{path.name}{UNPACKED}" / "module.py").touch()
    contents.release("a")
    assert not list(contents.folder.iterdir())


def test_what_is_held_before_it_comes_stays_when_it_has_come(contents: Contents) -> None:
    contents.hold("a", digest_of(LARGE))
    for part in parts(LARGE, digest_of(LARGE)):
        contents.add(part)
    contents.release("b")
    assert digest_of(LARGE) in contents


def test_a_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    """A worker is sent the same files for run after run; it keeps as many as it may."""
    cache = Contents(tmp_path / "cache", spare=2 * SMALL + 100)
    old, used, new = (cache.put(bytes([number]) * (SMALL + 1)) for number in range(3))
    for digest in (old, used, new):
        cache.hold("run", digest)
    cache.get(old), cache.get(new), cache.get(used)
    cache.release("run")
    assert [digest in cache for digest in (old, used, new)] == [False, True, True]


def test_what_is_put_is_held_from_the_beginning(tmp_path: Path) -> None:
    """A value that was made here went, where there was much besides, before it was noted who wants it."""
    cache = Contents(tmp_path / "cache", spare=SMALL)
    digest = cache.put(LARGE, holder=1)
    other = cache.put(LARGE + LARGE, holder=2)
    cache.release(2)
    assert (digest in cache, other in cache) == (True, False)
    cache.release(1)
    assert digest not in cache
    cache.close()


def test_what_takes_long_to_write_holds_up_nobody(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of a worker waited while a large value was written, and said nothing to its coordinator."""
    small = contents.put(b"small")
    begun, go = threading.Event(), threading.Event()

    def slow(path: Path, data: bytes) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        path.write_bytes(data)

    monkeypatch.setattr(contents_module, "write", slow)
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(contents.put, LARGE)
        assert begun.wait(PATIENCE)
        with ThreadPoolExecutor(1) as reader:
            assert reader.submit(contents.get, small).result(PATIENCE) == b"small"
        assert digest_of(LARGE) not in contents
        go.set()
        assert writing.result(PATIENCE) == digest_of(LARGE)
    assert contents.get(digest_of(LARGE)) == LARGE


def test_what_finds_no_room_is_held_by_nobody(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(contents_module, "write", full)
        with pytest.raises(OSError, match="No space"):
            contents.put(LARGE, holder=1)
    digest = contents.put(LARGE, holder=2)
    contents.release(2)
    assert digest not in contents


def test_pieces_that_are_being_sent_outlive_what_they_are_of(contents: Contents) -> None:
    """A run that ends while a worker is sent its files must not break that worker's stream."""
    digest = contents.put(LARGE)
    pieces = contents.pieces(digest)
    got = [next(pieces)]
    contents.hold("a", digest)
    contents.release("a")
    got += pieces
    assert b"".join(part.data for part in got) == LARGE


def test_a_process_takes_up_what_another_one_has_left(tmp_path: Path) -> None:
    """A coordinator that was killed has values of runs that go on: whole ones are there again, as long as somebody holds them."""
    before = Contents(tmp_path / "contents")
    wanted, unwanted, torn = (before.put(bytes([number]) * (SMALL + 1)) for number in range(3))
    before.path(torn).write_bytes(b"torn by a power cut")
    before.add(next(parts(LARGE, digest_of(LARGE))))
    after = Contents(tmp_path / "contents")
    after.inherit("start")
    assert [digest in after for digest in (wanted, unwanted, torn)] == [True, True, False]
    after.hold("run", wanted)
    after.release("start")
    assert after.get(wanted) == bytes(SMALL + 1)
    assert [path.name for path in after.folder.iterdir()] == [wanted.hex()]


def test_what_heirs_hold_is_left_for_the_next_process(contents: Contents) -> None:
    """A coordinator that ends leaves the values of runs that go on, and nothing else."""
    wanted, unwanted = (contents.put(bytes([number]) * (SMALL + 1)) for number in range(2))
    contents.hold("run", wanted)
    contents.hold("here", unwanted)
    contents.close(["run", "nobody"])
    assert [path.name for path in contents.folder.iterdir()] == [wanted.hex()]
    again = Contents(contents.folder)
    again.inherit("start")
    again.close()
    assert not contents.folder.exists()


def test_a_folder_of_its_own_goes_with_its_process(tmp_path: Path) -> None:
    """Whoever forgets to close a backend, or is killed, leaves nothing for good; nor may others look into it meanwhile."""

    def process(last: str) -> list[str]:
        """Be a coordinator that ends somehow, and return what it has said."""
        text = f"""
            import os, sys
            from dagrid.execution.backends.cluster.backend import ClusterBackend
            here = ClusterBackend.listening(files=[])
            held = here.hub.contents.put(bytes(100_000))
            for path in (here.hub.contents.folder, here.hub.contents.path(held)):
                print(path, oct(path.stat().st_mode & 0o777), flush=True)
            {last}
        """
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", dedent(text)], env=env, capture_output=True, text=True, check=False
        )
        assert not done.stderr
        return done.stdout.split()

    folder, folder_mode, file, file_mode = process("os.kill(os.getpid(), 9)")
    assert Path(file).exists(), "it was killed"
    assert (folder_mode, file_mode) == ("0o700", "0o600")
    process("pass")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not Path(folder).exists()


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of temporary files is everybody's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"dagrid-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(BackendError, match="somebody else's"):
        Contents()


@pytest.mark.parametrize("data", [b"secret", LARGE])
def test_what_is_secret_is_never_in_a_file(contents: Contents, tmp_path: Path, data: bytes) -> None:
    """However large it is, it comes, is handed on and read in memory, and goes with the last one who needs it."""
    there = Contents(tmp_path / "there", spare=10 * len(LARGE))
    digest = digest_of(data)
    for each in (contents, there):
        each.hold("run", digest)
    for part in parts(data, digest, secret=True):
        contents.add(part)
        assert not list(contents.folder.iterdir())
    for part in contents.pieces(digest):
        there.add(part, "coordinator")
    assert there.get(digest) == data
    with pytest.raises(KeyError):
        there.path(digest)
    assert not list(there.folder.iterdir())
    there.release("run", digest)
    assert digest not in there
