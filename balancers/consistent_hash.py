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
"""Points that are sorted at a time, roughly: with a thousand instances that takes a millisecond."""

_NUMBER = 0xFFFFFFFF
_CIRCLE = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio: multiplied with it, even consecutive keys lie far apart."""


class ConsistentHash(Balancer):
    """A key's instance; without a key, a random one.

    `virtual_nodes`: points for each unit of weight. `bounded_load`: 0 = off, else at least 1:
    an instance takes no request that would bring it above this multiple of the mean load for
    its weight; the request walks on to the next instance on the ring that has room.

    The ring is laid out in `inherit`, which changes only what differs from the previous one:
    nothing at all when instances have merely changed their health. A balancer that inherits
    from nobody lays it out at its first pick.
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
        self._virtual_nodes = virtual_nodes
        self._all_weights = sum(self._weights.values())
        self._halvings = _halvings(self._all_weights * virtual_nodes)
        self._ring: _Ring | None = None
        self._owners: list[Node | None] = []
        """Owner number on the ring → node, None if it is not usable."""

        self.reads_load = self.follows_load = bounded_load > 0
        self._bound = bounded_load
        self._weight = {node.key: node.weight for node in self._usable.values()}
        self._total_weight = sum(self._weight.values())
        self._loads: dict[str, int] = {}
        """Of the usable ones; empty without a bound."""
        if bounded_load:
            self._loads = {node.key: node.load for node in self._usable.values()}
        self._total_load = sum(self._loads.values())

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        if key == NO_KEY:
            if not self._bound:
                return self._keyless.pick(key, tried)
            key = self._rng.getrandbits(64)
        if self._ring is None:
            self._lay_out(_Ring.of(self._counts()))
        ring, owners = self._ring, self._owners
        assert ring is not None
        if (tried or not self._usable) and not self._any_left(tried):
            return None
        point = key * _SPREAD & _CIRCLE
        if self._bound:
            return self._walk_bounded(point, tried)
        points, numbers = ring.buckets[point >> ring.shift] or ring.bucket(point >> ring.shift)
        place = bisect_left(points, point)
        if place < len(numbers) and not tried:
            node = owners[numbers[place]]
            if node is not None:
                return node
        for number in ring.owners_from(point):
            node = owners[number]
            if node is not None and (not tried or node not in tried):
                return node
        return None

    def _any_left(self, tried: Collection[Node]) -> bool:
        """Looks at no more nodes than were tried, plus one."""
        return len(tried) < len(self._usable) or any(
            node not in tried for node in self._usable.values()
        )

    def _walk_bounded(self, point: int, tried: Collection[Node]) -> Node | None:
        """The first untried node with room for this request too. When only tried nodes have
        room, the first untried one: the bound yields before the retry fails."""
        assert self._ring is not None
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
        return first

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        """In place unless much of the ring is to be laid out again."""
        ring = self._ring
        before = {node.id: self._weights.get(node.id, 0) for node in (*gone, *nodes)}
        after = dict.fromkeys(before, 0) | {node.id: node.weight for node in nodes}
        total = self._all_weights + sum(after.values()) - sum(before.values())
        halvings = _halvings(total * self._virtual_nodes)
        if ring is None or halvings != self._halvings:
            return False
        counts = {id: _point_count(w * self._virtual_nodes, halvings) for id, w in after.items()}
        if not ring.is_near(counts):
            return False
        self._all_weights = total
        self._keyless.changed(nodes, gone)
        for node in (*gone, *nodes):
            used = self._usable.pop(node.id, None)
            if used is not None:
                self._total_weight -= self._weight.pop(used.key)
                self._total_load -= self._loads.pop(used.key, 0)
            self._weights.pop(node.id, None)
        for node in nodes:
            self._weights[node.id] = node.weight
            if node.usable and node.weight > 0:
                self._usable[node.id] = node
                self._weight[node.key] = node.weight
                self._total_weight += node.weight
                if self._bound:
                    self._loads[node.key] = node.load
                    self._total_load += node.load
        for id, count in counts.items():
            ring.put(id, count)
            number = ring.numbers.get(id)
            if number is not None:
                while number >= len(self._owners):
                    self._owners.append(None)
                self._owners[number] = self._usable.get(id)
        return True

    def load_changed(self, node: Node) -> None:
        known = self._loads.get(node.key)
        if known is not None:
            load = node.load
            self._total_load += load - known
            self._loads[node.key] = load

    def inherit(self, previous: Self) -> None:
        """Take over the ring: as it is if it has the same points, else with those points
        taken out and put in that differ."""
        ring = previous._ring
        counts = self._counts()
        self._lay_out(_Ring.of(counts) if ring is None else ring.changed_to(counts))

    def _counts(self) -> dict[str, int]:
        """Points for each id that has any. A pure function of the membership: every worker must
        come to the same ring, whatever it has seen before."""
        return {
            id: _point_count(weight * self._virtual_nodes, self._halvings)
            for id, weight in self._weights.items()
            if weight > 0
        }

    def _lay_out(self, ring: _Ring) -> None:
        self._ring = ring
        self._owners = [None if id is None else self._usable.get(id) for id in ring.ids]


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


_Bucket = tuple["array[int]", "array[int]"]
"""The points of one stretch of the circle in ascending order, and for each the number of its
owner. A ring and the one that takes its place share it until either is changed."""


