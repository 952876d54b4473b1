"""Requests that stay with the instance of the first: a balancer around another one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Self

from balancers.base import NO_KEY, Balancer, Node


class Pinned(Balancer):
    """A request whose key is the number of a usable instance goes there; any other as the inner
    balancer, which must not use keys, says."""

    uses_key = True

    def __init__(
        self, inner: Balancer, nodes: Sequence[Node], number_of: Callable[[str], int]
    ) -> None:
        """`number_of`: id of an instance → its number, which nobody else has."""
        self._inner = inner
        self._number_of = number_of
        self._pinned: dict[int, Node] = {}
        self._add(nodes)
        self.reads_load = inner.reads_load
        self.follows_load = inner.follows_load
        self.follows_answers = True
        """Whether answers are of interest: those to requests without a pin set one."""

    def _add(self, nodes: Collection[Node]) -> None:
        for node in nodes:
            if node.usable and node.weight > 0:
                self._pinned[self._number_of(node.id)] = node

    def holds(self, key: int) -> bool:
        """Whether the key is that of a usable instance."""
        return key in self._pinned

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        node = self._pinned.get(key)
        if node is not None and node not in tried:
            return node
        return self._inner.pick(NO_KEY, tried)

    def load_changed(self, node: Node) -> None:
        self._inner.load_changed(node)

    def answered(self, node: Node, seconds: float, now: float) -> None:
        if self._inner.follows_answers:
            self._inner.answered(node, seconds, now)

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        if not self._inner.changed(nodes, gone):
            return False
        for node in (*gone, *nodes):
            self._pinned.pop(self._number_of(node.id), None)
        self._add(nodes)
        return True

    def settle(self) -> bool:
        return self._inner.settle()

    def inherit(self, previous: Self) -> None:
        if type(self._inner) is type(previous._inner):
            self._inner.inherit(previous._inner)
