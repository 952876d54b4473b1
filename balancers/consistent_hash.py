"""Consistent hashing on a ring, after ketama, with optional bounded load.

Each instance owns many points on a circle of 2**64; a key belongs to the first point at or
after it. A joining instance takes keys only for itself and a leaving one gives away only its
own, about 1/n of them. (Karger et al. 1997; the layout of many points for each server is
libketama's; bounded load is Mirrokni, Thorup, Zadimoghaddam 2018.)

All registered nodes are on the ring, and those that are not usable are passed over at the
lookup. The result is the same as on a ring without them, so when an instance flaps its own
keys move to the next instances and come back, and no other key moves.

The points of an instance come from its id alone, not from its endpoint: an instance that is
deployed again on another address (a StatefulSet's pod, a rescheduled container) keeps its
keys, and no key of any other instance moves. They do not come from Python's `hash()`, which
differs between processes, so the ring is the same in every worker and after every start.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from hashlib import shake_128
from math import ceil
from random import Random
from typing import ClassVar, Self

from balancers.base import NO_KEY, Balancer, Node
from balancers.random_choice import RandomChoice

MAX_POINTS = 1 << 18
"""Most points of one ring: 5 MiB, and 1,600 instances of weight 1 with the usual 160 points.
Beyond it all instances get half as many points, or a quarter, and so on."""

STRETCH = 1024
"""Points of a stretch of the ring, roughly: where one is put in, those behind it move."""

PIECE = 256
"""Points that are put in or taken out at a time: a quarter of a millisecond."""

_CIRCLE = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio: multiplied with it, even consecutive keys lie far apart."""


