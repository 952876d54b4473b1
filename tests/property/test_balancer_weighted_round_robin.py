"""The queues of `WeightedRoundRobin` against nginx's loop, taken literally."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from balancers.weighted_round_robin import WeightedRoundRobin
from proxy.testing.nodes import Instance


class Literal:
    """nginx's algorithm as it is written there: every node, every time."""

    def __init__(self, nodes: list[Instance]) -> None:
        self.nodes = [node for node in nodes if node.pickable]
        self.weights = {node.key: node.weight for node in self.nodes}
        self.currents = {node.key: 0 for node in self.nodes}

    def pick(self, tried: list[Any]) -> Instance | None:
        best = None
        total = 0
        for node in self.nodes:
            if node in tried:
                continue
            total += self.weights[node.key]
            self.currents[node.key] += self.weights[node.key]
            if best is None or self.currents[node.key] > self.currents[best.key]:
                best = node
        if best is not None:
            self.currents[best.key] -= total
        return best

    def inherit(self, previous: Literal) -> None:
        old, new = sum(previous.weights.values()), sum(self.weights.values())
        kept = {
            key: current * new // old
            for key, current in previous.currents.items()
            if key in self.currents
        }
        if kept:
            mean = sum(kept.values()) // len(kept)
            self.currents |= {key: current - mean for key, current in kept.items()}


few_weights = st.sampled_from([0, 1, 1, 1, 2, 3, 5])
any_weights = st.integers(0, 1000)
pools = st.one_of(
    st.lists(few_weights, min_size=1, max_size=12), st.lists(any_weights, min_size=1, max_size=12)
)


@given(pools, st.integers(1, 200))
def test_the_sequence_is_that_of_nginx(weights: list[int], count: int) -> None:
    nodes = [Instance(f"n{number}", weight) for number, weight in enumerate(weights)]
    balancer, literal = WeightedRoundRobin(nodes, Random(1)), Literal(nodes)
    for _ in range(count):
        assert balancer.pick(-1, ()) is literal.pick([])


@given(st.data())
def test_picks_with_retries_and_changes_are_those_of_nginx(data: st.DataObject) -> None:
    everyone = [Instance(f"n{number}") for number in range(8)]
    pool = list(everyone)
    balancer, literal = WeightedRoundRobin(pool, Random(1)), Literal(pool)
    for _ in range(data.draw(st.integers(1, 8))):
        for tries in data.draw(st.lists(st.integers(1, 4), max_size=25)):
            tried: list[Any] = []
            for _ in range(tries):
                picked = balancer.pick(-1, tuple(tried))
                assert picked is literal.pick(tried)
                if picked is not None:
                    tried.append(picked)
        pool = data.draw(st.lists(st.sampled_from(everyone), unique=True))
        for node in pool:
            node.weight = data.draw(st.one_of(few_weights, any_weights))
            node.usable = data.draw(st.integers(0, 4)) > 0
        heir, literal_heir = WeightedRoundRobin(pool, Random(1)), Literal(pool)
        heir.inherit(balancer)
        literal_heir.inherit(literal)
        balancer, literal = heir, literal_heir


@given(
    st.lists(few_weights, min_size=10, max_size=40),
    st.lists(st.sets(st.integers(0, 39)), min_size=1, max_size=25),
)
def test_picks_are_those_of_nginx_with_many_that_are_passed_over(
    weights: list[int], turns: list[set[int]]
) -> None:
    nodes = [Instance(f"n{number}", weight) for number, weight in enumerate(weights)]
    balancer, literal = WeightedRoundRobin(nodes, Random(1)), Literal(nodes)
    for turn in turns:
        avoided: list[Any] = [nodes[number] for number in turn if number < len(nodes)]
        assert balancer.pick(-1, set(avoided)) is literal.pick(avoided)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_one_cycle_gives_each_node_its_weight_exactly(weights: list[int]) -> None:
    nodes = [Instance(f"n{number}", weight) for number, weight in enumerate(weights)]
    balancer = WeightedRoundRobin(nodes, Random(1))
    picked = [balancer.pick(-1, ()) for _ in range(sum(weights))]
    assert [picked.count(node) for node in nodes] == weights
