"""What the place of a value is, what is left alone there, and what an address that is none is told."""

from __future__ import annotations

import sys

import pytest

from dagrid.errors import StoreError
from dagrid.stores import open_artifacts
from dagrid.stores.artifacts import FolderArtifacts, FsspecArtifacts


@pytest.fixture(params=["folder", "fsspec"])
def artifacts(request, tmp_path):
    """The two ways in which a folder can be used."""
    return FolderArtifacts(tmp_path) if request.param == "folder" else FsspecArtifacts(f"local://{tmp_path}")


def test_what_others_have_put_there_is_left_alone(artifacts, tmp_path):
    """A folder may hold the user's own files under the names of our keys: they are not values."""
    (tmp_path / "run").mkdir()
    theirs = [tmp_path / "notes.txt", tmp_path / "run" / "value"]
    for file in theirs:
        file.write_text("mine")
    for key in ("notes.txt", "run/value", "run"):
        assert artifacts.get(key) is None
        artifacts.delete(key)
        artifacts.put(key, b"ours")
        artifacts.delete(key)
        assert artifacts.get(key) is None
    assert [file.read_text() for file in theirs] == ["mine", "mine"]


def test_both_ways_find_the_same_values(tmp_path):
    """So that a folder can be copied to a bucket, and back."""
    FolderArtifacts(tmp_path).put("run/value", b"one")
    assert FsspecArtifacts(f"local://{tmp_path}").get("run/value") == b"one"
    assert (tmp_path / "run" / "@value").read_bytes() == b"one"


def test_nothing_but_values_is_left_behind(tmp_path):
    """The drafts are gone, also that of a value which could not be moved to its place."""
    artifacts = FolderArtifacts(tmp_path)
    artifacts.put("a/b", b"one")
    (tmp_path / "a" / "@c" / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match="a/c"):
        artifacts.put("a/c", b"two")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["@b", "@c"]


def test_what_the_disk_says_is_told_with_the_key(artifacts, tmp_path):
    """Here a folder stands where the value should be."""
    (tmp_path / "a" / "@b").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"'a/b' cannot be reached in .*Look at the place"):
        artifacts.get("a/b")


def test_open_artifacts_by_path_and_by_url(tmp_path, monkeypatch):
    """All of these are the same folder; nothing is made before something is put there."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my values"
    places = [folder, str(folder), "my values", f"file://{tmp_path}/my%20values"]
    found = [open_artifacts(place) for place in places]
    assert all(isinstance(artifacts, FolderArtifacts) for artifacts in found)
    assert not folder.exists()
    found[0].put("a", b"one")
    assert [artifacts.get("a") for artifacts in found] == [b"one"] * len(found)


def test_open_artifacts_by_another_url(tmp_path):
    """The rest is fsspec's."""
    artifacts = open_artifacts(f"memory:/{tmp_path}")
    assert isinstance(artifacts, FsspecArtifacts)
    artifacts.put("a/b", b"one")
    assert open_artifacts(f"memory:/{tmp_path}").get("a/b") == b"one"
    assert open_artifacts(f"memory:/{tmp_path}/a").get("b") == b"one"


def test_a_scheme_that_nobody_knows():
    """An error of ours with the URL in it."""
    with pytest.raises(StoreError, match="nowhere://bucket is no place"):
        open_artifacts("nowhere://bucket")


def test_without_fsspec(monkeypatch):
    """The remedy is a command to copy."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StoreError, match=r"s3://bucket needs fsspec.*pip install 'dagrid\[fsspec\]'"):
        open_artifacts("s3://bucket")


def test_without_what_a_url_needs(monkeypatch):
    """fsspec is there, and the package for this scheme is not: its name is in the message."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreError, match=r"s3://bucket needs a package that is not installed: .*s3fs"):
        open_artifacts("s3://bucket")


def test_an_empty_place():
    """It would be the current folder, by mistake."""
    with pytest.raises(StoreError, match="give its path"):
        open_artifacts("")
