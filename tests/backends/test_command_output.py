"""What commands write, on real processes: files, bounds, full disks, secrets."""

from __future__ import annotations

import errno
import os
import pickle
import resource

import msgspec
import pytest

from dagrid import DAG, Node, NodeStatus, command
from dagrid.commands import Command, Exit, Launch
from dagrid.errors import OutputLimitError
from tests.backends.command_tasks import PATIENCE, error_of, nothing_is_left, run, sh  # noqa: F401  # a fixture

SECRET = "s3cret-t0ken"


def test_files_are_appended_to_and_given_to_the_process_itself(tmp_path):
    """Where nobody else has to see what is written, it is not copied through this process."""
    log = tmp_path / "log"
    log.write_text("before\n")
    assert (
        run(sh("readlink /proc/self/fd/1; readlink /proc/self/fd/2 >&2", stdout=log, stderr=log)).status
        == NodeStatus.COMPLETED
    )
    assert log.read_text() == f"before\n{log}\n{log}\n"


def test_output_goes_to_a_file_and_is_the_value_too(tmp_path):
    """A log that can be read, and a value that flows."""
    out, err = tmp_path / "out", tmp_path / "err"
    assert run(command("echo value; echo talk >&2", stdout=out, stderr=err)).result == "value"
    assert (out.read_text(), err.read_text()) == ("value\n", "talk\n")
    more = tmp_path / "more"
    assert run(sh("echo twice", stdout=[out, str(more)])).status is NodeStatus.COMPLETED
    assert (out.read_text(), more.read_text()) == ("value\ntwice\n", "twice\n")
    assert run(sh("echo a; echo b >&2; echo c", merge=True, capture=100)).result == "a\nb\nc"


def test_output_that_is_no_text_stays_as_it_is(tmp_path):
    """Bytes are bytes in files; as a value they are shown, not refused."""
    out = tmp_path / "out"
    assert run(command("printf 'a\\377\\000b'", stdout=out)).result == "a\ufffd\0b"
    assert out.read_bytes() == b"a\xff\0b"


@pytest.mark.parametrize("mask", [[], ["secret"]])
def test_a_file_may_get_all_of_it_beside_one_that_is_bounded(tmp_path, mask):
    """A log is bounded, and a table is not to be cut; secrets are in neither."""
    log, table = tmp_path / "log", tmp_path / "table"
    ended = run(
        sh("printf 12345; sleep 0.1; printf 67secret890", stdout=[log, table], max_output=6, whole=[table], mask=mask)
    )
    assert ended.status is NodeStatus.COMPLETED
    assert log.read_text() == "123456\n[cut here: more than 6 bytes of output]\n"
    assert table.read_text() == f"1234567{'*' * 7 if mask else 'secret'}890"


def test_a_file_may_be_made_when_there_is_something_to_write(tmp_path):
    """A silent process makes none; where one cannot be made, that is known when its output is not complete, and not before."""
    out, err, both = (tmp_path / name for name in ("out", "err", "both"))
    files = {"stdout": [out, both], "stderr": err, "late": [out, err], "max_output": 1000}
    assert run(sh("true", **files)).status is NodeStatus.COMPLETED
    assert sorted(tmp_path.iterdir()) == [both]
    assert run(sh("echo it; echo again", **files)).status is NodeStatus.COMPLETED
    assert (out.read_text(), both.read_text(), err.exists()) == ("it\nagain\n", "it\nagain\n", False)
    assert run(sh("echo on >&2", stderr=err, late=[err])).status is NodeStatus.COMPLETED
    assert err.read_text() == "on\n"
    nowhere = {"stdout": tmp_path / "no" / "out", "late": [tmp_path / "no" / "out"]}
    assert run(sh("true", **nowhere)).status is NodeStatus.COMPLETED
    error = error_of(sh("echo it", **nowhere))
    assert (error.code, "no/out' cannot be written: No such file or directory" in str(error)) == (0, True)