class ConsistentHash(Balancer):
    """A key's instance; without a key, a random one.

    `virtual_nodes`: points for each unit of weight. `bounded_load`: 0 = off, else at least 1:
    an instance takes no request that would bring it above this multiple of the mean load for
    its weight; the request walks on to the next instance on the ring that has room.

    The ring is laid out bit by bit in `settle`, at a start from nothing, and where much of it is
    another: a thousand instances take a tenth of a second. A key belongs to one of those that are
    on it so far, and each that comes takes keys only for itself. One in slow start has the first of
    its points, and then more of them.
    """

    uses_key = True
    limits: ClassVar = {"virtual_nodes": (1, 10_000), "bounded_load": (1.0, 100.0)}
    meanings: ClassVar = {
        "virtual_nodes": "points on the ring for each unit of weight, 1 to 10000.",
        "bounded_load": "no instance gets more than this multiple of the mean load, 1 to 100."
        " 0 = no bound.",
    }

    def __init__(
        self,
        nodes: Sequence[Node],
        rng: Random,
        *,
        virtual_nodes: int = 160,
        bounded_load: float = 0.0,
    ) -> None:
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes: {virtual_nodes}: must be at least 1")
        if bounded_load and bounded_load < 1.0:
            raise ValueError(f"bounded_load: {bounded_load}: must be 0 (off) or at least 1")
        self._rng = rng
        self._keyless = RandomChoice(nodes, rng)
        self._usable = {node.id: node for node in nodes if node.usable and node.weight > 0}
        self._weights = {node.id: node.weight for node in nodes}
        self._shares = {node.id: node.share for node in nodes if node.share < 1.0}
        self._virtual_nodes = virtual_nodes
        self._all_weights = sum(self._weights.values())
        self._halvings = _halvings(self._all_weights * virtual_nodes)
        self._ring = _Ring()
        self._owners: list[Node | None] = []
        """Owner number on the ring → node, None if it is not usable."""
        self._pending: dict[str, None] = dict.fromkeys(self._weights)
        """Ids whose points on the ring may not be those that they are to have."""
        self._is_settled_elsewhere = False
        """Whether `settle` is called, so that `pick` need not wait for all of it."""

        self.reads_load = self.follows_load = bounded_load > 0
        self._bound = bounded_load
        self._weight = {node.key: node.weight * node.share for node in self._usable.values()}
        self._total_weight = sum(self._weight.values())
        self._loads: dict[str, int] = {}
        """Of the usable ones; empty without a bound."""
        if bounded_load:
            self._loads = {node.key: node.load for node in self._usable.values()}
        self._total_load = sum(self._loads.values())

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        if key == NO_KEY:
            if not self._bound and not self._shares:
                return self._keyless.pick(key, tried)
            key = self._rng.getrandbits(64)
        if self._pending and not self._is_settled_elsewhere:
            self._go_on(sys.maxsize)
        ring, owners = self._ring, self._owners
        if (tried or not self._usable) and not self._any_left(tried):
            return None
        point = key * _SPREAD & _CIRCLE
        if self._bound:
            return self._walk_bounded(point, tried)
        points, numbers = ring.buckets[point >> ring.shift]
        place = bisect_left(points, point)
        if place < len(numbers) and not tried:
            node = owners[numbers[place]]
            if node is not None:
                return node
        for number in ring.owners_from(point):
            node = owners[number]
            if node is not None and (not tried or node not in tried):
                return node
        return self._keyless.pick(NO_KEY, tried) if self._pending else None

    def _any_left(self, tried: Collection[Node]) -> bool:
        """Looks at no more nodes than were tried, plus one."""
        return len(tried) < len(self._usable) or any(
            node not in tried for node in self._usable.values()
        )

    def _walk_bounded(self, point: int, tried: Collection[Node]) -> Node | None:
        """The first untried node with room for this request too. When only tried nodes have
        room, the first untried one: the bound yields before the retry fails."""
        owners = self._owners
        fair_share = self._bound * (self._total_load + 1) / self._total_weight
        first: Node | None = None
        passed: set[int] = set()
        for number in self._ring.owners_from(point):
            node = owners[number]
            if node is None or number in passed:
                continue
            if node not in tried:
                # The subtrahend keeps a rounding error from raising a whole limit by one.
                if node.load < ceil(fair_share * self._weight[node.key] - 1e-9):
                    return node
                first = first or node
            passed.add(number)
            if len(passed) == len(self._usable):
                break
        if first is None and self._pending:
            return self._keyless.pick(NO_KEY, tried)
        return first

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        """In place; what the ring has to do with it is left to `settle`."""
        before = sum(self._weights.get(id, 0) for id in {node.id for node in (*gone, *nodes)})
        self._keyless.changed(nodes, gone)
        for node in (*gone, *nodes):
            used = self._usable.pop(node.id, None)
            if used is not None:
                self._total_weight -= self._weight.pop(used.key)
                self._total_load -= self._loads.pop(used.key, 0)
            self._weights.pop(node.id, None)
            self._shares.pop(node.id, None)
        for node in nodes:
            self._weights[node.id] = node.weight
            if node.share < 1.0:
                self._shares[node.id] = node.share
            if node.usable and node.weight > 0:
                self._usable[node.id] = node
                self._weight[node.key] = node.weight * node.share
                self._total_weight += self._weight[node.key]
                if self._bound:
                    self._loads[node.key] = node.load
                    self._total_load += node.load
        self._all_weights += sum(self._weights.get(i, 0) for i in {n.id for n in (*gone, *nodes)})
        self._all_weights -= before
        for node in (*gone, *nodes):
            number = self._ring.numbers.get(node.id)
            if number is not None:
                self._owners[number] = self._usable.get(node.id)
            self._note(node.id)
        halvings = _halvings(self._all_weights * self._virtual_nodes)
        if halvings != self._halvings:
            self._halvings = halvings
            self._pending = dict.fromkeys(self._weights) | self._pending
        return True

    def load_changed(self, node: Node) -> None:
        known = self._loads.get(node.key)
        if known is not None:
            load = node.load
            self._total_load += load - known
            self._loads[node.key] = load

    def inherit(self, previous: Self) -> None:
        """Take over the ring, on which what differs is changed by and by."""
        self._ring = ring = previous._ring
        self._owners = [None if id is None else self._usable.get(id) for id in ring.ids]
        self._pending = {}
        for id in self._weights.keys() | ring.numbers.keys():
            self._note(id)

    def settle(self) -> bool:
        """See `Balancer`."""
        self._is_settled_elsewhere = True
        return self._go_on(PIECE)

    def _note(self, id: str) -> None:
        """Remember an instance whose points are to be others."""
        if self._ring.counts.get(id, 0) != self._count(id):
            self._pending[id] = None

    def _count(self, id: str) -> int:
        """How many points an instance is to have. A function of the membership alone: every worker
        must come to the same ring, whatever it has seen before."""
        points = _point_count(self._weights.get(id, 0) * self._virtual_nodes, self._halvings)
        return ceil(points * self._shares.get(id, 1.0))

    def _go_on(self, points: int) -> bool:
        """Put in or take out as many points. True if there are more to come."""
        ring, owners = self._ring, self._owners
        while self._pending:
            if points <= 0:
                return True
            id, _ = self._pending.popitem()
            wanted = self._count(id)
            number, moved = ring.move(id, wanted, points)
            points -= moved + 1
            while number >= len(owners):
                owners.append(None)
            owners[number] = self._usable.get(id)
            if ring.counts.get(id, 0) != wanted:
                self._pending[id] = None
        return False


