"""Steps of type file: what they do to real files, and what they refuse to do."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

from dagrid.errors import StepError
from dagrid.workflow.steps import filing
from tests.steps.conftest import wrong


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with files, in which functions run as a warm process runs them."""
    folder = tmp_path / "place"
    (folder / "sub" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "c.csv", "sub/d.txt", "sub/deep/e.txt"):
        (folder / name).write_text(name)
    monkeypatch.chdir(folder)
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def test_a_step_writes_copies_and_reads(perform, tmp_path):
    text = "params: [WHO=you]\nsteps: [{{type: file, command: {}, config: {{{}}}}}]"
    assert json.loads(
        perform(text.format("write", "path: out/x.txt, content: 'hi ${WHO}', createDirs: true, mode: '0640'")).out
    )
    path = tmp_path / "out" / "x.txt"
    assert path.read_text() == "hi you"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not perform(text.format("copy", "source: out/*.txt, destination: copies/, createDirs: true")).error
    assert perform(text.format("read", "path: copies/x.txt")).out == "hi you"
    assert json.loads(perform(text.format("stat", "path: out/x.txt")).out)["size"] == 6
    ended = perform(text.format("write", "path: out/x.txt, content: again"))
    assert "is there already; set overwrite: true" in ended.error
    assert not ended.retryable
    script = "steps: [{type: file, config: {operation: write, path: s.txt}, script: 'from ${HOME}'}]"
    assert not perform(script).error
    assert (tmp_path / "s.txt").read_text() == f"from {os.environ['HOME']}"


def test_copies_of_folders_and_globs(place, capfd):
    filing.copy(["*.txt", "sub"], "to/", recursive=True, create_dirs=True)
    assert files(place / "to") == ["a.txt", "b.txt", "sub/d.txt", "sub/deep/e.txt"]
    assert len(json.loads(capfd.readouterr().out)) == 3
    with pytest.raises(StepError, match="set recursive: true"):
        filing.copy(["sub"], "other")
    with pytest.raises(StepError, match="cannot be copied into itself"):
        filing.copy(["sub"], "sub/deep/", recursive=True)
    with pytest.raises(StepError, match="cannot all become 'one'"):
        filing.copy(["*.txt"], "one")
    with pytest.raises(StepError, match="Two files would become"):
        filing.copy(["a.txt", "to/a.txt"], "sub/")
    with pytest.raises(StepError, match="set createDirs: true"):
        filing.copy(["a.txt"], "none/a.txt")
    for append in (False, True):
        with pytest.raises(StepError, match=r"There is no folder .*none'; set createDirs: true"):
            filing.write("none/a.txt", "x", append=append)
    with pytest.raises(StepError, match="is there already"):
        filing.copy(["a.txt"], "b.txt")
    assert (place / "b.txt").read_text() == "b.txt"
    filing.copy(["a.txt"], "b.txt", overwrite=True)
    assert (place / "b.txt").read_text() == "a.txt"


def test_links_stay_links(place, tmp_path):
    (tmp_path / "outside").write_text("outside")
    (place / "link").symlink_to(tmp_path / "outside")
    filing.copy(["link"], "copied")
    assert os.readlink("copied") == str(tmp_path / "outside")
    filing.copy(["link"], "followed", follow=True)
    assert not os.path.islink("followed")
    assert (place / "followed").read_text() == "outside"


def test_a_folder_with_links_is_copied_again_over_itself(place):
    """What is deployed a second time has the same links in it, and they are replaced as files are."""
    (place / "sub" / "link").symlink_to("d.txt")
    (place / "sub" / "more").symlink_to("deep")
    filing.copy(["sub"], "to/", recursive=True, create_dirs=True)
    (place / "sub" / "link").unlink()
    (place / "sub" / "link").symlink_to("deep/e.txt")
    (place / "sub" / "d.txt").write_text("new")
    with (place / "to" / "sub" / "d.txt").open() as held:
        filing.copy(["sub"], "to/", recursive=True, overwrite=True)
        assert held.read() == "sub/d.txt"  # who reads the old one has all of it
    assert os.readlink("to/sub/link") == "deep/e.txt"
    assert os.readlink("to/sub/more") == "deep"
    assert (place / "to" / "sub" / "d.txt").read_text() == "new"


