"""Steps of type archive: what goes in comes out, and nothing gets out of the folder that is said."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import tarfile
import zipfile

import pytest

from dagrid.errors import StepError
from dagrid.workflow.steps.archiving import FORMATS, create, extract, show
from tests.steps.conftest import wrong


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "place"
    (folder / "in" / "sub").mkdir(parents=True)
    (folder / "in" / "a.txt").write_text("a" * 1000)
    (folder / "in" / "sub" / "b.log").write_text("b")
    (folder / "in" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "in" / "run.sh").chmod(0o755)
    (folder / "in" / "link").symlink_to("a.txt")
    (folder / "in" / "empty").mkdir()
    monkeypatch.chdir(folder)
    return folder


def tree(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "/"
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_what_goes_in_comes_out(place, capfd, format):
    name = f"out{FORMATS[format][-1]}"
    create(["in"], name, format=format, level=3)
    assert json.loads(capfd.readouterr().out)["entries"] == 6
    show(name)
    assert {one["name"].rstrip("/"): one["type"] for one in json.loads(capfd.readouterr().out)} == {
        "a.txt": "file", "empty": "folder", "link": "link", "run.sh": "file", "sub": "folder", "sub/b.log": "file",
    }  # fmt: skip
    extract(name, "to", verify=True)
    assert tree(place / "to") == tree(place / "in")
    assert stat.S_IMODE((place / "to" / "run.sh").stat().st_mode) & 0o111
    with pytest.raises(StepError, match="is there already; set overwrite: true"):
        extract(name, "to")
    extract(name, "to", overwrite=True)
    assert tree(place / "to") == tree(place / "in")
    assert sorted(os.listdir(".")) == ["in", name, "to"]


def test_a_step_packs_and_unpacks(perform, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("1\n")
    text = "params: [DAY=monday]\nsteps: [{{type: archive, command: {}, config: {{{}}}}}]"
    told = json.loads(perform(text.format("create", "source: data, destination: '${DAY}.tar.gz'")).out)
    assert (told["archive"], told["format"], told["entries"]) == ("monday.tar.gz", "tar.gz", 1)
    assert json.loads(perform(text.format("list", "source: monday.tar.gz")).out)[0]["name"] == "x.csv"
    assert not perform(text.format("extract", "source: monday.tar.gz, destination: back")).error
    assert (tmp_path / "back" / "x.csv").read_text() == "1\n"
    assert perform(text.format("extract", "source: none.zip")).error == "There is no archive 'none.zip'."


def test_a_path_may_begin_at_home(perform, tmp_path, monkeypatch):
    """As in steps of all other types."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "a").write_text("1")
    assert (
        perform("steps: [{type: archive, command: create, config: {source: ~/data, destination: ~/a.tar}}]").error == ""
    )
    assert (
        perform("steps: [{type: archive, command: extract, config: {source: ~/a.tar, destination: ~/to}}]").error == ""
    )
    assert (tmp_path / "home" / "to" / "a").read_text() == "1"


def test_choices_of_paths(place, capfd):
    create(["in"], "out.tar", format="tar", include=["*.txt", "sub/*.log"])
    extract("out.tar", "one")
    assert tree(place / "one") == {"a.txt": "a" * 1000, "sub": "/", "sub/b.log": "b"}
    create(["in"], "out.tar", format="tar", exclude=["sub", "*.sh", "link", "empty"])
    extract("out.tar", "two", include=["**/*.txt"])
    assert tree(place / "two") == {"a.txt": "a" * 1000}
    create(["in/sub", "in/*.txt"], "out.zip", format="zip")
    extract("out.zip", "three", strip_components=1)
    assert tree(place / "three") == {"b.log": "b"}
    extract("out.zip", "four", preserve_paths=False)
    assert tree(place / "four") == {"a.txt": "a" * 1000, "b.log": "b"}
    extract("out.zip", "five", dry_run=True)
    assert not (place / "five").exists()
    with pytest.raises(StepError, match="nothing at 'none'"):
        create(["none"], "out.zip", format="zip")


