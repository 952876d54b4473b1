"""The better of two random instances, by requests in flight.

Two choices are nearly as good as looking at all, and proxies that know nothing of each other do not
all run to the same instance, as they would to the one with the fewest (Mitzenmacher: The Power of
Two Choices in Randomized Load Balancing, 2001).
"""

from __future__ import annotations

from collections.abc import Collection

from balancers.base import Node
from balancers.random_choice import RandomChoice


class PowerOfTwoChoices(RandomChoice):
    """Draws two nodes by weight and picks the one with fewer requests in flight per weight; of
    equals the first."""

    reads_load = True

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        first = super().pick(key, tried)
        if first is None or len(self._seats) == 1:
            return first
        second = super().pick(key, (*tried, first))
        if second is None or self._cost(first) <= self._cost(second):
            return first
        return second

    def _cost(self, node: Node) -> float:
        return node.load / self._seats[node.key].weight
