"""A history whose journals are in PostgreSQL: what one home has begun another one sees and goes on with."""

from __future__ import annotations

import os

import msgspec
import pytest

from dagrid import DAG, Node
from dagrid.assemble import start
from dagrid.errors import DuplicateRunError, RunHeldError
from dagrid.history import About, History

pytestmark = pytest.mark.engine


def test_two_homes_with_one_database(postgres, tmp_path):
    """A run, what it is of and its end are seen from the other home; a queue is emptied by either, once; all is removed."""
    url = postgres.url(tmp_path)
    large = DAG([Node("big", fn=lambda: "x" * 100_000)])
    with History(tmp_path / "one", url) as one, History(tmp_path / "two", url) as two:
        with one.begin("nightly", About(spec="text", params=("a",))) as place:
            assert two.info(place.run_id).status == "running"
            with pytest.raises(RunHeldError, match=str(os.getpid())):
                two.reopen(place.run_id)
            run = start(large, checkpoint=one.checkpoint, run_id=place.run_id, epoch=place.epoch, progress=False)
            assert run.wait().ok
        (info,) = two.runs()
        assert (info.run, info.status) == (place.run_id, "succeeded")
        assert (two.about(info.run).spec, two.about(info.run).params) == ("text", ("a",))
        queued = one.enqueue("nightly", About(queue="q"))
        with two.begin("nightly", About(), queued), pytest.raises((DuplicateRunError, RunHeldError)):
            one.begin("nightly", About(), queued)
        assert one.info(queued).status == "interrupted"
        # As if the second home were on another machine: nobody can look whether it goes on there.
        far = msgspec.structs.replace(one.about(queued), host="far-away")
        one.checkpoint.store.describe(queued, msgspec.json.encode(far))
        assert one.info(queued).host == "far-away"
        one.reopen(queued, take_over=True).close()
        for info in one.runs():
            one.remove(info.run)
        assert two.runs() == []
    with postgres.connect(tmp_path) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("segments", "artifacts")]
        assert counts == [(0,), (0,)]
