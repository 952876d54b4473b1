"""Laws of Maglev's table, of two choices and of moving averages, whatever the pools."""

from __future__ import annotations

from collections import Counter
from math import exp
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancers.base import Balancer
from balancers.maglev import Maglev
from balancers.p2c import PowerOfTwoChoices
from balancers.peak_ewma import PeakEwma
from proxy import catalog
from proxy.control.slow_start import SCALE, scaled
from proxy.testing.nodes import Instance, instances
from tests.unit.test_balancer_peak_ewma import served

KEYS = [Random(seed).getrandbits(64) for seed in range(2000)]
SIZE = 5003
"""Of a table: a prime number, a hundred times the instances."""
IDS = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=50, unique=True)
SECONDS = st.floats(0.001, 10.0)


def table(nodes: list[Instance], size: int = SIZE) -> list[str]:
    """Place → id."""
    balancer = Maglev(nodes, Random(1), table_size=size)
    while balancer.settle():
        pass
    return [balancer._ids[number] for number in balancer._table]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=8, unique=True))
def test_an_instance_that_comes_or_goes_moves_few_places_of_a_table(ids: list[str]) -> None:
    nodes = [Instance(id) for id in ids]
    before, moved = table(nodes), []
    for gone in nodes:
        after = table([node for node in nodes if node is not gone])
        moved.append(sum(a != b for a, b in zip(before, after, strict=True)))
        assert moved[-1] >= before.count(gone.id)
    # On average of who goes: two that walk the table in the same steps, as one pair in `SIZE`
    # does, are in each other's way, and a third that goes moves somewhat more.
    assert sum(moved) / len(moved) <= 2 * SIZE / len(ids)


@given(IDS, st.data())
def test_each_instance_has_its_share_of_a_table_to_a_turn(
    ids: list[str], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(0, 9), min_size=len(ids), max_size=len(ids)))
    nodes = [Instance(id, weight) for id, weight in zip(ids, weights, strict=True)]
    places = table(nodes)
    if not any(weights):
        assert places == []
        return
    counted = Counter(places)
    heaviest = max(weights)
    lightest = min(weight for weight in weights if weight)
    for node in nodes:
        share = SIZE * node.weight / sum(weights)
        # The last turn is cut short, and where one begins depends on the others.
        assert abs(counted[node.id] - share) <= 1 + heaviest / lightest
    assert table(data.draw(st.permutations(nodes))) == places


@given(st.text(max_size=8), st.integers(2, 3000))
def test_an_instance_would_like_every_place_of_a_table_once(id: str, size: int) -> None:
    assert table([Instance(id)], size) == [id] * size  # Else its turns would never end.


@given(IDS, st.data())
def test_keys_of_a_table_lead_to_usable_instances_that_were_not_tried(
    ids: list[str], data: st.DataObject
) -> None:
    nodes = [Instance(id, usable=data.draw(st.booleans())) for id in ids[:8]]
    tried = data.draw(st.lists(st.sampled_from(nodes)))
    balancer = Maglev(nodes, Random(1), table_size=SIZE)
    left = {node for node in nodes if node.usable and node not in tried}
    picked = {balancer.pick(key, tried) for key in KEYS}
    assert picked == (left or {None})


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 50)), min_size=2, max_size=12), st.data()
)
def test_of_two_choices_whoever_has_most_in_flight_is_never_the_better(
    pool: list[tuple[int, int]], data: st.DataObject
) -> None:
    nodes = [Instance(f"n{n}", weight, load=load) for n, (weight, load) in enumerate(pool)]
    balancer = PowerOfTwoChoices(nodes, Random(data.draw(st.integers(0, 99))))
    loads = {node: node.load / node.weight for node in nodes}
    worst = max(loads.values())
    fullest = [node for node in nodes if loads[node] == worst]
    picked = [balancer.pick(-1, ()) for _ in range(50)]
    if len(fullest) == 1:
        assert fullest[0] not in picked
    tried = data.draw(st.lists(st.sampled_from(nodes), unique=True))
    other = balancer.pick(-1, tried)
    assert other not in tried
    assert (other is None) == (len(tried) == len(nodes))


@given(
    st.integers(2, 12), st.integers(0, 99), st.floats(3.0, 400.0), st.floats(0.001, 0.05),
    st.floats(10.0, 100.0),
)  # fmt: skip
def test_an_instance_ten_times_slower_gets_a_fifth_of_its_fair_share_at_most(
    count: int, seed: int, rate: float, fast: float, slower: float
) -> None:
    """While requests come more often than what was told is forgotten: with two a second, a dozen
    instances and 10 s of `decay` it can be some more (51 of 3,000 where 50 are a fifth)."""
    nodes = instances([1] * count)
    needs = {node.id: fast for node in nodes} | {"n0": fast * slower}
    seen = served(PeakEwma(nodes, Random(seed)), needs, 3000, rate)
    assert seen["n0"] / 3000 <= 0.2 / count


