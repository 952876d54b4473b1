"""Smooth weighted round robin, as nginx does it.

The algorithm (nginx, `ngx_http_upstream_round_robin.c`): at each pick every node's current
value grows by its weight; the largest current value wins, the first in order among equals;
the winner's current value falls by the sum of all weights. Weights 5, 1, 1 give the sequence
a a b a c a a: each node gets its share, spread as evenly as it can be.

Done literally, that touches every node at every pick. But all nodes of one weight grow alike,
so their order among themselves changes only when one of them wins, and the winner falls
behind all its equals: nodes of one weight form a queue. A pick compares the heads of the
queues, one for each *distinct* weight, and its cost does not depend on the number of nodes.
The comparison is two passes in C over a list of integers. Beyond `MOST_QUEUES` weights or
`MOST_NODES` nodes the turns are those of `earliest_deadline`, whose cost does not depend on the
weights either, and which takes any change as it comes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from operator import add
from random import Random
from typing import Self

from balancers.base import Balancer, Node
from balancers.earliest_deadline import EarliestDeadline

MOST_QUEUES = 16
"""Distinct weights up to which queues are compared: with more of them a heap is quicker."""
MOST_NODES = 256
"""Nodes up to which queues are kept: when the sum of the weights has moved away they are built
anew, which is to take a millisecond at most."""

_Entry = tuple[int, int]
"""(debt, position in order). A node's current value is `weight * rounds - debt`, so the entry
of a node that has not won stays as it is, and the smallest entry of a queue wins."""


_MANY = 8
"""More tried nodes than this are not looked for one by one: a pass over the queue is cheaper."""


class WeightedRoundRobin(Balancer):
    """Owns the current values of the usable nodes of one pool.

    A pick costs O(distinct weights) while there are queues, with `tried` nodes a little more, and
    beyond that the logarithm of the number of nodes.
    """

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        usable = [node for node in nodes if node.usable and node.weight > 0]
        self._deadlines: EarliestDeadline | None = None
        """The turns, if there are too many weights for queues, which are empty then."""
        if len(usable) > MOST_NODES or len({node.weight for node in usable}) > MOST_QUEUES:
            self._deadlines = EarliestDeadline(rng)
            for node in usable:
                self._deadlines.add(node)
            usable = []
        self._nodes: list[Node | None] = [*usable]
        """By order; None where a number is free."""
        self._weights = [node.weight for node in usable]
        self._orders = {node.key: order for order, node in enumerate(usable)}
        self._free: list[int] = []
        self._total = sum(self._weights)
        self._settle(self._start(rng))

    def _start(self, rng: Random) -> Iterable[int]:
        """The current value of each node in a pool that nothing is known of."""
        return [0] * len(self._nodes)

    def _settle(self, currents: Iterable[int]) -> None:
        """Start from these current values, one for each of `self._nodes`, none of which is None."""
        self._debts = [-current for current in currents]
        entries: dict[int, list[_Entry]] = {}
        for order, weight in enumerate(self._weights):
            entries.setdefault(weight, []).append((self._debts[order], order))
        self._rounds = 0
        self._scale = self._total
        """Sum of the weights that the current values are in proportion to."""
        self._queues = [(weight, deque(sorted(queue))) for weight, queue in entries.items()]
        self._compare_heads()

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        """In place while the sum of the weights stays near the one that the current values are in
        proportion to, and neither weights nor nodes become too many."""
        usable = [node for node in nodes if node.usable and node.weight > 0]
        if self._deadlines is not None:
            for node in (*gone, *nodes):
                self._deadlines.remove(node.key)
            for node in usable:
                self._deadlines.add(node)
            return True
        leaving = {node.key for node in (*gone, *nodes)} & self._orders.keys()
        total = self._total - sum(self._weights[self._orders[key]] for key in leaving)
        total += sum(node.weight for node in usable)
        weights = {weight for weight, _ in self._queues} | {node.weight for node in usable}
        count = len(self._orders) - len(leaving) + len(usable)
        drifted = abs(total - self._scale) * 8 > self._scale
        if drifted or count > MOST_NODES or len(weights) > MOST_QUEUES:
            return False
        self._total = total
        for key in leaving:
            self._leave(self._orders.pop(key))
        for node in usable:
            self._join(node)
        self._queues = [entry for entry in self._queues if entry[1]]
        self._compare_heads()
        return True

    def _leave(self, order: int) -> None:
        queue = self._queue(self._weights[order])
        del queue[bisect_left(queue, (self._debts[order], order))]
        self._nodes[order] = None
        self._free.append(order)

    def _join(self, node: Node) -> None:
        """The newcomer's turn comes when half of its equals have had theirs; one that has none
        begins with a current value of 0, which is the mean."""
        if not self._free:
            self._free.append(len(self._nodes))
            self._nodes.append(None)
            self._weights.append(0)
            self._debts.append(0)
        order = self._free.pop()
        queue = self._queue(node.weight)
        debt = queue[len(queue) // 2][0] if queue else node.weight * self._rounds
        self._orders[node.key] = order
        self._nodes[order] = node
        self._weights[order] = node.weight
        self._debts[order] = debt
        insort(queue, (debt, order))

    def _queue(self, weight: int) -> deque[_Entry]:
        for known, queue in self._queues:
            if known == weight:
                return queue
        self._queues.append((weight, deque()))
        return self._queues[-1][1]

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
            return None if self._deadlines is None else self._deadlines.pick(tried)
        self._rounds = rounds = self._rounds + 1
        if len(queues) == 1:
            queue = queues[0][1]
            debt, winner = queue.popleft()
            self._debts[winner] = debt = debt + self._total
            _enqueue(queue, (debt, winner))
            return nodes[winner]
        self._heads = heads = list(map(add, self._heads, self._growth))
        best = heads.index(max(heads))
        weight, queue = queues[best]
        debt, winner = queue.popleft()
        self._debts[winner] = debt = debt + self._total
        _enqueue(queue, (debt, winner))
        debt, order = queue[0]
        heads[best] = (weight * rounds - debt) * len(nodes) - order
        return nodes[winner]

    def _pick_avoiding(self, tried: Collection[Node]) -> Node | None:
        """A round in which the tried nodes do not take part: as in nginx they neither gain
        nor count in the total. Were they to gain, a node that refuses every connection would
        be owed a pick for each retry and be tried first more often than its healthy peers."""
        if self._deadlines is not None:
            return self._deadlines.pick(tried)
        weights, debts = self._weights, self._debts
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
                for order in here:
                    debts[order] += weight
                entries = sorted((debts[order], order) for _, order in queue)
                queue.clear()
                queue.extend(entries)
            else:
                for order in here:
                    del queue[bisect_left(queue, (debts[order], order))]
                    debts[order] += weight
                    _enqueue(queue, (debts[order], order))
            for place, (debt, order) in enumerate(queue):
                if order not in avoided:
                    rival = (debt - weight * rounds, order, place, queue)
                    if best is None or rival[:2] < best[:2]:
                        best = rival
                    break
        assert best is not None  # `total` counts at least one node that is not avoided
        _, order, place, queue = best
        del queue[place]
        debts[order] += total
        _enqueue(queue, (debts[order], order))
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
        if self._deadlines is not None and previous._deadlines is not None:
            self._deadlines.inherit(previous._deadlines)
        known = previous._currents()
        scaled = [
            known[key] * self._total // previous._total if key in known else None
            for key in self._orders
        ]
        kept = [current for current in scaled if current is not None]
        if kept:
            mean = sum(kept) // len(kept)
            self._settle(0 if current is None else current - mean for current in scaled)

    def _currents(self) -> dict[str, int]:
        return {
            key: self._weights[order] * self._rounds - self._debts[order]
            for key, order in self._orders.items()
        }


def _enqueue(queue: deque[_Entry], entry: _Entry) -> None:
    """Nearly always at the end: who has just won is further behind than its equals. Not so
    after an update that brought values together which had grown apart."""
    if not queue or entry > queue[-1]:
        queue.append(entry)
    else:
        insort(queue, entry)