def evil_tar(path, name, kind=tarfile.REGTYPE, target="", more=()):
    with tarfile.open(path, "w") as archive:
        for member_name, member_kind, link in [*more, (name, kind, target)]:
            member = tarfile.TarInfo(member_name)
            member.type, member.linkname = member_kind, link
            data = b"" if link else b"evil"
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def evil_zip(path, name, link=""):
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        if link:
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, link or "evil")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: evil_tar(path, "../out"),
        lambda path: evil_tar(path, "/tmp/dagrid-evil"),
        lambda path: evil_tar(path, "x/../../out"),
        lambda path: evil_tar(path, "link", tarfile.SYMTYPE, "../../out"),
        lambda path: evil_tar(path, "link", tarfile.SYMTYPE, "/etc/passwd"),
        lambda path: evil_tar(path, "hard", tarfile.LNKTYPE, "../secret"),
        lambda path: evil_tar(path, "pipe", tarfile.FIFOTYPE),
        lambda path: evil_zip(path, "../out"),
        lambda path: evil_zip(path, "/tmp/dagrid-evil"),
        lambda path: evil_zip(path, "link", "../../out"),
    ],
)  # fmt: skip
def test_nothing_gets_out(place, make):
    """An archive from somewhere else must not write over files, nor link to them."""
    (place / "secret").write_text("secret")
    make("evil")
    with pytest.raises(StepError, match="such an archive is not taken apart"):
        extract("evil", "to", overwrite=True)
    assert tree(place / "to") == {}
    assert not (place / "out").exists()
    assert not os.path.exists("/tmp/dagrid-evil")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_link_that_is_there_leads_nowhere_either(place, kind):
    outside = place / "outside"
    outside.mkdir()
    (place / "to").mkdir()
    (place / "to" / "sub").symlink_to(outside)
    make = evil_tar if kind == "tar" else evil_zip
    make("evil", "sub/file")
    with pytest.raises(StepError, match="leads out of 'to'"):
        extract("evil", "to")
    assert not list(outside.iterdir())


def test_errors_may_be_tolerated(place, capfd):
    evil_tar("mixed", "fine", more=[("../out", tarfile.REGTYPE, "")])
    extract("mixed", "to", tolerant=True)
    assert tree(place / "to") == {"fine": "evil"}
    assert "leads out of" in capfd.readouterr().err


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_archive_is_said_to_be_one(place, format):
    create(["in"], "whole", format=format)
    data = bytearray((place / "whole").read_bytes())
    (place / "half").write_bytes(data[: len(data) // 2] if format != "tar" else data[:700])
    with pytest.raises(StepError, match=r"is no archive that can be read|is damaged"):
        extract("half", "to", verify=True)
    (place / "text").write_text("no archive at all")
    with pytest.raises(StepError, match=r"'text' is no archive that can be read, or is damaged\.$"):
        show("text")


def test_a_destination_that_is_a_file_is_said_to_be_one(place):
    create(["in"], "a.zip", format="zip")
    with pytest.raises(StepError, match=r"The folder 'in/a\.txt' cannot be made: File exists\."):
        extract("a.zip", "in/a.txt")


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "tar"])
@pytest.mark.parametrize("verify", [False, True])
def test_damage_within_a_file_is_no_fault_of_ours_and_leaves_no_half_of_it(place, format, verify):
    """Gzip and xz tell at their very end that all was sound, which who reads a tar never gets to; others raise errors of
    their own."""
    (place / "in" / "noise").write_bytes(random.Random(1).randbytes(300_000))
    create(["in/noise"], "whole", format=format)
    data = (place / "whole").read_bytes()
    (place / "half").write_bytes(data[:150_000])
    (place / "spoilt").write_bytes(data[:150_000] + bytes(one ^ 0x5A for one in data[150_000:150_100]) + data[150_100:])
    for name in ("half", "spoilt"):
        with pytest.raises(StepError, match=r"damaged|noise|cannot be read"):
            extract(name, name + "-to", verify=verify)
    assert not (place / "half-to" / "noise").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_level_beyond_the_highest_is_the_highest(place, format):
    """As it was for all formats but one, where it was an error of Python's."""
    create(["in"], "high", format=format, level=99)
    extract("high", "to")
    assert tree(place / "to") == tree(place / "in")


