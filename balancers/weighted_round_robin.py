"""Smooth weighted round robin, as nginx does it.

The algorithm (nginx, `ngx_http_upstream_round_robin.c`): at each pick every node's current
value grows by its weight; the largest current value wins, the first in order among equals;
the winner's current value falls by the sum of all weights. Weights 5, 1, 1 give the sequence
a a b a c a a: each node gets its share, spread as evenly as it can be.

Done literally, that touches every node at every pick. But all nodes of one weight grow alike,
so their order among themselves changes only when one of them wins, and the winner falls
behind all its equals: nodes of one weight form a queue. A pick compares the heads of the
queues, one for each *distinct* weight, and its cost does not depend on the number of nodes.
The comparison is two passes in C over a list of integers, cheap up to some hundred weights.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from operator import add
from random import Random
from typing import Self

from balancers.base import Balancer, Node

_Entry = tuple[int, int]
"""(debt, position in order). A node's current value is `weight * rounds - debt`, so the entry
of a node that has not won stays as it is, and the smallest entry of a queue wins."""


_MANY = 8
"""More tried nodes than this are not looked for one by one: a pass over the queue is cheaper."""


class WeightedRoundRobin(Balancer):
    """Owns the current values of the usable nodes of one pool.

    A pick costs O(distinct weights); with `tried` nodes a little more.
    """

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        self._nodes = [node for node in nodes if node.usable and node.weight > 0]
        self._weights = [node.weight for node in self._nodes]
        self._orders = {node.key: order for order, node in enumerate(self._nodes)}
        self._total = sum(self._weights)
        self._settle(self._start(rng))

    def _start(self, rng: Random) -> Iterable[int]:
        """The current value of each node in a pool that nothing is known of."""
        return [0] * len(self._nodes)

    def _settle(self, currents: Iterable[int]) -> None:
        """Start from these current values, one for each of `self._nodes`."""
        entries: dict[int, list[_Entry]] = {}
        for order, (weight, current) in enumerate(zip(self._weights, currents, strict=True)):
            entries.setdefault(weight, []).append((-current, order))
        self._rounds = 0
        self._queues = [(weight, deque(sorted(queue))) for weight, queue in entries.items()]
        self._compare_heads()

    def _compare_heads(self) -> None:
        """Compute how the heads of the queues compare: by the current value and, as the last digit
        in base `len(nodes)`, the place in order, so that the largest is unique."""
        base, rounds = len(self._nodes), self._rounds
        self._heads = [
            (weight * rounds - queue[0][0]) * base - queue[0][1] for weight, queue in self._queues
        ]
        self._growth = [weight * base for weight, _ in self._queues]

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        if tried:
            return self._pick_avoiding(tried)
        nodes, queues = self._nodes, self._queues
        if not queues:
            return None
        self._rounds = rounds = self._rounds + 1
        if len(queues) == 1:
            queue = queues[0][1]
            debt, winner = queue.popleft()
            _enqueue(queue, (debt + self._total, winner))
            return nodes[winner]
        self._heads = heads = list(map(add, self._heads, self._growth))
        best = heads.index(max(heads))
        weight, queue = queues[best]
        debt, winner = queue.popleft()
        _enqueue(queue, (debt + self._total, winner))
        debt, order = queue[0]
        heads[best] = (weight * rounds - debt) * len(nodes) - order
        return nodes[winner]

    def _pick_avoiding(self, tried: Collection[Node]) -> Node | None:
        """A round in which the tried nodes do not take part: as in nginx they neither gain
        nor count in the total. Were they to gain, a node that refuses every connection would
        be owed a pick for each retry and be tried first more often than its healthy peers."""
        weights = self._weights
        avoided = {self._orders[node.key] for node in tried if node.key in self._orders}
        total = self._total - sum(weights[order] for order in avoided)
        if not total:
            return None
        self._rounds = rounds = self._rounds + 1
        among: dict[int, list[int]] = {}
        for order in avoided:
            among.setdefault(weights[order], []).append(order)
        best: tuple[int, int, int, deque[_Entry]] | None = None
        for weight, queue in self._queues:
            here = among.get(weight, ())
            if len(here) > _MANY:
                entries = [(debt + weight * (order in avoided), order) for debt, order in queue]
                queue.clear()
                queue.extend(sorted(entries))
            else:
                for order in here:
                    _enqueue(queue, (_take(queue, order) + weight, order))
            for place, (debt, order) in enumerate(queue):
                if order not in avoided:
                    rival = (debt - weight * rounds, order, place, queue)
                    if best is None or rival[:2] < best[:2]:
                        best = rival
                    break
        assert best is not None  # `total` counts at least one node that is not avoided
        _, order, place, queue = best
        debt, order = queue[place]
        del queue[place]
        _enqueue(queue, (debt + total, order))
        self._compare_heads()
        return self._nodes[order]

    def inherit(self, previous: Self) -> None:
        """Keep every node's place in the rotation.

        A current value divided by the sum of the weights is the number of picks a node is
        owed, so values are scaled when that sum changed: a node that was owed half a pick
        still is, even if its weight fell from 1,000 to 1. They are also shifted by a common
        amount, which no comparison notices, so that their mean is 0 and newcomers, who start
        at 0, are neither given a burst nor made to wait.
        """
        known = previous._currents()
        scaled = [
            known[node.key] * self._total // previous._total if node.key in known else None
            for node in self._nodes
        ]
        kept = [current for current in scaled if current is not None]
        if kept:
            mean = sum(kept) // len(kept)
            self._settle(0 if current is None else current - mean for current in scaled)

    def _currents(self) -> dict[str, int]:
        return {
            self._nodes[order].key: weight * self._rounds - debt
            for weight, queue in self._queues
            for debt, order in queue
        }


def _enqueue(queue: deque[_Entry], entry: _Entry) -> None:
    """Nearly always at the end: who has just won is further behind than its equals. Not so
    after an update that brought values together which had grown apart."""
    if not queue or entry > queue[-1]:
        queue.append(entry)
    else:
        insort(queue, entry)


def _take(queue: deque[_Entry], order: int) -> int:
    """Remove the node at this position in order; its debt. The search begins at the end
    because a tried node has been picked a moment ago."""
    for place in range(len(queue) - 1, -1, -1):
        debt, found = queue[place]
        if found == order:
            del queue[place]
            return debt
    raise KeyError(order)
