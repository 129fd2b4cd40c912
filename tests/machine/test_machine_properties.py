"""Whatever happens to a run, in whatever order, what the machine promises holds after every step."""

from __future__ import annotations

import pickle
import random

from hypothesis import given
from hypothesis import strategies as st

from dagrid.graph.node import Node
from dagrid.machine.advance import IDLE, RULES, SLOW, advance, can_grow, grow, settled, take
from dagrid.machine.commands import Evaluate, Perform
from dagrid.machine.decide import decide
from dagrid.machine.events import NODE_MASK, Asked, Fact, Finished, Growth, Kind, Outcome, RuleEvaluated, WorkerJoined
from dagrid.machine.explain import explain
from dagrid.machine.pick import matches
from dagrid.machine.plan import Settings
from dagrid.machine.reopening import to_reopen
from dagrid.machine.state import COMPLETED, READY, State
from tests.machine.strategies import Case, cases, plain_nodes
from tests.machine.world import World, picture, plan_of, replayed

WAITS = ("n0",)
chances = st.integers(0, 2**32).map(random.Random)


@given(
    case=cases(),
    chance=chances,
    rules=st.lists(st.booleans(), max_size=2),
    steps=st.integers(0, 60),
    chains=st.booleans(),
)
def test_invariants_hold_and_every_run_ends(
    case: Case, chance: random.Random, rules: list[bool], steps: int, chains: bool
) -> None:
    """Workers come, go and lie late, attempts fail, time out and are taken back: `check` runs after every single step."""
    World(case.plan(), chance, rules=rules, waits=WAITS, chains=chains).live(steps)


@given(
    nodes=plain_nodes(),
    chance=chances,
    rules=st.lists(st.booleans(), max_size=4),
    steps=st.integers(0, 60),
    limit=st.sampled_from([None, 1, 2]),
)
def test_invariants_hold_on_the_short_ways(
    nodes: list[Node], chance: random.Random, rules: list[bool], steps: int, limit: int | None
) -> None:
    """Plain nodes in a run without resources: here workers are given nodes, and patches are taken, without `decide`."""
    world = World(plan_of(nodes, Settings(max_concurrency=limit)), chance, rules=rules, waits=WAITS)
    world.live(steps)
    again = replayed(world.state, plan_of(nodes, Settings(max_concurrency=limit)), rules, None, WAITS)
    assert picture(again) == picture(world.state)


@given(
    case=cases(),
    chance=chances,
    rules=st.lists(st.booleans(), max_size=2),
    steps=st.integers(0, 60),
    chains=st.booleans(),
)
def test_facts_alone_give_the_same_state(
    case: Case, chance: random.Random, rules: list[bool], steps: int, chains: bool
) -> None:
    """A restart applies the journal to a fresh state and decides nothing: it must know all that was known."""
    world = World(case.plan(), chance, rules=rules, waits=WAITS, chains=chains)
    for _ in range(steps):
        possible = world.possible()
        if not possible or world.finished:
            break
        world.at += 0.001
        chance.choice(possible)()
    again = replayed(world.state, case.plan(), rules, None, WAITS)
    assert picture(again) == picture(world.state)


@given(case=cases(), chance=chances, steps=st.integers(0, 40))
def test_a_restarted_run_ends(case: Case, chance: random.Random, steps: int) -> None:
    """A replayed state is not only equal to look at: it goes on from there."""
    world = World(case.plan(), chance)
    for _ in range(steps):
        possible = world.possible()
        if not possible or world.finished:
            break
        chance.choice(possible)()
    again = replayed(world.state, case.plan(), ())
    if again.finished:
        return
    for place in world.places.values():
        place.woken = False
    world.state = again
    world.tell()
    world.live(0)


@given(case=cases(most=6), chance=chances, rules=st.lists(st.booleans(), max_size=1), steps=st.integers(0, 30))
def test_a_run_goes_on_from_wherever_its_process_died(
    case: Case, chance: random.Random, rules: list[bool], steps: int
) -> None:
    """A store has the facts up to the end of some step; all workers are gone, and some values that could not be kept."""
    world = World(case.plan(), chance, rules=rules, waits=WAITS)
    for _ in range(steps):
        possible = world.possible()
        if not possible or world.finished:
            break
        world.at += 0.001
        chance.choice(possible)()
    for until in sorted(set(world.boundaries)):
        again = replayed(world.state, case.plan(), rules, until, WAITS)
        pickled: State = pickle.loads(pickle.dumps(again))
        pickled.plan, pickled.journal = again.plan, list(again.journal)
        assert picture(pickled) == picture(again)
        if again.finished:
            continue
        lost = [node for node, status in enumerate(again.status) if status == COMPLETED and chance.random() < 0.3]
        if again.outcome is not None:
            lost = []  # handlers take no values
        chance.shuffle(lost)
        after = World(case.plan(), chance, rules=rules, waits=WAITS)
        after.at = world.at
        after.restart(pickled, lost)
        for _ in range(chance.randrange(8)):
            possible = after.possible()
            if possible and not after.finished:
                after.at += 0.001
                chance.choice(possible)()
        if not after.finished:
            after.live(0)
        assert picture(replayed(pickled, case.plan(), rules, None, WAITS)) == picture(pickled)


