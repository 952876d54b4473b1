"""A random instance, in proportion to the weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from balancers.base import Balancer, Node
from balancers.weighted_draw import Seat, WeightedDraw

_DRAWS = 4
"""Draws that may fall on tried nodes before they are looked up. A retry has tried one or two nodes,
so in all but tiny pools the first draw is good."""


class RandomChoice(Balancer):
    """Independent picks, each node with probability weight / sum of weights."""

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        self._rng = rng
        self._usable = WeightedDraw()
        self._seats: dict[str, Seat] = {}
        for node in nodes:
            self._add(node)

    def _add(self, node: Node) -> None:
        if node.usable and node.weight > 0:
            seat = self._seats[node.key] = Seat(node)
            self._usable.add(seat)

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        for node in (*gone, *nodes):
            seat = self._seats.pop(node.key, None)
            if seat is not None:
                self._usable.remove(seat)
        for node in nodes:
            self._add(node)
        return True

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        if not self._usable:
            return None
        if not tried:
            return self._usable.draw(self._rng)
        # Drawing again until an untried node comes up is exact, not an approximation: it
        # gives the others the same proportions as if the tried ones were not there.
        for _ in range(_DRAWS):
            node = self._usable.draw(self._rng)
            if node not in tried:
                return node
        seats = [seat for key in {node.key for node in tried} if (seat := self._seats.get(key))]
        return self._usable.draw_avoiding(seats, self._rng)