def _halvings(points: int) -> int:
    """How often the points of all instances are halved. Not in smaller steps, so that a ring near
    the bound does not change at every join."""
    return max(0, (points - 1) // MAX_POINTS).bit_length()


def _point_count(points: int, halvings: int) -> int:
    return max(1, points >> halvings) if points else 0


def _points_of(id: str, count: int) -> array[int]:
    """The first `count` points of an instance: an unbounded stream from which a change of
    weight takes more or less, so that the points already there stay."""
    points = array("Q", shake_128(id.encode()).digest(8 * count))
    if sys.byteorder == "big":
        points.byteswap()
    return points


class _Ring:
    """All points of all instances, in stretches of the circle."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """Id → its number of points."""
        self.ids: list[str | None] = []
        """Owner number → id; None for a number that is free."""
        self.numbers: dict[str, int] = {}
        """Id → owner number."""
        self.size = 0
        self.shift = 64
        """A point lies in the bucket of the number that is left when it is shifted by this."""
        self.buckets: list[_Bucket] = [(array("Q"), array("I"))]
        self._free: list[int] = []
        self._moving = ("", array("Q"))
        """The instance that has gone some of its way, and all points on that: to make them is dear,
        and a heavy one's are a quarter of a million."""

    def move(self, id: str, count: int, most: int) -> tuple[int, int]:
        """Let an instance have this many points, or go some of the way: `most` points. Returns its
        number, and the number of points that were put in or taken out."""
        before, wanted = self.counts.get(id, 0), count
        if self._moving[0] != id or len(self._moving[1]) < max(before, wanted):
            self._moving = id, _points_of(id, max(before, wanted))
        points = self._moving[1]
        count = max(before - most, min(before + most, count))
        number = self.numbers.get(id)
        if number is None:
            if not self._free:
                self._free.append(len(self.ids))
                self.ids.append(None)
            number = self.numbers[id] = self._free.pop()
            self.ids[number] = id
        low, high = sorted((before, count))
        shift, buckets = self.shift, self.buckets
        for point in points[low:high]:
            _edit(buckets[point >> shift], point, number, count > before)
        if count == wanted:
            self._moving = "", array("Q")
        self.size += count - before
        if count:
            self.counts[id] = count
        else:
            self.counts.pop(id, None)
            del self.numbers[id]
            self.ids[number] = None
            self._free.append(number)
        if self.size > 2 * STRETCH * len(buckets):
            self._halve_stretches()
        elif self.size * 4 < STRETCH * len(buckets) and len(buckets) > 1:
            self._double_stretches()
        return number, high - low

    def _halve_stretches(self) -> None:
        self.shift -= 1
        halves: list[_Bucket] = []
        for at, (points, numbers) in enumerate(self.buckets):
            place = bisect_left(points, (2 * at + 1) << self.shift)
            halves += (points[:place], numbers[:place]), (points[place:], numbers[place:])
        self.buckets = halves

    def _double_stretches(self) -> None:
        self.shift += 1
        pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
        self.buckets = [(low[0] + high[0], low[1] + high[1]) for low, high in pairs]

    def owners_from(self, point: int) -> Iterator[int]:
        """The numbers of the owners of all points, once around from this point on."""
        first = point >> self.shift
        points, numbers = self.buckets[first]
        place = bisect_left(points, point)
        yield from numbers[place:]
        for at in (*range(first + 1, len(self.buckets)), *range(first)):
            yield from self.buckets[at][1]
        yield from numbers[:place]


_Bucket = tuple["array[int]", "array[int]"]
"""The points of one stretch of the circle in ascending order, and for each the number of its
owner."""


def _edit(bucket: _Bucket, point: int, number: int, is_new: bool) -> None:
    points, numbers = bucket
    place = bisect_left(points, point)
    # Two instances' points coincide in one ring of 10**9; then the lower number wins.
    while place < len(points) and points[place] == point and numbers[place] < number:
        place += 1
    if is_new:
        points.insert(place, point)
        numbers.insert(place, number)
    else:
        del points[place], numbers[place]
