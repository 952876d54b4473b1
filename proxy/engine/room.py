"""Instances that may have one more request, of a pool with `max_inflight`.

Kept as counts change, so that neither a request that meets a full instance nor the queue looks at
all of them: in an overload that would be every request, and thousands of instances for each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from random import Random
from typing import Final

from proxy.engine.node import Node

_LOOKS: Final = 64
"""Instances looked at for one that is not avoided: more than that are avoided together only while
the balancer has yet to hear that they cannot be connected to, for a fraction of a second."""


class Room:
    """Owns which usable nodes have room, as of the last count that this worker knows."""

    __slots__ = ("_doubted", "_has_room", "_look_at_board", "_nodes", "_places", "_rng", "_seen",
                 "limit", "usable")  # fmt: skip

    def __init__(
        self, has_room: Callable[[Node], bool], look: Callable[[], int], rng: Random
    ) -> None:
        """`has_room`: by the board itself, where other workers count, too; one that has none is
        doubted. `look`: see `PoolContext`."""
        self._has_room = has_room
        self._look_at_board = look
        self._rng = rng
        self.limit = 0
        """Requests that a node may have."""
        self._nodes: list[Node] = []  # ≤ 1 KiB + 16 B per instance
        self._places: dict[Node, int] = {}  # ≤ 1 KiB + 100 B per instance
        """Node → its index in the list."""
        self.usable = 0
        """Nodes that are chosen among, with room or without."""
        self._doubted: dict[Node, None] = {}  # ≤ 1 KiB + 100 B per instance
        """Nodes that the board says to be full, and the counts of the last look do not."""
        self._seen = 0
        """Looks at the board before the doubts were settled last."""

    def begin(self, nodes: Iterable[Node], limit: int) -> None:
        """Start anew with the usable ones of these nodes."""
        self.limit = limit
        self._doubted.clear()
        usable = [node for node in nodes if node.usable and node.weight]
        self.usable = len(usable)
        self._nodes = [node for node in usable if node.load < limit]
        self._places = {node: place for place, node in enumerate(self._nodes)}

    def note(self, node: Node) -> None:
        """A count of `node` has changed, or whether it is usable."""
        places = self._places
        if node.load < self.limit and node.usable and node.weight:
            if node not in places:
                places[node] = len(self._nodes)
                self._nodes.append(node)
        else:
            self._take_out(node)

    def _take_out(self, node: Node) -> None:
        place = self._places.pop(node, None)
        if place is not None:
            last = self._nodes.pop()
            if last is not node:
                self._nodes[place] = last
                self._places[last] = place

    def doubt(self, node: Node) -> None:
        """The board says that `node` is full, now."""
        if node in self._places:
            self._take_out(node)
            self._doubted[node] = None

    def _look(self) -> None:
        """Believe the counts again, if there was a look at the board since: a request of another
        worker that came and went between two looks has left no trace in them."""
        looks = self._look_at_board()
        if looks != self._seen:
            self._seen = looks
            doubted, self._doubted = self._doubted, {}
            for node in doubted:  # ≤ instances
                self.note(node)

    def count_full(self) -> int:
        """How many usable nodes have no room, as of a look at the other workers' counts that is a
        fraction of a millisecond old."""
        self._look()
        return self.usable - len(self._nodes)

    def any(self) -> bool:
        """Whether some node has room. Those that other workers have filled meanwhile are doubted on
        the way, so that nobody looks at them twice before their counts have changed."""
        if not self._any_known():
            self._look()
        return self._any_known()

    def _any_known(self) -> bool:
        nodes = self._nodes
        while nodes:  # ≤ instances
            if self._has_room(nodes[-1]):
                return True
        return False

    def one(self, avoided: Collection[Node]) -> Node | None:
        """A random node with room that is not avoided; None if there is none, as far as was
        looked."""
        self._look()
        for _ in range(_LOOKS):  # ≤ _LOOKS
            if not self._nodes:
                return None
            node = self._nodes[int(self._rng.random() * len(self._nodes))]
            if not self._has_room(node):
                continue
            if node not in avoided:
                return node
        return next(
            (n for n in self._nodes[:_LOOKS] if n not in avoided and self._has_room(n)), None
        )
