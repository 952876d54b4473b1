"""Fewest requests in flight per unit of weight.

The measure is load / weight, the pending request not counted: an idle instance comes before
a busy one whatever their weights (as in nginx and HAProxy), so a light instance is never
starved while the heavy ones still have room. Ties are broken at random in proportion to the
weights: in a pool with little traffic, where nearly every pick is a tie among idle instances,
weights then mean what they mean elsewhere, and proxies that do not know of each other do not
all run to the same instance.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from random import Random

from balancers.base import Balancer, Node


class _Seat:
    """Where a node sits: in which lane, at which position."""

    __slots__ = ("lane", "level", "node", "position", "weight")

    def __init__(self, node: Node, level: float, lane: list[_Seat]) -> None:
        self.node = node
        self.weight = node.weight
        self.level = level
        self.lane = lane
        self.position = len(lane)
        lane.append(self)


_DRAWS = 4
"""Draws that may fall on tried nodes before the rest is listed. A retry has tried one or two
nodes, so in all but small levels the first draw is good."""

_Level = dict[int, list[_Seat]]
"""Weight → lane: all nodes of that weight at this level, in no order."""


class LeastConnections(Balancer):
    """Owns the nodes' sorting by load, which `load_changed` keeps exact.

    Nodes with the same load / weight form a level. A heap knows the lowest level, a node
    moves between levels in constant time, and the heap is touched only when a level appears
    or is found empty, so neither a pick nor a change of load grows with the pool.

    Levels are floats, yet equal exactly when the fractions are: two fractions with
    numerators and denominators under 2**26 differ by more than the rounding of a division.
    """

    reads_load = True

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        self._rng = rng
        self._levels: dict[float, _Level] = {}
        self._heap: list[float] = []
        self._seats: dict[str, _Seat] = {}
        for node in nodes:
            if node.usable and node.weight > 0:
                level = node.load / node.weight
                lane = self._levels.setdefault(level, {}).setdefault(node.weight, [])
                self._seats[node.key] = _Seat(node, level, lane)
        self._heap = sorted(self._levels)
        self._most_levels = 2 * len(self._seats) + 16

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        heap, levels = self._heap, self._levels
        while heap:
            level = levels[heap[0]]
            if level:
                break
            del levels[heappop(heap)]
        else:
            return None
        node = self._draw(level)
        return node if not tried or node not in tried else self._pick_avoiding(tried)

    def _draw(self, level: _Level) -> Node:
        if len(level) == 1:
            [lane] = level.values()
        else:
            # A lane counts as much as all its nodes together.
            lanes = list(level.values())
            weights = [weight * len(lane) for weight, lane in level.items()]
            [lane] = self._rng.choices(lanes, weights)
        if len(lane) == 1:
            return lane[0].node
        return lane[int(self._rng.random() * len(lane))].node

    def _pick_avoiding(self, tried: Collection[Node]) -> Node | None:
        # Drawing again until an untried node comes up keeps the proportions exact, and spares
        # listing a large level. That one is not always the lowest: a node that is avoided while
        # it is tried out has the fewest requests of all.
        for height in sorted(self._levels):
            level = self._levels[height]
            if not level:
                continue
            for _ in range(_DRAWS):
                node = self._draw(level)
                if node not in tried:
                    return node
            seats = [seat for lane in level.values() for seat in lane if seat.node not in tried]
            if seats:
                return self._rng.choices(seats, [seat.weight for seat in seats])[0].node
        return None

    def load_changed(self, node: Node) -> None:
        seat = self._seats.get(node.key)
        if seat is None:
            return
        old, new = seat.level, node.load / seat.weight
        if new == old:
            return
        lane = seat.lane
        last = lane.pop()
        if last is not seat:
            lane[seat.position] = last
            last.position = seat.position
        if not lane:
            del self._levels[old][seat.weight]
        level = self._levels.get(new)
        if level is None:
            level = self._add_level(new)
        seat.level = new
        seat.lane = lane = level.setdefault(seat.weight, [])
        seat.position = len(lane)
        lane.append(seat)

    def _add_level(self, at: float) -> _Level:
        """Empty levels that never become the lowest would stay for ever. As no more levels
        are in use than there are nodes, clearing them out is rare: once in as many new levels
        as there are nodes."""
        levels, heap = self._levels, self._heap
        if len(heap) >= self._most_levels:
            self._levels = levels = {height: level for height, level in levels.items() if level}
            heap[:] = levels
            heapify(heap)
        level: _Level = {}
        levels[at] = level
        heappush(heap, at)
        return level