def test_a_move_to_another_file_system_replaces_files_as_a_whole(place, monkeypatch):
    replace = os.replace

    def apart(source, target):
        if "place" in source and os.path.basename(source) in ("a.txt", "sub", "link"):
            raise OSError(errno.EXDEV, "Invalid cross-device link", source, None, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", apart)
    os.symlink("nowhere", "link")
    here = [str(place / name) for name in ("a.txt", "sub", "link")]
    (place / "to").mkdir()
    (place / "to" / "a.txt").write_text("old")
    with (place / "to" / "a.txt").open() as held:
        filing.move(here, "to/", overwrite=True)
        assert held.read() == "old"
    assert files(place) == ["b.txt", "c.csv", "to/a.txt", "to/link", "to/sub/d.txt", "to/sub/deep/e.txt"]
    assert (place / "to" / "a.txt").read_text() == "a.txt"
    with pytest.raises(StepError, match=r"'b\.txt': Not a directory|'.*b\.txt': Not a directory"):
        filing.move(["to/sub"], "b.txt", overwrite=True)


def test_a_file_that_is_replaced_keeps_its_rights(place):
    """A file that only its owner may read does not become one for all because something else is in it."""
    (place / "a.txt").chmod(0o600)
    filing.write("a.txt", "new", overwrite=True)
    assert stat.S_IMODE((place / "a.txt").stat().st_mode) == 0o600
    filing.write("a.txt", "new", overwrite=True, mode=0o640)
    assert stat.S_IMODE((place / "a.txt").stat().st_mode) == 0o640


def test_errors_name_the_file_that_was_said(place):
    """And not one of ours beside it, which nobody knows."""
    with pytest.raises(StepError, match=r"/place/sub': Is a directory\.$"):
        filing.write("sub", "x", overwrite=True)
    os.mkfifo("pipe")
    with pytest.raises(StepError, match=r"^`pipe` is a named pipe"):
        filing.copy(["pipe"], "other")


def test_names_that_are_no_utf_8_are_listed_as_they_are(place, capfdbinary):
    name = os.fsencode(place / "sub") + b"/caf\xe9"
    os.rename("sub/d.txt", name)
    filing.show([str(place / "sub")])
    assert name in capfdbinary.readouterr().out


def test_one_file_is_written_at_once(perform, tmp_path):
    """The others of a list would silently not be there."""
    step = "steps: [{type: file, command: '%s', config: {path: [a, b], content: x}}]"
    assert "`write` writes one file; make a step of each" in wrong(step % "write")[0]
    assert perform("params: [W=write]\n" + step % "$W").error == "`write` writes one file; make a step of each."
    assert not (tmp_path / "a").exists()


def test_moves(place):
    filing.move(["*.txt"], "sub/")
    assert files(place) == ["c.csv", "sub/a.txt", "sub/b.txt", "sub/d.txt", "sub/deep/e.txt"]
    filing.move(["sub"], "renamed")
    assert (place / "renamed" / "deep" / "e.txt").exists()
    with pytest.raises(StepError, match="cannot be moved into itself"):
        filing.move(["renamed"], "renamed/deep/")
    with pytest.raises(StepError, match="4 files would be moved, and the limit is 1"):
        filing.move(["renamed/*.txt", "c.csv"], "renamed/deep/", limit=1)


def test_deletes_have_bounds(place, tmp_path, monkeypatch):
    """A wrong variable in a path must not take a home or a whole disk with it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = files(place)
    for path in ("/", ".", "..", str(home), str(tmp_path), f"{home}/.", str(place)):
        with pytest.raises(StepError, match="is not deleted"):
            filing.delete([path], str(place), recursive=True)
    with pytest.raises(StepError, match="is not empty; set recursive: true"):
        filing.delete(["sub"], str(place))
    with pytest.raises(StepError, match=r"6 files would be deleted, and the limit is 3\. Set limit: 6"):
        filing.delete(["*.txt", "sub"], str(place), recursive=True, limit=3)
    with pytest.raises(StepError, match="There is nothing at 'no-such'"):
        filing.delete(["a.txt", "no-such"], str(place))
    filing.delete(["sub"], str(place), recursive=True, dry_run=True)
    assert files(place) == before
    filing.delete(["no-such"], str(place), missing_ok=True)
    filing.delete(["*.txt", "sub"], str(place), recursive=True)
    assert files(place) == ["c.csv"]


def test_a_deleted_link_leaves_what_it_points_to(place, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "x").write_text("x")
    (place / "link").symlink_to(kept)
    (place / "sub" / "link").symlink_to(kept)
    filing.delete(["link", "sub"], str(place), recursive=True)
    assert (kept / "x").read_text() == "x"


def test_lists_and_stats(place, capfd):
    def told(fn, *args, **settings):
        fn(*args, **settings)
        return json.loads(capfd.readouterr().out)

    assert told(filing.show, ["."]) == ["./a.txt", "./b.txt", "./c.csv"]
    assert told(filing.show, ["sub"], recursive=True) == ["sub/d.txt", "sub/deep/e.txt"]
    assert told(filing.show, ["sub"], recursive=True, folders=True) == ["sub/d.txt", "sub/deep", "sub/deep/e.txt"]
    assert told(filing.show, ["**/*.txt"]) == ["a.txt", "b.txt", "sub/d.txt", "sub/deep/e.txt"]
    assert told(filing.show, ["."], recursive=True, pattern="deep/*.txt") == []
    assert told(filing.show, ["sub"], recursive=True, pattern="deep/*.txt") == ["sub/deep/e.txt"]
    assert told(filing.stat, ["a.txt"])["type"] == "file"
    assert [one["type"] for one in told(filing.stat, ["a.txt", "sub"])] == ["file", "folder"]
    assert told(filing.stat, ["none"], missing_ok=True) == {"path": "none", "exists": False}


def test_reads(place, capfd):
    filing.read(["*.txt"])
    assert capfd.readouterr().out == "a.txtb.txt"
    filing.read(["a.txt"], whole=True)
    assert json.loads(capfd.readouterr().out) == [{"path": "a.txt", "bytes": 5, "content": "a.txt"}]
    with pytest.raises(StepError, match="has 5 bytes, and maxBytes is 4"):
        filing.read(["a.txt"], most=4)
    with pytest.raises(StepError, match="is a folder"):
        filing.read(["sub"])


def test_a_write_that_fails_leaves_the_old_file(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StepError, match="No space left on device"):
        filing.write("a.txt", "new", overwrite=True)
    assert (place / "a.txt").read_text() == "a.txt"
    assert files(place) == ["a.txt", "b.txt", "c.csv", "sub/d.txt", "sub/deep/e.txt"]
    filing.write("a.txt", "+", append=True)
    assert (place / "a.txt").read_text() == "a.txt+"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: file}", "a step of type file needs an operation; write command: one of copy, move"),
        ("{type: file, command: cpy}", "there is no operation 'cpy'. Did you mean 'copy'? There are: copy, move"),
        (
            "{type: file, command: copy, config: {source: a}}",
            "copy needs destination; write destination: ... in the config",
        ),
        ("{type: file, command: write, config: {path: a}}", "it is not said what is written"),
        (
            "{type: file, command: mkdir, config: {path: a, mode: rwx}}",
            "'mode' must be rights in octal, such as '0640', not 'rwx'",
        ),
        ("{type: file, config: {operation: stta, path: a}}", "'operation' must be one of copy"),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