def test_a_hundred_megabytes_on_one_line_take_no_memory(tmp_path):
    """They are read as they come, and no more than the limit goes to the disk; the process is not disturbed by that."""
    out = tmp_path / "out"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends: list[Exit] = []
    flood = sh(
        "head -c 100000000 /dev/zero; echo end >&2",
        stdout=out,
        max_output=1000,
        capture=5,
        mask=["x" * 50],
        done=ends.append,
    )
    assert run(flood).status is NodeStatus.COMPLETED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kilobytes
    assert (ends[0].code, ends[0].cut, ends[0].truncated, ends[0].stdout) == (0, True, True, bytes(5))
    assert out.read_bytes() == bytes(1000) + b"\n[cut here: more than 1000 bytes of output]\n"
    assert ends[0].stderr == b"end\n"


def test_who_may_not_write_more_is_stopped(gate, tmp_path):
    """With its group, whether it goes to a file or nowhere; how much it may, and how to raise that, is in the error."""
    out = tmp_path / "out"
    flood = sh(f"trap '' TERM; sleep 1000 9>{gate.path}.up & yes", stdout=out, max_output=1000, strict=True, grace=0.1)
    begun = DAG([Node("node", flood)]).start(progress=False)
    gate.listen()
    error = begun.wait(PATIENCE).node_results["node"].error
    gate.wait_gone()
    assert isinstance(error, OutputLimitError)
    assert (error.limit, error.signal, error.node) == (1000, 9, "node")
    assert "more than the 1000 bytes of output that it may. Raise max_output" in str(error)
    assert pickle.loads(pickle.dumps(error)).limit == 1000
    assert out.read_bytes() == b"y\n" * 500 + b"\n[cut here: more than 1000 bytes of output]\n"
    for settings in ({"errors": 0}, {"merge": True}, {"capture": 10}):
        assert isinstance(error_of(sh("yes >&2", max_output=1, strict=True, **settings)), OutputLimitError)
    assert run(sh("printf 123; printf 123 >&2", max_output=3, strict=True)).status is NodeStatus.COMPLETED
    assert isinstance(error_of(sh("printf 1234", max_output=3, strict=True)), OutputLimitError)
    assert run(sh("yes | head -100", strict=True)).status is NodeStatus.COMPLETED, "there is no limit"


def test_a_value_that_is_too_long_is_an_error():
    """Half of an answer must not pass for the whole of it."""
    assert run(command("printf 12345", capture=5)).result == "12345"
    assert "Raise capture" in str(error_of(command("printf 123456", capture=5)))


def test_a_full_disk_is_told(tmp_path):
    """The command runs to its end, and then its output is known to be incomplete."""
    out = tmp_path / "out"
    error = error_of(sh("head -c 1000000 /dev/zero; echo on >&2", stdout=["/dev/full", out], capture=10))
    assert error.code == 0
    assert f"'/dev/full' cannot be written: {os.strerror(errno.ENOSPC)}" in str(error)
    assert out.stat().st_size == 1_000_000


def test_secrets_are_in_nothing_that_is_kept(tmp_path):
    """Neither in files, values and last words, nor in the line of the command or in why it could not be started."""
    out = tmp_path / "out"
    half, rest = SECRET[:5], SECRET[5:]
    split = f"printf '<{half}'; sleep 0.05; printf '{rest}>'"
    assert run(command(split, stdout=out, mask=[SECRET])).result == "<*******>"
    assert out.read_text() == "<*******>"
    loud = command(f"echo {SECRET} >&2; exit 1", mask=[SECRET])
    assert SECRET not in repr(loud)
    error = error_of(loud)
    assert error.stderr == "*******"
    assert SECRET not in repr(error)
    for launch in (
        Launch(["no-such", SECRET]),
        Launch([f"/{SECRET}"]),
        Launch(["true"], cwd=f"/{SECRET}"),
        Launch(["true"], stdout=f"/{SECRET}/x"),
    ):
        error = error_of(Command(lambda launch=launch: msgspec.structs.replace(launch, mask=[SECRET])))
        assert "*******" in str(error)
        assert SECRET not in repr(error)
