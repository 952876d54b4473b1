from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush
from random import Random
from typing import Any

import pytest

from balancers.base import Balancer
from balancers.p2c import PowerOfTwoChoices
from balancers.peak_ewma import PeakEwma
from proxy.testing.nodes import Instance, instances


def served(balancer: Balancer, needs: dict[str, float], count: int, rate: float) -> Counter[str]:
    """Who gets how many of `count` requests that come at random, `rate` a second, whatever becomes
    of those before; `needs`: seconds of each instance for one."""
    rng, now, arrival = Random(5), 0.0, 0.0
    seen: Counter[str] = Counter()
    ends: list[tuple[float, int, Any, float]] = []
    for number in range(count):
        arrival += rng.expovariate(rate)
        while ends and ends[0][0] <= arrival:
            now, _, node, began = heappop(ends)
            node.load -= 1
            balancer.load_changed(node)
            balancer.answered(node, now - began, now)
        node = balancer.pick(-1, ())
        assert node is not None
        seen[node.id] += 1
        node.load += 1  # type: ignore[misc]
        balancer.load_changed(node)
        heappush(ends, (arrival + needs[node.id], number, node, arrival))
    return seen


@pytest.mark.parametrize("rate", [2.0, 20.0, 200.0])
def test_an_instance_that_is_ten_times_slower_gets_less_than_a_fifth_of_its_share(
    rate: float,
) -> None:
    nodes = instances([1] * 5)
    needs = {node.id: 0.02 for node in nodes} | {"n0": 0.2}
    seen = served(PeakEwma(nodes, Random(1)), needs, 5000, rate)
    assert seen["n0"] / 5000 < 0.2 / 5
    for node in nodes[1:]:
        assert seen[node.id] / 5000 == pytest.approx(0.25, rel=0.4)


def test_an_instance_that_has_become_fast_is_found_out() -> None:
    nodes = instances([1] * 4)
    balancer = PeakEwma(nodes, Random(1), decay=1.0)
    slow = {node.id: 0.01 for node in nodes} | {"n0": 0.5}
    served(balancer, slow, 2000, 100.0)
    for node in nodes:
        node.load = 0
    balancer._now = 0.0
    balancer._averages = {key: (seconds, 0.0) for key, (seconds, _) in balancer._averages.items()}
    seen = served(balancer, dict.fromkeys(slow, 0.01), 2000, 100.0)
    assert seen["n0"] / 2000 > 0.15


def test_a_newcomer_is_asked_once_and_then_by_what_it_said() -> None:
    nodes = instances([1, 1])
    balancer = PeakEwma(nodes, Random(1))
    balancer.answered(nodes[0], 0.01, 1.0)
    assert balancer.pick(-1, ()) is nodes[1]
    nodes[1].load = 1
    assert {balancer.pick(-1, ()) for _ in range(20)} == {nodes[0]}


def test_an_average_follows_a_worse_time_at_once_and_a_better_one_slowly() -> None:
    [node] = instances([1])
    balancer = PeakEwma([node], Random(1))
    for seconds, now, low, high in ((0.1, 0, 0.1, 0.1), (1.0, 1, 1, 1), (0.1, 2, 0.9, 0.95)):
        balancer.answered(node, seconds, float(now))
        assert low <= balancer._average(node.key) <= high


def test_averages_survive_an_update() -> None:
    nodes = instances([1, 1, 1])
    old = PeakEwma(nodes, Random(1))
    for node, seconds in zip(nodes, (1.0, 0.01, 0.02), strict=True):
        old.answered(node, seconds, 5.0)
    heir = PeakEwma([*nodes[:2], Instance("new")], Random(1))
    heir.inherit(old)
    assert heir._averages == {node.key: old._averages[node.key] for node in nodes[:2]}
    assert heir.changed([], [nodes[0]])
    assert nodes[0].key not in heir._averages


def test_two_choices_spread_better_than_one() -> None:
    def spread(kind: type[Balancer]) -> int:
        nodes = instances([1] * 50)
        balancer = kind(nodes, Random(2))
        for _ in range(500):
            node: Any = balancer.pick(-1, ())
            node.load += 1
        return max(node.load for node in nodes) - min(node.load for node in nodes)

    assert spread(PowerOfTwoChoices) <= 6
