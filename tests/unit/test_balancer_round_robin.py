from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from balancers.round_robin import RoundRobin
from balancers.weighted_round_robin import WeightedRoundRobin
from proxy.testing.nodes import Instance, instances
from tests.support.balancer_nodes import ids


def picks(balancer: Any, count: int) -> str:
    return ids([balancer.pick(-1, ()) for _ in range(count)])


def named(**weights: int) -> list[Instance]:
    return [Instance(id, weight) for id, weight in weights.items()]


def test_smooth_weighted_sequence_of_nginx() -> None:
    balancer = WeightedRoundRobin(named(a=5, b=1, c=1), Random(1))
    assert picks(balancer, 14) == "a a b a c a a a a b a c a a"


def test_equal_weights_go_round_in_order() -> None:
    assert picks(WeightedRoundRobin(named(a=3, b=3, c=3), Random(1)), 7) == "a b c a b c a"


def test_ties_go_to_the_first_in_order() -> None:
    assert picks(WeightedRoundRobin(named(a=1, b=2, c=2), Random(1)), 5) == "b c a b c"


def test_round_robin_starts_anywhere_and_then_keeps_the_order() -> None:
    nodes = named(a=1, b=1, c=1)
    first = Counter()
    for seed in range(300):
        sequence = picks(RoundRobin(nodes, Random(seed)), 6)
        assert sequence in ("a b c a b c", "b c a b c a", "c a b c a b")
        first[sequence[0]] += 1
    assert min(first.values()) > 70


def test_round_robin_with_unequal_weights_is_smooth() -> None:
    for seed in range(10):
        sequence = picks(RoundRobin(named(a=5, b=1, c=1), Random(seed)), 35)
        counts = Counter(sequence.split())
        assert 24 <= counts["a"] <= 26
        assert 4 <= counts["b"] <= 6
        assert "b b" not in sequence
        assert "c c" not in sequence


def test_an_equal_pool_goes_on_where_it_was() -> None:
    nodes = named(a=5, b=1, c=1)
    balancer: Any = WeightedRoundRobin(nodes, Random(1))
    sequence = []
    for _ in range(14):
        sequence.append(balancer.pick(-1, ()))
        heir = WeightedRoundRobin(nodes, Random(1))
        heir.inherit(balancer)
        balancer = heir
    assert ids(sequence) == "a a b a c a a a a b a c a a"


def test_an_heir_of_round_robin_does_not_start_anew() -> None:
    nodes = named(a=1, b=1, c=1, d=1)
    balancer: Any = RoundRobin(nodes, Random(1))
    sequence = []
    for seed in range(8):
        sequence.append(balancer.pick(-1, ()))
        heir = RoundRobin(nodes, Random(seed))
        heir.inherit(balancer)
        balancer = heir
    assert ids(sequence[:4]) == ids(sequence[4:])
    assert set(sequence) == set(nodes)


def test_a_newcomer_gets_no_burst_and_need_not_wait() -> None:
    nodes = instances([1] * 10)
    balancer = WeightedRoundRobin(nodes, Random(1))
    for _ in range(1005):
        balancer.pick(-1, ())
    heir = WeightedRoundRobin([*nodes, newcomer := Instance("new")], Random(1))
    heir.inherit(balancer)
    sequence = [heir.pick(-1, ()) for _ in range(22)]
    assert sequence[:11].count(newcomer) == 1
    assert sequence[11:].count(newcomer) == 1


def test_a_weight_that_collapses_leaves_nobody_starved() -> None:
    """With the raw values of nginx kept, the node of weight 1,000 would be owed or owe hundreds
    of picks at weight 1."""
    nodes = named(a=1000, b=700, c=1)
    balancer = WeightedRoundRobin(nodes, Random(1))
    for _ in range(357):
        balancer.pick(-1, ())
    nodes[0].weight = nodes[1].weight = 1
    heir = WeightedRoundRobin(nodes, Random(1))
    heir.inherit(balancer)
    assert set(Counter(picks(heir, 12).split()).values()) <= {3, 4, 5}


def test_a_node_that_comes_back_from_a_flap_takes_its_turn() -> None:
    nodes = named(a=1, b=1, c=1)
    balancer: Any = WeightedRoundRobin(nodes, Random(1))
    picks(balancer, 4)
    for usable in (False, True):
        nodes[1].usable = usable
        heir = WeightedRoundRobin(nodes, Random(1))
        heir.inherit(balancer)
        balancer = heir
    assert Counter(picks(balancer, 9).split()) == {"a": 3, "b": 3, "c": 3}


def test_a_node_that_fails_is_not_owed_the_retries() -> None:
    """Each request that meets `a` is tried again elsewhere; `a` must not become the first
    choice of more than its share of requests."""
    nodes = named(a=1, b=1, c=1)
    balancer = WeightedRoundRobin(nodes, Random(1))
    first: Counter[Any] = Counter()
    second: Counter[Any] = Counter()
    for _ in range(3000):
        node = balancer.pick(-1, ())
        first[node] += 1
        if node is nodes[0]:
            second[balancer.pick(-1, (node,))] += 1
    assert first[nodes[0]] == 1000
    assert abs(second[nodes[1]] - second[nodes[2]]) <= 2


def test_when_every_node_was_tried_the_rotation_stays_as_it_was() -> None:
    nodes = named(a=5, b=1, c=1)
    balancer = WeightedRoundRobin(nodes, Random(1))
    assert picks(balancer, 3) == "a a b"
    assert balancer.pick(-1, nodes) is None
    assert picks(balancer, 4) == "a c a a"


MANY = range(1, 61)
"""More distinct weights than queues are kept for."""


@pytest.mark.parametrize("kind", [RoundRobin, WeightedRoundRobin])
def test_many_weights_get_their_shares_and_are_off_by_one_pick_at_most(
    kind: type[WeightedRoundRobin],
) -> None:
    nodes = instances(MANY)
    balancer, total = kind(nodes, Random(1)), sum(MANY)
    counts: Counter[Any] = Counter()
    for turn in range(1, 3 * total):
        counts[balancer.pick(-1, ())] += 1
        if turn % 100 == 0:
            for node in nodes:
                assert abs(counts[node] - turn * node.weight / total) < 1.5


def test_many_weights_do_not_all_begin_with_the_heaviest() -> None:
    first = {RoundRobin(instances(MANY), Random(seed)).pick(-1, ()) for seed in range(40)}
    assert len({node.id for node in first if node is not None}) > 10


def test_one_of_many_weights_that_fails_is_not_owed_the_retries() -> None:
    nodes = instances(MANY)
    balancer = WeightedRoundRobin(nodes, Random(1))
    failing, first = nodes[-1], 0
    for _ in range(sum(MANY) * 10):
        node = balancer.pick(-1, ())
        first += node is failing
        if node is failing:
            assert balancer.pick(-1, (node,)) not in (None, failing)
    assert first == pytest.approx(600, abs=20)


def test_many_weights_go_on_where_they_were() -> None:
    nodes = instances(MANY)
    balancer: Any = WeightedRoundRobin(nodes, Random(1))
    counts: Counter[Any] = Counter()
    for turn in range(2 * sum(MANY)):
        counts[balancer.pick(-1, ())] += 1
        if turn % 7 == 0:
            heir = WeightedRoundRobin(nodes, Random(turn))
            heir.inherit(balancer)
            balancer = heir
    for node in nodes:
        assert counts[node] == pytest.approx(2 * node.weight, abs=3)
