"""Maglev hashing: a table of which key goes to which instance.

Each instance has an order of its own in which it would like the places of the table, and in turns,
each takes the next one of these that is free, until none is left (Eisenbud et al.: Maglev, 2016,
§3.4). So instances have the same number of places to one, in proportion to their weights, which a
ring comes to with hundreds of points; a change moves about the keys of those that come or go, and a
few more.

The table has all registered instances. A key whose instance is not usable, or was tried, goes on to
another place, found by its hash, so when an instance flaps its own keys move and come back, and no
other key. The order comes from the instance's id alone: it keeps its keys on another address, and
the table is the same in every worker and after every start.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from math import gcd
from random import Random
from typing import ClassVar, Self

from balancers.base import NO_KEY, Balancer, Node, hash_key
from balancers.random_choice import RandomChoice

STEP = 1024
"""Places that are looked at at a time while a table is built: a fraction of a millisecond. A table
of the usual size takes 250 to 700 of them."""

_PROBES = 32
"""Places at which a key looks for a usable instance. If half of them are not usable, one key in
2**32 finds none; that one is given to the best of those left by a hash of both."""
_Table = tuple[Sequence[str], "array[int]"]
"""Ids, and place → number of one of these."""

_NONE: array[int] = array("l")
_SPREAD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Maglev(Balancer):
    """A key's instance; without a key, a random one.

    A table is built in `settle`, `STEP` places at a time, and used when it is whole. The one before
    serves meanwhile; if there is none, keys are given out by their remainder. An instance in slow
    start has all of its places, and more and more of their keys: a table for each step would move
    others' keys as well.
    """

    uses_key = True
    limits: ClassVar = {"table_size": (101, 655_373)}
    meanings: ClassVar = {
        "table_size": "places in the table, 101 to 655373, best a prime number that is a hundred"
        " times the number of instances or more.",
    }

    def __init__(self, nodes: Sequence[Node], rng: Random, *, table_size: int = 65_537) -> None:
        if table_size < 2:
            raise ValueError(f"table_size: {table_size}: must be at least 2")
        self._size = table_size
        self._rng = rng
        self._keyless = RandomChoice(nodes, rng)
        self._usable = {node.id: node for node in nodes if node.usable and node.weight > 0}
        self._weights = {node.id: node.weight for node in nodes if node.weight > 0}
        self._shares = {node.id: node.share for node in nodes if node.share < 1.0}
        self._ids: Sequence[str] = ()
        self._table = _NONE
        """Place → number of an id, of these instances or of those before."""
        self._building: Iterator[_Table | None] | None = _tables(self._weights, self._size)
        self._in_turn = list(self._usable.values())
        self._is_settled_elsewhere = False
        """Whether `settle` is called, so that `pick` need not wait for the table."""

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        if key == NO_KEY:
            if not self._shares:
                return self._keyless.pick(key, tried)
            key = self._rng.getrandbits(64)
        while self._building is not None and not self._is_settled_elsewhere:
            self._build()
        table, ids, usable, shares = self._table, self._ids, self._usable, self._shares
        if not usable:
            return None
        if not table:
            node = self._in_turn[key % len(self._in_turn)] if self._in_turn else None
            fits = node is not None and node.id in usable and node not in tried
            return node if fits else self._keyless.pick(NO_KEY, tried)
        size = len(table)
        point = key
        late = (key & 0xFFFF) / 0x10000 if shares else 0.0
        """The share from which on an instance in slow start has this key."""
        for _ in range(_PROBES):
            point = point * _SPREAD + 1 & _MASK
            node = usable.get(ids[table[(point >> 16) % size]])
            if (
                node is not None
                and (not tried or node not in tried)
                and (not shares or shares.get(node.id, 1.0) > late)
            ):
                return node
        left = [node for node in usable.values() if node not in tried]
        warm = [node for node in left if shares.get(node.id, 1.0) > late]
        return max(
            warm or left,
            key=lambda node: hash_key(b"%d %b" % (key, node.id.encode())),
            default=None,
        )

    def settle(self) -> bool:
        """See `Balancer`."""
        self._is_settled_elsewhere = True
        if self._building is not None:
            self._build()
        return self._building is not None

    def _build(self) -> None:
        """Go on with the table for `STEP` places."""
        assert self._building is not None
        table = next(self._building)
        if table is not None:
            self._ids, self._table = table
            self._building = None

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        """In place where only the health or share of instances is another."""
        if gone or any(self._weights.get(node.id, 0) != node.weight for node in nodes):
            return False
        self._keyless.changed(nodes, gone)
        for node in nodes:
            self._usable.pop(node.id, None)
            self._shares.pop(node.id, None)
            if node.share < 1.0:
                self._shares[node.id] = node.share
            if node.usable and node.weight > 0:
                self._usable[node.id] = node
        return True

    def inherit(self, previous: Self) -> None:
        """Take over the table, for as long as it takes to build another one if that differs."""
        self._ids, self._table = previous._ids, previous._table
        if self._size == previous._size and self._weights == previous._weights:
            self._building = previous._building


def _tables(weights: Mapping[str, int], size: int) -> Iterator[_Table | None]:
    """A table, behind a None for each `STEP` places that were looked at."""
    ids = sorted(weights)
    if not ids:
        yield (), _NONE
        return
    heaviest = max(weights.values())
    nexts, skips = [], []
    for number, id in enumerate(ids):
        if number % (STEP // 8) == STEP // 8 - 1:
            yield None
        hashed = hash_key(id.encode())
        skip = (hashed >> 32) % (size - 1) + 1
        while gcd(skip, size) != 1:  # Only where the size is no prime number.
            skip = skip % (size - 1) + 1
        skips.append(skip)
        nexts.append(hashed % size)
    owners = array("l", [-1]) * size
    free, looked = size, 0
    # The turn of each instance, in order: its round, and its number. The heaviest has one in each
    # round, and whoever is so many times lighter one in so many.
    turns = [-(-heaviest // weights[id]) * len(ids) + number for number, id in enumerate(ids)]
    heapify(turns)
    given = [1] * len(ids)
    while True:
        number = turns[0] % len(ids)
        given[number] += 1
        turn = -(-given[number] * heaviest // weights[ids[number]])
        heapreplace(turns, turn * len(ids) + number)
        place, skip = nexts[number], skips[number]
        looked += 1
        while owners[place] >= 0:
            place = (place + skip) % size
            looked += 1
            if looked >= STEP:
                looked = 0
                yield None
        owners[place] = number
        nexts[number] = (place + skip) % size
        free -= 1
        if not free:
            yield ids, owners
            return
        if looked >= STEP:
            looked = 0
            yield None
