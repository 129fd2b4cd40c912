"""A backend that is named with settings: what a text there means, and what is said of one that means nothing."""

from __future__ import annotations

import pytest

from dagrid import DAG, Node
from dagrid.errors import InvalidSettingError
from dagrid.execution.backends.command import CommandBackend
from dagrid.execution.backends.event_loop import EventLoopBackend
from dagrid.execution.backends.multiprocessing import MultiprocessingBackend
from dagrid.execution.backends.thread import ThreadBackend
from dagrid.opening import open_backend

GRAPH = DAG([Node("one", int)])
WHOLE = "is a whole number from 1 up, not"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("thread?max_workers=zz", f"max_workers {WHOLE} 'zz'"),
        ("thread?max_workers=2.5", f"max_workers {WHOLE} 2.5"),
        ("thread?max_workers=true", f"max_workers {WHOLE} True"),
        ("thread?max_workers=", f"max_workers {WHOLE} ''"),
        ("thread?max_workers=0", f"max_workers {WHOLE} 0"),
        ("thread?max_workers=1&max_workers=2", "says 'max_workers' twice"),
        ("thread?max_worker=2", r"takes no 'max_worker'. Did you mean 'max_workers'\?"),
        ("thread://host", "takes no 'address'"),
        ("inline?max_workers=1", "'inline' takes no 'max_workers'. Say 'inline' alone"),
        ("inline://host", "'inline' takes no 'address'"),
        ("multiprocessing?max_workers=zz", f"max_workers {WHOLE} 'zz'"),
        ("multiprocessing?max_workers=1.5", f"max_workers {WHOLE} 1.5"),
        ("multiprocessing?initializer=start", "initializer is a function of no parameters, not 'start'"),
        ("celery?patience=zz", "patience is a number of seconds above 0, not 'zz'"),
        ("dask?kill=maybe", "kill is true or false, not 'maybe'"),
        ("dask?timeout=zz", "timeout is a number of seconds above 0, not 'zz'"),
        ("ray?num_cpus=zz", f"num_cpus {WHOLE} 'zz'"),
        ("ray?keep_workers=zz", "keep_workers is a number of seconds from 0 up, not 'zz'"),
        ("ipyparallel?max_workers=zz", f"max_workers {WHOLE} 'zz'"),
        ("ipyparallel?max_in_flight=1.5", f"max_in_flight {WHOLE} 1.5"),
        ("ipyparallel?timeout=zz", "timeout is a number of seconds above 0, not 'zz'"),
        ("ipyparallel?client=mine", "client is an ipyparallel.Client, not 'mine'"),
        ("grpc://localhost?signing=1", "'grpc' takes no 'signing'. Did you mean 'signing_key'"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_is_expected(url: str, told: str) -> None:
    """Who mistypes one sees which, what stands there and what may stand there, and nothing was started."""
    with pytest.raises(InvalidSettingError, match=told):
        GRAPH.run(backend=url)


@pytest.mark.parametrize("kind", [ThreadBackend, MultiprocessingBackend, CommandBackend, EventLoopBackend])
def test_one_that_is_made_by_hand_says_the_same(kind: type) -> None:
    """The number is not looked at only when workers are to start."""
    name = "max_tasks" if kind is EventLoopBackend else "max_workers"
    for value in (0, 1.5, "2", True):
        with pytest.raises(InvalidSettingError, match=f"{name} {WHOLE} {value!r}"):
            kind(**{name: value})


def test_a_text_that_looks_like_a_number_stays_a_text() -> None:
    """A key of digits signs as any other, and a number is none."""
    place, _ = open_backend("grpc://127.0.0.1:1?signing_key=12345", None)
    place.close()
