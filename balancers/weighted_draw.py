"""Draws in proportion to weights, from a set of nodes that changes.

Nodes are classed by the power of two that their weight reaches. A draw first takes a class, by the
sum of the weights in it, then a node of the class at random, which stands with probability weight /
limit of the class, at least a half; else another is drawn (Matias, Vitter, Ni: Dynamic Generation
of Discrete Random Variates, 2003). So a draw and a change cost some twenty classes at most,
whatever the number of nodes and of distinct weights.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Protocol, TypeVar

from balancers.base import Node


class Weighted(Protocol):
    """An item to draw."""

    @property
    def weight(self) -> int: ...


W = TypeVar("W", bound=Weighted)


class Seat:
    """A node among those to draw from, and where it sits."""

    __slots__ = ("level", "node", "place", "weight")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.weight = node.weight
        self.place = 0
        self.level = 0.0
        """For whoever keeps several sets: which one it sits in."""


class _Class:
    __slots__ = ("limit", "mixed", "seats", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Above all weights, and at most twice any of them."""
        self.seats: list[Seat] = []
        self.total = 0
        self.mixed = False
        """There may be different weights."""


class WeightedDraw:
    """Owns a set of seats."""

    __slots__ = ("_classes", "_total")

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._total = 0

    def __bool__(self) -> bool:
        return self._total > 0

    def add(self, seat: Seat) -> None:
        """Add a seat that is in no set."""
        bits = seat.weight.bit_length()
        among = self._classes.get(bits)
        if among is None:
            among = self._classes[bits] = _Class(1 << bits)
        elif not among.mixed:
            among.mixed = among.seats[0].weight != seat.weight
        seat.place = len(among.seats)
        among.seats.append(seat)
        among.total += seat.weight
        self._total += seat.weight

    def remove(self, seat: Seat) -> None:
        """Take out a seat of this set."""
        bits = seat.weight.bit_length()
        among = self._classes[bits]
        last = among.seats.pop()
        if last is not seat:
            among.seats[seat.place] = last
            last.place = seat.place
        among.total -= seat.weight
        self._total -= seat.weight
        if not among.seats:
            del self._classes[bits]

    def draw(self, rng: Random) -> Node:
        """A node of the set, which is not empty."""
        classes = self._classes
        if len(classes) == 1:
            [among] = classes.values()
        else:
            point = rng.random() * self._total
            for among in classes.values():
                point -= among.total
                if point < 0.0:
                    break
        seats = among.seats
        if among.mixed:
            return _one_of(among, rng).node
        return seats[int(rng.random() * len(seats))].node

    def draw_avoiding(self, tried: Collection[Seat], rng: Random) -> Node | None:
        """A node of the set, as if those of these seats, which are all in it, were not; None if
        there is no other. Costs what was tried."""
        left = {bits: among.total for bits, among in self._classes.items()}
        for seat in tried:
            left[seat.weight.bit_length()] -= seat.weight
        point = rng.random() * sum(left.values())
        among: _Class | None = None
        remaining = 0
        for bits, total in left.items():
            if total:
                among, remaining = self._classes[bits], total
                point -= total
                if point < 0.0:
                    break
        if among is None:
            return None
        if remaining * 2 < among.total:
            # Most of it was tried, so that the rest is not long.
            rest = [seat for seat in among.seats if seat not in tried]
            return one_of(rest, rng).node
        while (seat := _one_of(among, rng)) in tried:
            pass
        return seat.node


def one_of(items: Sequence[W], rng: Random) -> W:
    """Draw one of a few, of which some weigh anything."""
    weights = [item.weight for item in items]
    point = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        point -= weight
        if point < 0.0:
            return item
    return items[weights.index(max(weights))]  # The sum was off by a rounding.


def _one_of(among: _Class, rng: Random) -> Seat:
    seats = among.seats
    while True:
        point = rng.random() * len(seats)
        place = int(point)
        seat = seats[place]
        if not among.mixed or (point - place) * among.limit < seat.weight:
            return seat
