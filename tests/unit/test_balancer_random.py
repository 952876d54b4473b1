from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import pytest

from balancers.random_choice import RandomChoice
from proxy.testing.nodes import instances


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [7, 2, 1, 0], [100, 1, 1, 1]])
def test_picks_are_proportional_to_the_weights(weights: list[int]) -> None:
    nodes = instances(weights)
    balancer = RandomChoice(nodes, Random(1))
    counts = Counter(balancer.pick(-1, ()) for _ in range(20_000))
    for node in nodes:
        share = node.weight / sum(weights)
        assert counts[node] / 20_000 == pytest.approx(share, abs=0.012)


@pytest.mark.parametrize("heavy", [1, 4, 10_000])
def test_without_the_tried_the_others_keep_their_proportions(heavy: int) -> None:
    """10,000: drawing again never helps, the list of the rest has to."""
    nodes = instances([heavy, 3, 1])
    balancer = RandomChoice(nodes, Random(1))
    counts = Counter(balancer.pick(-1, (nodes[0],)) for _ in range(8000))
    assert counts[nodes[0]] == 0
    assert counts[nodes[1]] / 8000 == pytest.approx(0.75, abs=0.02)


def test_picks_do_not_depend_on_the_pick_before() -> None:
    nodes = instances([1, 1])
    balancer = RandomChoice(nodes, Random(1))
    sequence = [balancer.pick(-1, ()) for _ in range(4000)]
    repeats = sum(a is b for a, b in itertools.pairwise(sequence))
    assert repeats / 4000 == pytest.approx(0.5, abs=0.03)
