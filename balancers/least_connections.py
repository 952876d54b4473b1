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
from balancers.weighted_draw import Seat, WeightedDraw


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
        self._levels: dict[float, WeightedDraw] = {}
        self._heap: list[float] = []
        self._seats: dict[str, Seat] = {}
        self._most_levels = 2 * len(nodes) + 16
        for node in nodes:
            self._add(node)

    def _add(self, node: Node) -> None:
        if node.usable and node.weight > 0:
            seat = self._seats[node.key] = Seat(node)
            self._sit(seat, node.load / node.weight)

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        for node in (*gone, *nodes):
            seat = self._seats.pop(node.key, None)
            if seat is not None:
                self._levels[seat.level].remove(seat)
        for node in nodes:
            self._add(node)
        self._most_levels = 2 * len(self._seats) + 16
        return True

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        heap, levels = self._heap, self._levels
        while heap:
            level = levels[heap[0]]
            if level:
                break
            del levels[heappop(heap)]
        else:
            return None
        node = level.draw(self._rng)
        return node if not tried or node not in tried else self._pick_avoiding(tried)

    def _pick_avoiding(self, tried: Collection[Node]) -> Node | None:
        """The lowest level with an untried node is not always the lowest of all: a node that is
        avoided while it is tried out has the fewest requests."""
        avoided: dict[float, list[Seat]] = {}
        for key in {node.key for node in tried}:
            seat = self._seats.get(key)
            if seat is not None:
                avoided.setdefault(seat.level, []).append(seat)
        passed = []
        node: Node | None = None
        while self._heap and node is None:
            height = heappop(self._heap)
            level = self._levels[height]
            if level:
                passed.append(height)
                node = level.draw_avoiding(avoided.get(height, ()), self._rng)
            else:
                del self._levels[height]
        for height in passed:
            heappush(self._heap, height)
        return node

    def load_changed(self, node: Node) -> None:
        seat = self._seats.get(node.key)
        if seat is None:
            return
        new = node.load / seat.weight
        if new != seat.level:
            self._levels[seat.level].remove(seat)
            self._sit(seat, new)

    def _sit(self, seat: Seat, height: float) -> None:
        level = self._levels.get(height)
        if level is None:
            level = self._add_level(height)
        seat.level = height
        level.add(seat)

    def _add_level(self, height: float) -> WeightedDraw:
        """Empty levels that never become the lowest would stay for ever. As no more levels
        are in use than there are nodes, clearing them out is rare: once in as many new levels
        as there are nodes."""
        levels, heap = self._levels, self._heap
        if len(heap) >= self._most_levels:
            self._levels = levels = {at: level for at, level in levels.items() if level}
            heap[:] = levels
            heapify(heap)
        level = levels[height] = WeightedDraw()
        heappush(heap, height)
        return level