@given(case=cases(most=6), chance=chances, rules=st.lists(st.booleans(), max_size=1), steps=st.integers(0, 40))
def test_a_run_is_taken_up_again_whenever_and_however_often(
    case: Case, chance: random.Random, rules: list[bool], steps: int
) -> None:
    """Ended or not, with any roots: what did not complete runs again, what is spared does not, and a replay gives the same."""
    world = World(case.plan(), chance, rules=rules, waits=WAITS)
    world.live(steps)
    for _ in range(2):
        until = chance.choice([None, *sorted(set(world.boundaries))[-8:]])
        again = replayed(world.state, case.plan(), rules, until, WAITS)
        roots = chance.sample(range(len(again.plan)), chance.randrange(2))
        done = [node for node, status in enumerate(again.status) if status == COMPLETED]
        spared = [node for node in done if node not in again.plan.handlers and chance.random() < 0.1]
        nodes = to_reopen(again, roots, spared)
        failed = [node for node, status in enumerate(again.status) if status > COMPLETED]
        world = World(case.plan(), chance, rules=rules, waits=WAITS)
        world.at = again.finished_at + 100.0
        world.restart(again, again=nodes)
        assert set(failed) <= set(nodes)
        assert not set(spared) & set(nodes)
        world.live(chance.randrange(10))
        assert picture(replayed(again, case.plan(), rules, None, WAITS)) == picture(again)


@given(nodes=plain_nodes(), workers=st.integers(1, 3), chance=chances, failing=st.booleans())
def test_chains_that_travel_together_change_nothing_but_the_way(
    nodes: list[Node], workers: int, chance: random.Random, failing: bool
) -> None:
    """No attempt starts twice or before what it needs, whoever rode on whom, and whatever failed or was taken back."""
    world = World(plan_of(nodes), chance, chains=True)
    for _ in range(workers):
        world.join(slots=1, window=5)
    started: list[int] = []
    while not world.finished:
        world.state.mean_duration = 0.00001
        world.tell()  # what is short goes out in larger batches: now, and not because of whatever comes next
        world.at += chance.choice([0.0, 0.003])
        places = [place for place in world.places.values() if place.startable and not place.running]
        chance.choice(world.possible(calm=not failing))()
        for place in places:
            started += place.running
    began = [fact.node for fact in world.state.facts() if fact.kind is Kind.STARTED]
    assert len(set(began)) == len(began) or failing
    assert all(attempt & NODE_MASK in began for attempt in started)


@given(nodes=plain_nodes(), workers=st.integers(1, 3), seed=st.integers(0, 1000), limit=st.sampled_from([None, 1, 2]))
def test_the_fast_path_is_only_fast(nodes: list[Node], workers: int, seed: int, limit: int | None) -> None:
    """`advance` and `decide` on the same events write the same journal."""
    journals = []
    for fast in (True, False):
        world = World(plan_of(nodes), random.Random(seed), fast=fast)
        for _ in range(workers):
            world.join(pulls=True)
        while not world.finished:
            world.at += 0.25
            world.chance.choice(world.possible(calm=True))()
        journals.append(list(world.state.facts()))
    assert journals[0] == journals[1]


@st.composite
def patches(draw: st.DrawFn) -> list[tuple[list[Node], list[str]]]:
    """Draw what a chain of rules appends: nodes that depend on earlier ones, and for what the rule after it waits, if it does."""
    found = []
    names = ["n0"]
    for turn in range(draw(st.integers(1, 6))):
        nodes = []
        for number in range(draw(st.integers(0, 3))):
            before = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
            nodes.append(Node(f"r{turn}-{number}", None, before, draw(st.integers(-1, 1))))
            names.append(nodes[-1].id)
        found.append((nodes, draw(st.lists(st.sampled_from([*names, "late"]), max_size=2, unique=True))))
    return found


@given(patches=patches(), limit=st.sampled_from([None, 1]))
def test_growing_the_short_way_writes_the_same_journal(
    patches: list[tuple[list[Node], list[str]]], limit: int | None
) -> None:
    """A worker delivers, asks the rules that waited for it, and hands in their answers with its question for a next call."""
    short, long = (grown(patches, limit, fast) for fast in (True, False))
    assert short == long


