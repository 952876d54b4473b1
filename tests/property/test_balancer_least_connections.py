"""The levels of `LeastConnections` against a look at every node."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from balancers.least_connections import LeastConnections
from proxy.testing.nodes import Instance, Traffic


def fewest(nodes: list[Instance], tried: list[Instance]) -> list[Instance]:
    """All nodes that may be picked."""
    open_nodes = [node for node in nodes if node.pickable and node not in tried]
    lowest = min((Fraction(node.load, node.weight) for node in open_nodes), default=None)
    return [node for node in open_nodes if Fraction(node.load, node.weight) == lowest]


nodes = st.builds(
    Instance,
    id=st.uuids().map(str),
    weight=st.one_of(st.integers(0, 3), st.integers(0, 1 << 20)),
    usable=st.integers(0, 5).map(bool),
    load=st.integers(0, 4),
)
loads = st.one_of(st.integers(0, 3), st.integers(0, 1 << 20))


@given(st.lists(nodes, min_size=1, max_size=10), st.data())
def test_every_pick_is_one_of_the_least_loaded(pool: list[Instance], data: st.DataObject) -> None:
    traffic = Traffic(LeastConnections(pool, Random(1)))
    for action in data.draw(st.lists(st.sampled_from("bbbfsr"), max_size=60)):
        if action == "b":
            allowed = fewest(pool, [])
            if allowed:
                before = {node: node.load for node in pool}
                assert traffic.begin() in allowed
                assert sum(node.load for node in pool) == sum(before.values()) + 1
        elif action == "f" and traffic.in_flight:
            position = data.draw(st.integers(0, len(traffic.in_flight) - 1))
            if traffic.in_flight[position].load:
                traffic.finish(position)
        elif action == "s":
            traffic.set_load(data.draw(st.sampled_from(pool)), data.draw(loads))
        elif action == "r":
            tried = data.draw(st.lists(st.sampled_from(pool), unique=True))
            allowed = fewest(pool, tried)
            picked = traffic.pick(tried)
            assert picked in allowed if allowed else picked is None