def test_two_files_that_would_be_called_the_same_are_refused(place):
    """One of them could never be had again."""
    (place / "other").mkdir()
    (place / "other" / "a.txt").write_text("another")
    with pytest.raises(StepError, match=r"'in/a\.txt' and 'other/a.txt' would both be 'a.txt' in the archive"):
        create(["in/a.txt", "other/a.txt"], "two.zip", format="zip")
    create(["in/*.txt", "in/a.txt", "./in/a.txt"], "one.tar", format="tar")
    extract("one.tar", "to")
    assert list(tree(place / "to")) == ["a.txt"]


def test_what_a_zip_cannot_say_is_said_or_made_to_fit(place, capfd):
    """A zip knows no time before 1980, and no name that is not UTF-8; a tar knows both."""
    os.utime(place / "in" / "a.txt", (0, 0))
    create(["in/a.txt"], "old.zip", format="zip")
    extract("old.zip", "to")
    assert list(tree(place / "to")) == ["a.txt"]
    (place / "odd").mkdir()
    (place / "odd" / os.fsdecode(b"caf\xe9")).write_text("x")
    create(["odd"], "odd.tar", format="tar")
    capfd.readouterr()
    show("odd.tar")
    assert "caf" in capfd.readouterr().out
    extract("odd.tar", "odd-to")
    assert os.listdir(b"odd-to") == [b"caf\xe9"]
    with pytest.raises(StepError, match="its name is no UTF-8, which a zip must have; make a tar"):
        create(["odd"], "odd.zip", format="zip")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_link_behind_a_link_does_not_lead_out(place, kind):
    """`a -> b/..` is sound as long as b is a folder; b may become a link afterwards, and then a leads to what is above."""
    if kind == "tar":
        evil_tar("evil", "b", tarfile.SYMTYPE, ".", more=[("a", tarfile.SYMTYPE, "b/..")])
    else:
        with zipfile.ZipFile("evil", "w") as archive:
            for name, target in (("a", "b/.."), ("b", ".")):
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, target)
    extract("evil", "to")
    assert (place / "to" / "a").resolve() == (place / "to").resolve()


def test_a_password_that_is_wrong_is_no_fault_of_ours(place, monkeypatch):
    """Reading all of a zip first meets it before anything else does."""
    create(["in/a.txt"], "a.zip", format="zip")

    def locked(*_):
        raise RuntimeError("File 'a.txt' is encrypted, password required for extraction")

    monkeypatch.setattr(zipfile.ZipFile, "testzip", locked)
    with pytest.raises(StepError, match=r"'a.zip' cannot be read: File 'a.txt' is encrypted, password required"):
        extract("a.zip", "to", verify=True)


def test_an_archive_is_there_as_a_whole_or_not_at_all(place, monkeypatch):
    (place / "out.zip").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StepError, match=r"'out.zip' cannot be made: No space left on device"):
        create(["in"], "out.zip", format="zip")
    assert (place / "out.zip").read_text() == "old"
    assert sorted(os.listdir(".")) == ["in", "out.zip"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{type: archive, config: {source: a}}", "a step of type archive does one of create, extract and list"),
        (
            "{type: archive, command: extrat, config: {source: a}}",
            "there is no operation 'extrat'. Did you mean 'extract'?",
        ),
        ("{type: archive, command: extract}", "a step of type archive needs 'source'"),
        ("{type: archive, command: create, config: {source: a}}", "an archive that is made needs a name"),
        (
            "{type: archive, command: create, config: {source: a, destination: a.rar}}",
            "the ending of 'a.rar' is no format",
        ),
        ("{type: archive, command: list, config: {source: a, format: rar}}", "'format' must be one of zip, tar,"),
    ],
)
def test_a_file_is_told_what_is_wrong_with_it(step, message):
    found = wrong(f"steps: [{step}]")
    assert len(found) == 1
    assert message in found[0]