def grown(patches: list[tuple[list[Node], list[str]]], limit: int | None, fast: bool) -> list[Fact]:
    """Run a graph of one node with one worker and a chain of rules, each of which appends the next one; return the facts."""
    settings = Settings(max_concurrency=limit)
    state = State(plan_of([Node("n0")], settings), Growth(rules=[(0, True, None, ("n0",))]))
    commands = decide(state, [WorkerJoined(0, "w", 0.0, pulls=True)], 0.0)
    commands += decide(state, [Asked(0, 0.0)], 0.0)
    for at in range(200):
        questions = [each.rule for each in commands if isinstance(each, Evaluate)]
        given = [each.attempts[0] for each in commands if isinstance(each, Perform)]
        commands = []
        for place, rule in enumerate(questions):
            nodes, waits = patches[rule]
            more = [(rule + 1, True, None, tuple(waits))] if rule + 1 < len(patches) else []
            answer = RuleEvaluated(rule, at, Growth(nodes, more))
            asked = [Asked(0, at)] if place == len(questions) - 1 and not given and not state.queues[0] else []
            if not (fast and can_grow(state, answer)):
                commands += decide(state, [answer, *asked], at)
                continue
            grow(state, answer)
            following = take(state, 0, at) if asked else IDLE
            if following >= 0:
                commands.append(Perform(0, [following]))
            if (asked and following < 0) or not settled(state):
                commands += decide(state, asked, at)
        for attempt in given:
            following = advance(state, attempt, 0, at, at) if fast else SLOW
            if following == SLOW:
                asks = decide(state, [Finished(0, attempt, Outcome.COMPLETED, at, at)], at)
                commands += asks or decide(state, [Asked(0, at)], at)
            elif following == RULES:
                commands += [Evaluate(rule) for rule in state.asks]
                state.asks.clear()
            elif following == IDLE:
                commands += decide(state, [Asked(0, at)], at)
            else:
                commands.append(Perform(0, [following]))
        if state.finished:
            return list(state.facts())
    raise AssertionError("the run does not end")


@given(case=cases(), chance=chances)
def test_of_the_nodes_that_fit_the_smallest_key_goes_first(case: Case, chance: random.Random) -> None:
    """Priority, then longest path, then insertion, for each worker that asks; who runs alone holds back what is behind it."""
    state = State(case.plan())
    labels = [{}, {"gpu": "true"}, {}]
    decide(state, [WorkerJoined(n, f"w{n}", 0.0, pulls=True, labels=labels[n]) for n in range(3)], 0.0)
    running: dict[int, int] = {}
    for _ in range(40):
        worker = chance.randrange(3)
        if worker in running:
            done = Finished(worker, running.pop(worker), Outcome.COMPLETED, 0.0, 0.0)
            decide(state, [done], 0.0)
            continue
        expected = first_that_fits(state, labels[worker])
        for command in decide(state, [Asked(worker, 0.0)], 0.0):
            attempts = getattr(command, "attempts", None)
            if attempts:
                running[worker] = attempts[0]
        assert running.get(worker, -1) & NODE_MASK == expected & NODE_MASK


def first_that_fits(state: State, labels: dict[str, str]) -> int:
    """Find by looking at every node what a worker must be given; -1 when nothing."""
    plan = state.plan
    if state.sequential or (plan.settings.max_concurrency or 99) <= state.active:
        return -1
    ready = sorted(plan.keys[node] for node, status in enumerate(state.status) if status == READY)
    for node in (key & NODE_MASK for key in ready):
        request = plan.requests[plan.groups[node]]
        if request.sequential and state.active:
            return -1
        if matches(labels, request.selector) and all(state.available[name] >= much for name, much in request.resources):
            return node
    return -1


@given(case=cases(), chance=chances, steps=st.integers(0, 40))
def test_explain_always_has_an_answer(case: Case, chance: random.Random, steps: int) -> None:
    """Nobody asks why a node does not run at a convenient moment."""
    world = World(case.plan(), chance)
    for _ in range(steps):
        possible = world.possible()
        if not possible or world.finished:
            break
        chance.choice(possible)()
        for node, name in enumerate(world.state.plan.names):
            answer = explain(world.state, node, world.at)
            assert answer.startswith(repr(name))
            assert answer.endswith(".")


@given(nodes=plain_nodes(), chance=chances)
def test_a_calm_run_completes_everything(nodes: list[Node], chance: random.Random) -> None:
    """Without failures no node is forgotten, whichever workers there are."""
    world = World(plan_of(nodes), chance)
    world.join(pulls=True)
    world.live(0)
    assert set(world.state.status) == {COMPLETED}
