from __future__ import annotations

from collections import Counter
from random import Random
from typing import NoReturn

import pytest

from balancers.least_connections import LeastConnections
from proxy.testing.nodes import Instance, Traffic, instances


def test_fewest_in_flight_wins() -> None:
    nodes = instances([1, 1, 1])
    nodes[0].load, nodes[1].load, nodes[2].load = 3, 1, 2
    assert LeastConnections(nodes, Random(1)).pick(-1, ()) is nodes[1]


def test_per_unit_of_weight() -> None:
    nodes = instances([4, 1])
    nodes[0].load, nodes[1].load = 7, 2  # 1.75 and 2 for each unit
    traffic = Traffic(LeastConnections(nodes, Random(1)))
    assert traffic.pick() is nodes[0]
    traffic.set_load(nodes[0], 9)
    assert traffic.pick() is nodes[1]


def test_an_idle_node_comes_before_a_heavy_busy_one() -> None:
    nodes = instances([10, 1])
    nodes[0].load = 1
    assert LeastConnections(nodes, Random(1)).pick(-1, ()) is nodes[1]


def test_ties_are_broken_at_random() -> None:
    nodes = instances([1, 1, 1, 1])
    nodes[3].load = 1
    balancer = LeastConnections(nodes, Random(1))
    counts = Counter(balancer.pick(-1, ()) for _ in range(6000))
    assert counts[nodes[3]] == 0
    for node in nodes[:3]:
        assert counts[node] / 6000 == pytest.approx(1 / 3, abs=0.03)


def test_ties_between_weights_count_the_weights() -> None:
    nodes = instances([3, 1, 1, 1])
    balancer = LeastConnections(nodes, Random(1))
    counts = Counter(balancer.pick(-1, ()) for _ in range(6000))
    assert counts[nodes[0]] / 6000 == pytest.approx(0.5, abs=0.03)
    assert counts[nodes[1]] / 6000 == pytest.approx(1 / 6, abs=0.03)


def test_equal_fractions_of_different_weights_tie() -> None:
    nodes = instances([3, 6, 9])
    for node, load in zip(nodes, (1, 2, 3), strict=True):
        node.load = load
    balancer = LeastConnections(nodes, Random(1))
    assert {balancer.pick(-1, ()) for _ in range(100)} == set(nodes)


def test_load_spreads_in_proportion_and_recovers_from_a_slow_node() -> None:
    nodes = instances([2, 1, 1])
    traffic = Traffic(LeastConnections(nodes, Random(1)))
    for _ in range(40):
        traffic.begin()
    assert [node.load for node in nodes] == [20, 10, 10]


def test_a_refresh_may_change_a_load_by_any_amount() -> None:
    nodes = instances([1, 1, 1])
    traffic = Traffic(LeastConnections(nodes, Random(1)))
    traffic.set_load(nodes[0], 10_000)
    traffic.set_load(nodes[1], 500)
    assert traffic.pick() is nodes[2]
    traffic.set_load(nodes[2], 501)
    assert traffic.pick() is nodes[1]
    traffic.set_load(nodes[0], 0)
    assert traffic.pick() is nodes[0]


def test_the_tried_are_passed_over_in_order_of_load() -> None:
    nodes = instances([1, 1, 1])
    nodes[1].load, nodes[2].load = 1, 2
    balancer = LeastConnections(nodes, Random(1))
    assert balancer.pick(-1, (nodes[0],)) is nodes[1]
    assert balancer.pick(-1, (nodes[0], nodes[1])) is nodes[2]
    assert balancer.pick(-1, nodes) is None


def test_loads_that_never_come_back_leave_nothing_behind() -> None:
    nodes = [Instance("low"), *instances([1, 2, 3])]
    traffic = Traffic(LeastConnections(nodes, Random(1)))
    for load in range(5000):
        traffic.set_load(nodes[1 + load % 3], 100_000 + load)
    balancer = traffic.balancer
    assert isinstance(balancer, LeastConnections)
    assert len(balancer._levels) == len(balancer._heap) < 50
    assert traffic.pick() is nodes[0]


def test_avoiding_the_one_with_the_fewest_does_not_list_all_others() -> None:
    """One that is back from an ejection has the fewest for as long as its one request lasts."""

    class Drawing(Random):
        def choices(self, *_: object, **__: object) -> NoReturn:  # type: ignore[override]
            raise AssertionError("listed")

    nodes = instances([1] * 1000)
    for node in nodes[1:]:
        node.load = 2
    balancer = LeastConnections(nodes, Drawing(1))
    for _ in range(100):
        assert balancer.pick(-1, ()) is nodes[0]
        assert balancer.pick(-1, {nodes[0]}) is not nodes[0]
