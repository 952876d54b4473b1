"""Turns by earliest deadline, for pools with many distinct weights.

Each node has a deadline; the earliest wins and gets its next one 1 / weight later, so in the long
run each has its share, and nobody is off by more than one pick (earliest deadline first as a
weighted fair queue; Envoy's `EdfScheduler`). A heap finds the earliest: a pick costs the logarithm
of the number of nodes, however many weights there are. The first deadlines fall anywhere in the
node's first stride, because a fleet that began with the heaviest node everywhere would flood it.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush, heapreplace
from random import Random

from balancers.base import Node


class _Turn:
    """Owns a node's place: the time between two of its picks, and how much later it is due than the
    heap says."""

    __slots__ = ("late", "node", "stride", "weight")

    def __init__(self, node: Node) -> None:
        self.node: Node | None = node
        """None: it has left, and so does its entry when it comes up."""
        self.weight = node.weight
        self.stride = 1.0 / node.weight
        self.late = 0.0


class EarliestDeadline:
    """Owns the deadlines of the usable nodes of one pool."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._now = 0.0
        """Deadline of the latest pick."""
        self._turns: dict[str, _Turn] = {}
        self._heap: list[tuple[float, int, _Turn]] = []
        """Deadline, a number that is unique, and whose it is."""
        self._number = 0
        self._total = 0

    def add(self, node: Node) -> None:
        """A node joins."""
        turn = self._turns[node.key] = _Turn(node)
        self._total += node.weight
        self._number += 1
        first = self._now + self._rng.random() * turn.stride
        heappush(self._heap, (first, self._number, turn))
        if len(self._heap) > 2 * len(self._turns) + 16:
            self._heap = [entry for entry in self._heap if entry[2].node is not None]
            heapify(self._heap)

    def remove(self, key: str) -> None:
        """A node is not usable any more. Safe if it was not."""
        turn = self._turns.pop(key, None)
        if turn is not None:
            turn.node = None
            self._total -= turn.weight

    def inherit(self, previous: EarliestDeadline) -> None:
        """Let nodes that are known be due after the share of their stride that was left to them."""
        now = previous._now
        left = {
            turn.node.key: min(1.0, max(0.0, (deadline + turn.late - now) / turn.stride))
            for deadline, _, turn in previous._heap
            if turn.node is not None
        }
        self._heap = [
            (self._now + left[node.key] * turn.stride if node.key in left else deadline, n, turn)
            for deadline, n, turn in self._heap
            if (node := turn.node) is not None
        ]
        heapify(self._heap)

    def pick(self, tried: Collection[Node]) -> Node | None:
        """The node that is due, of those that were not tried.

        For the others, time stands still meanwhile. Did it not, a node that refuses every
        connection would become due for each retry, and be tried first more often than its share."""
        heap = self._heap
        avoided = []
        if tried:
            turns = [turn for key in {node.key for node in tried} if (turn := self._turns.get(key))]
            rest = self._total - sum(turn.weight for turn in turns)
            if rest <= 0:
                return None
            for turn in turns:
                turn.late += 1.0 / rest
        picked: Node | None = None
        while heap:
            deadline, number, turn = heap[0]
            node = turn.node
            if node is None:
                heappop(heap)
            elif turn.late:
                heapreplace(heap, (deadline + turn.late, number, turn))
                turn.late = 0.0
            elif tried and node in tried:
                avoided.append(heappop(heap))
            else:
                self._now = deadline
                heapreplace(heap, (deadline + turn.stride, number, turn))
                picked = node
                break
        for entry in avoided:
            heappush(heap, entry)
        return picked
