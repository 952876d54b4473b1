"""A random instance, in proportion to the weights."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Sequence
from itertools import accumulate
from random import Random

from balancers.base import Balancer, Node

_DRAWS = 4
"""Draws that may fall on tried nodes before the rest is listed. A retry has tried one or two
nodes, so in all but tiny pools the first draw is good."""


class RandomChoice(Balancer):
    """Independent picks, each node with probability weight / sum of weights."""

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        self._rng = rng
        self._nodes = [node for node in nodes if node.usable and node.weight > 0]
        self._weights = [node.weight for node in self._nodes]
        self._bounds = list(accumulate(self._weights))
        self._total = float(sum(self._weights))
        self._uniform = len(set(self._weights)) == 1

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        nodes = self._nodes
        if not nodes:
            return None
        if not tried:
            return self._draw()
        # Drawing again until an untried node comes up is exact, not an approximation: it
        # gives the others the same proportions as if the tried ones were not there.
        for _ in range(_DRAWS):
            node = self._draw()
            if node not in tried:
                return node
        rest = [order for order, node in enumerate(nodes) if node not in tried]
        if not rest:
            return None
        weights = [self._weights[order] for order in rest]
        return nodes[self._rng.choices(rest, weights)[0]]

    def _draw(self) -> Node:
        nodes = self._nodes
        if self._uniform:
            return nodes[int(self._rng.random() * len(nodes))]
        # The upper end of the search is a guard against rounding of the product.
        point = self._rng.random() * self._total
        return nodes[bisect(self._bounds, point, 0, len(nodes) - 1)]