@given(st.lists(st.tuples(SECONDS, st.floats(0.0, 60.0)), min_size=1, max_size=20), SECONDS)
def test_an_average_lies_between_what_was_told_and_fades(
    told: list[tuple[float, float]], decay: float
) -> None:
    [node] = nodes = instances([1])
    balancer = PeakEwma(nodes, Random(1), decay=decay)
    now = last = 0.0
    for seconds, later in told:
        now += later
        faded = last * exp(-later / decay)
        balancer.answered(node, seconds, now)
        average = balancer._average(node.key)
        if seconds >= faded:
            assert average == seconds  # A worse time counts at once,
        else:
            assert seconds <= average * (1 + 1e-9)  # and a better one little by little.
            assert average <= last * (1 + 1e-9)
        last = average
    assert last <= max(seconds for seconds, _ in told)
    balancer._now = now + decay
    assert balancer._average(node.key) == pytest.approx(last / exp(1))


WITHOUT_KEYS = [
    name for name in catalog.BALANCERS if not catalog.plug_in("balancers", name).uses_key
]


WITH_KEYS = sorted({*catalog.BALANCERS} - {*WITHOUT_KEYS})
STEPS = st.sets(st.integers(SCALE // 10, SCALE - 1), max_size=3)


@pytest.mark.parametrize("name", WITH_KEYS)
@given(IDS.filter(lambda ids: len(ids) <= 8), STEPS)
def test_in_its_slow_start_each_key_of_an_instance_comes_to_it_once(
    name: str, ids: list[str], steps: set[int]
) -> None:
    kind: Any = catalog.plug_in("balancers", name)
    nodes = [Instance(id) for id in ids]
    balancer: Balancer = kind(nodes, Random(1))
    newcomer = nodes[0]
    newcomer.usable = False
    assert balancer.changed([newcomer], [])
    before = [balancer.pick(key, ()) for key in KEYS]
    newcomer.usable = True
    for step in (*sorted(steps), SCALE):
        newcomer.share = step / SCALE
        assert balancer.changed([newcomer], [])
        after = [balancer.pick(key, ()) for key in KEYS]
        assert all(new in (old, newcomer) for old, new in zip(before, after, strict=True))
        anew: Balancer = kind(nodes, Random(1))
        assert [anew.pick(key, ()) for key in KEYS] == after  # Every worker comes to the same.
        before = after


@pytest.mark.parametrize("name", WITH_KEYS)
@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("step", [2, 5, 10, 15, 19])
def test_an_instance_in_slow_start_has_so_many_of_its_keys(
    name: str, with_key: bool, step: int
) -> None:
    kind: Any = catalog.plug_in("balancers", name)
    nodes = instances([1] * 4)
    nodes[0].share = step / SCALE
    balancer: Balancer = kind(nodes, Random(1))
    picked = Counter(balancer.pick(key if with_key else -1, ()) for key in KEYS * 5)
    assert picked[nodes[0]] / 10_000 == pytest.approx(step / SCALE / 4, rel=0.4)
    nodes[0].share = 1.0
    assert balancer.changed([nodes[0]], [])
    picked = Counter(balancer.pick(key if with_key else -1, ()) for key in KEYS * 5)
    assert picked[nodes[0]] / 10_000 == pytest.approx(1 / 4, rel=0.2)


@pytest.mark.parametrize("name", WITHOUT_KEYS)
@given(st.integers(2, 8), st.integers(SCALE // 10, SCALE), st.integers(0, 99))
def test_a_newcomer_has_the_share_of_its_slow_start(
    name: str, count: int, step: int, seed: int
) -> None:
    kind: Any = catalog.plug_in("balancers", name)
    share = step / SCALE
    nodes = instances([scaled(1, share), *[scaled(1, 1.0)] * (count - 1)])
    balancer: Balancer = kind(nodes, Random(seed))
    seen: Counter[str] = Counter()
    in_flight: list[Any] = []
    rng = Random(seed)
    for _ in range(4000):
        node: Any = balancer.pick(-1, ())
        seen[node.id] += 1
        node.load += 1
        balancer.load_changed(node)
        in_flight.append(node)
        if len(in_flight) > 40 * count:
            done = in_flight.pop(rng.randrange(len(in_flight)))
            done.load -= 1
            balancer.load_changed(done)
    assert seen["n0"] / 4000 == pytest.approx(share / (share + count - 1), rel=0.3)
