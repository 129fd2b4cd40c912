"""Logs that come from workers: each byte once, whoever sends it again, and whatever is killed."""

from __future__ import annotations

import os

import pytest

from dagrid.service.logs import BOOK, RunLogs

ONE, OTHER = "0123456789abcdef", "fedcba9876543210"


def put(logs, source, offset, data, file="a.out"):
    sink = logs("run", f"{source}/{file}")
    sink.seek(offset)
    sink.write(data)
    sink.close()


def test_what_comes_again_is_not_written_again(tmp_path):
    """A worker that is linked again sends what was not acknowledged."""
    logs = RunLogs(tmp_path)
    put(logs, ONE, 0, b"first ")
    put(logs, ONE, 0, b"first second ")
    put(logs, ONE, 6, b"second third")
    assert (tmp_path / "a.out").read_bytes() == b"first second third"


def test_another_worker_goes_on_behind_the_first(tmp_path):
    """A step that is tried again elsewhere counts from 0 there, and takes nothing away."""
    logs = RunLogs(tmp_path)
    put(logs, ONE, 0, b"try 1\n")
    put(logs, OTHER, 0, b"try 2\n")
    put(logs, ONE, 6, b"late\n")
    assert (tmp_path / "a.out").read_bytes() == b"try 1\ntry 2\nlate\n"


def test_a_log_that_is_full_begins_anew_with_the_next_source(tmp_path):
    """What is tried again and again must not fill the disk; a source that goes on does so behind that, each byte once."""
    logs = RunLogs(tmp_path, 10)
    put(logs, ONE, 0, b"0123456789")
    put(logs, ONE, 10, b"more of it\n")
    put(logs, OTHER, 0, b"try 2\n")
    put(logs, ONE, 10, b"more of it\nlate\n")
    logs.close()
    put(RunLogs(tmp_path, 10), OTHER, 0, b"try 2\nend\n")
    said = b"[cut here: what was written before this try]\n"
    assert (tmp_path / "a.out").read_bytes() == said + b"try 2\nlate\nend\n"


def test_a_new_process_knows_what_is_here(tmp_path):
    """It goes on where the old one was killed, also between its note and what it noted."""
    logs = RunLogs(tmp_path)
    put(logs, OTHER, 0, b"other", "b.out")
    put(logs, ONE, 0, b"0123456789")
    logs.close()
    os.truncate(tmp_path / "a.out", 4)
    put(RunLogs(tmp_path), ONE, 0, b"0123456789ab")
    assert (tmp_path / "a.out").read_bytes() == b"0123456789ab"
    put(RunLogs(tmp_path), OTHER, 0, b"others", "b.out")
    assert (tmp_path / "b.out").read_bytes() == b"others"


@pytest.mark.parametrize(
    "name", ["../x.out", f"{ONE}/../../x.out", f"{ONE}/run.log", f"{ONE}/deep/x.out", f"{ONE}/x", f"/{ONE}/x.out", ""]
)
def test_only_logs_of_steps_are_written(tmp_path, name):
    """A worker says the name, and it may be anybody's."""
    (tmp_path / "run").mkdir()
    sink = RunLogs(tmp_path / "run")("run", name)
    sink.write(b"evil")
    sink.close()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != BOOK] == []
