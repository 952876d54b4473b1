"""A balancer that draws at random, and stays with what it drew for a while: fewer instances have
warm connections, and their caches are warmer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import ClassVar

from balancers.base import Balancer, Node


class StickyRandom(Balancer):
    """Owns the node that is in use, and how many more requests it gets."""

    limits: ClassVar = {"requests": (1, 1_000_000)}
    meanings: ClassVar = {"requests": "Requests in a row that go to one instance."}

    def __init__(self, nodes: Sequence[Node], rng: Random, *, requests: int = 10) -> None:
        self._nodes = [node for node in nodes if node.usable and node.weight > 0]
        self._weights = [node.weight for node in self._nodes]
        self._rng = rng
        self._requests = requests
        self._node: Node | None = None
        self._left = 0

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        if self._left > 0 and self._node is not None and self._node not in tried:
            self._left -= 1
            return self._node
        nodes, weights = self._nodes, self._weights
        if tried:
            nodes = [node for node in nodes if node not in tried]
            weights = [node.weight for node in nodes]
        if not nodes:
            return None
        [node] = self._rng.choices(nodes, weights)
        if not tried:  # A second attempt is no reason to move all that follow.
            self._node, self._left = node, self._requests - 1
        return node
