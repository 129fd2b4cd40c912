"""Messages are joined and cut on their way; what they mean must not change by that, and long ones must not hold up short ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dagrid.execution.backends.cluster import fleet_pb2 as pb
from dagrid.execution.backends.cluster.outbox import BATCH, ORDER, Outbox, cut


def some(*attempts: int) -> list[pb.Some]:
    return [pb.Some(run="r", fence=1, attempts=attempts)]


def taken(outbox: Outbox) -> list:
    found = []
    while (message := outbox.take()) is not None:
        found.append(message)
    assert not outbox.size
    return found


def test_all_fields_of_messages_have_their_place_in_the_order() -> None:
    """A field that is forgotten there would be taken for the last one."""
    names = {field.name for kind in (pb.Up, pb.Down, pb.Ask, pb.Tell) for field in kind.DESCRIPTOR.fields}
    assert names == set(ORDER)


def test_what_waits_becomes_one_message() -> None:
    outbox: Outbox[pb.Down] = Outbox()
    for attempt in range(3):
        outbox.put(pb.Down(acks=some(attempt)))
    outbox.put(pb.Down(cancels=some(7)))
    (message,) = taken(outbox)
    assert [each.attempts[0] for each in message.acks] == [0, 1, 2]
    assert message.cancels


def test_what_is_said_anew_as_a_whole_takes_the_place_of_what_was_said_before() -> None:
    """Joined, a run would lack what it has long been given."""
    outbox: Outbox[pb.Ask] = Outbox()
    outbox.put(pb.Ask(lacks=pb.Lacks(lacks=[pb.Lack(node="a")])))
    outbox.put(pb.Ask(lacks=pb.Lacks(lacks=[pb.Lack(node="b")])))
    outbox.put(pb.Ask(lacks=pb.Lacks()))
    (message,) = taken(outbox)
    assert message.HasField("lacks")
    assert not message.lacks.lacks


def test_messages_are_not_joined_where_that_would_turn_their_order() -> None:
    """A run that is over and begins again: joined, the assignment would be taken before the end of the run, and be lost."""
    outbox: Outbox[pb.Down] = Outbox()
    outbox.put(pb.Down(assigns=[pb.Assign(run="r", fence=1)]))
    outbox.put(pb.Down(over=["r"]))
    outbox.put(pb.Down(assigns=[pb.Assign(run="r", fence=2)]))
    first, second = taken(outbox)
    assert (len(first.assigns), list(first.over)) == (1, [])
    assert (list(second.over), second.assigns[0].fence) == (["r"], 2)


def test_long_things_take_turns() -> None:
    outbox: Outbox[pb.Up] = Outbox()

    def long(run: str):
        for offset in range(2):
            yield pb.Up(logs=[pb.Log(run=run, offset=offset)])

    outbox.feed(long("a"))
    outbox.feed(long("b"))
    pieces = [outbox.piece() for _ in range(5)]
    assert [(piece.logs[0].run, piece.logs[0].offset) for piece in pieces if piece] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
    ]
    assert pieces[4] is None


def test_a_large_message_is_cut_in_the_order_in_which_it_is_taken() -> None:
    calls = [pb.Call(attempt=number, arguments=bytes(BATCH // 4), rides=3 if number == 3 else 0) for number in range(9)]
    ask = pb.Ask(acks=some(1), recalls=some(2), cancels=some(3), close=True)
    ask.assigns.append(pb.Assign(run="r", fence=5, worker="w", generation=8, kit=b"k", calls=calls))
    pieces = list(cut(ask))
    assert len(pieces) > 2
    assert pieces[0].acks
    assert pieces[0].recalls
    assert not pieces[0].close
    assert pieces[-1].close
    assert pieces[-1].cancels
    assert all(piece.ByteSize() < 2 * BATCH for piece in pieces)
    assigns = [assign for piece in pieces for assign in piece.assigns]
    assert all((each.fence, each.worker, each.generation, each.kit) == (5, "w", 8, b"k") for each in assigns)
    assert [call.attempt for assign in assigns for call in assign.calls] == list(range(9))


def test_what_rides_stays_with_what_it_rides_on() -> None:
    """`rides` names an attempt of the same assignment."""
    calls = [pb.Call(attempt=number, arguments=bytes(BATCH // 2), rides=number) for number in range(4)]
    ask = pb.Ask(assigns=[pb.Assign(run="r", fence=1, calls=calls)])
    (piece,) = cut(ask)
    assert len(piece.assigns[0].calls) == 4


def test_reports_are_cut_and_nothing_of_them_is_lost() -> None:
    up = pb.Up(heartbeat=pb.Heartbeat(running=1), drained=True, wants=[b"d"])
    for fence in (1, 2):
        report = up.reports.add(run="r", fence=fence, started=[pb.Started(attempt=50)], recalled=[60])
        report.finished.extend(pb.Finished(attempt=number, value=bytes(BATCH // 3)) for number in range(7))
    pieces = list(cut(up))
    assert len(pieces) > 3
    assert pieces[0].heartbeat.running == 1
    assert not pieces[0].drained
    assert pieces[-1].drained
    assert list(pieces[-1].wants) == [b"d"]
    reports = [report for piece in pieces for report in piece.reports]
    for fence in (1, 2):
        mine = [report for report in reports if report.fence == fence]
        assert [each.attempt for report in mine for each in report.finished] == list(range(7))
        assert [each.attempt for report in mine for each in report.started] == [50]
        assert [each for report in mine for each in report.recalled] == [60]


@given(st.lists(st.sampled_from(["acks", "over", "assigns", "cancels", "drain", "parts"]), max_size=12))
def test_however_messages_are_joined_everything_is_taken_in_the_order_in_which_it_was_said(fields: list[str]) -> None:
    said, outbox = [], Outbox[pb.Down]()
    for number, field in enumerate(fields):
        down = pb.Down(drain=True) if field == "drain" else pb.Down()
        if field == "over":
            down.over.append(str(number))
        elif field == "assigns":
            down.assigns.add(run=str(number))
        elif field == "parts":
            down.parts.add(offset=number)
        elif field != "drain":
            getattr(down, field).add(run=str(number))
        said.append((field, "" if field == "drain" else str(number)))
        outbox.put(down)
    heard = []
    for message in taken(outbox):
        for field in ORDER:
            if field == "drain" and message.drain:
                heard.append(("drain", ""))
            elif field in ("over", "parts", "acks", "assigns", "cancels"):
                for each in getattr(message, field):
                    name = each if field == "over" else str(each.offset) if field == "parts" else each.run
                    heard.append((field, name))
    once = [each for place, each in enumerate(said) if each[0] != "drain" or said[place - 1 : place] != [each]]
    assert heard == once