class _Ring:
    """All points of all instances, each instance's in order; the order of all of them is made
    stretch by stretch, when a key falls into one.

    To sort the points of a thousand instances takes a tenth of a second, in which a worker would
    serve nobody; a stretch of `STRETCH` points takes a millisecond, once. Only what is not laid
    out yet is ever added to a ring.
    """

    def __init__(
        self, counts: dict[str, int], ids: list[str | None], stocks: list[array[int] | None]
    ) -> None:
        self.counts = counts
        """Id → its number of points."""
        self.ids = ids
        """Owner number → id; None for a number that is free."""
        self.numbers = {id: number for number, id in enumerate(ids) if id is not None}
        self._stocks = stocks
        """Owner number → its points in ascending order."""
        self._free = [number for number, id in enumerate(ids) if id is None]
        self.size = sum(counts.values())
        bits = max(0, self.size // STRETCH).bit_length()
        self.shift = 64 - bits
        """A point lies in the bucket of the number that is left when it is shifted by this."""
        self.buckets: list[_Bucket | None] = [None] * (1 << bits)

    @classmethod
    def of(cls, counts: dict[str, int]) -> Self:
        """A ring from nothing."""
        return cls(counts, list(counts), [_stock(id, count) for id, count in counts.items()])

    def changed_to(self, counts: dict[str, int]) -> _Ring:
        """The ring with these points instead. Costs what differs, and a copy of the stretches
        in which it does."""
        old = self.counts
        if counts == old:
            return self
        differing = [id for id in old.keys() | counts.keys() if old.get(id) != counts.get(id)]
        numbers = dict(self.numbers)
        ids, stocks = list(self.ids), list(self._stocks)
        free = [number for number, id in enumerate(ids) if id is None]
        edits: list[tuple[int, int, bool]] = []
        changed = sum(abs(counts.get(id, 0) - old.get(id, 0)) for id in differing)
        for id in differing:
            before, after = old.get(id, 0), counts.get(id, 0)
            if not before:
                if not free:
                    free.append(len(ids))
                    ids.append(None)
                    stocks.append(None)
                numbers[id] = free.pop()
                ids[numbers[id]] = id
            number = numbers[id]
            if not after:
                ids[number] = None
            stocks[number] = _stock(id, after) if after else None
            if changed * 8 <= self.size:
                low, high = sorted((before, after))
                edits += ((p, number, after > before) for p in _points_of(id, high)[low:])
        ring = _Ring(counts, ids, stocks)
        if changed * 8 <= self.size and ring.shift == self.shift:
            ring._take_over(self, edits)
        return ring

    def _take_over(self, source: _Ring, edits: list[tuple[int, int, bool]]) -> None:
        """Share the stretches that are laid out in another ring, or copy and change them: `edits`
        are point, owner, and whether it is new."""
        self.buckets = list(source.buckets)
        copied: dict[int, _Bucket] = {}
        for point, number, is_new in edits:
            at = point >> self.shift
            bucket = self.buckets[at]
            if bucket is None:
                continue
            if at not in copied:
                self.buckets[at] = bucket = copied[at] = (bucket[0][:], bucket[1][:])
            _edit(bucket, point, number, is_new)

    def is_near(self, counts: dict[str, int]) -> bool:
        """Whether these points can be `put` at a cost that is small beside that of a new ring,
        whose stretches would be about as long."""
        differing = sum(abs(count - self.counts.get(id, 0)) for id, count in counts.items())
        size = self.size + sum(count - self.counts.get(id, 0) for id, count in counts.items())
        bits = max(0, size // STRETCH).bit_length()
        return differing * 8 <= self.size and abs(bits - 64 + self.shift) <= 1

    def put(self, id: str, count: int) -> None:
        """Let an instance have this many points, in this ring, which nobody else may use then."""
        before = self.counts.get(id, 0)
        if count == before:
            return
        if not before:
            if not self._free:
                self._free.append(len(self.ids))
                self.ids.append(None)
                self._stocks.append(None)
            self.numbers[id] = self._free.pop()
        number = self.numbers[id]
        self.size += count - before
        self.ids[number] = id if count else None
        self._stocks[number] = _stock(id, count) if count else None
        low, high = sorted((before, count))
        for point in _points_of(id, high)[low:]:
            bucket = self.buckets[point >> self.shift]
            if bucket is not None:
                _edit(bucket, point, number, count > before)
        if count:
            self.counts[id] = count
        else:
            del self.counts[id], self.numbers[id]
            self._free.append(number)

    def bucket(self, at: int) -> _Bucket:
        """One stretch, laid out now if it was not."""
        bucket = self.buckets[at]
        if bucket is None:
            low, high = at << self.shift, (at + 1) << self.shift
            entries = []
            for number, stock in enumerate(self._stocks):
                if stock is not None:
                    start = bisect_left(stock, low)
                    for point in stock[start : bisect_left(stock, high, start)]:
                        entries.append(point << 32 | number)
            entries.sort()
            bucket = (
                array("Q", [entry >> 32 for entry in entries]),
                array("I", [entry & _NUMBER for entry in entries]),
            )
            self.buckets[at] = bucket
        return bucket

    def owners_from(self, point: int) -> Iterator[int]:
        """The numbers of the owners of all points, once around from this point on."""
        first = point >> self.shift
        points, numbers = self.bucket(first)
        place = bisect_left(points, point)
        yield from numbers[place:]
        for at in (*range(first + 1, len(self.buckets)), *range(first)):
            yield from self.bucket(at)[1]
        yield from numbers[:place]


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


def _stock(id: str, count: int) -> array[int]:
    """The points of an instance in ascending order."""
    return array("Q", sorted(_points_of(id, count)))
