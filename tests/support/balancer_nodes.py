"""A balancer that raises, and nodes as a text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Any

from balancers.base import Balancer, Node


def ids(nodes: Sequence[Any]) -> str:
    """`a b c`."""
    return " ".join(node.id for node in nodes)


class Faulty(Balancer):
    """Takes the nodes in turn, and raises where it is told to."""

    reads_load = True

    def __init__(self, nodes: Sequence[Node], rng: Random) -> None:
        self._nodes = [node for node in nodes if node.usable and node.weight]
        self._next = 0
        self.raising: Collection[str] = ()
        """Of `pick` and `load_changed`."""
        self.times = -1
        """So often, and then no more; below 0 = always."""
        self.spared = 0
        """So often not, before."""

    def pick(self, key: int, tried: Collection[Node]) -> Node | None:
        self._raise_in("pick")
        self._next += 1
        left = [node for node in self._nodes if node not in tried]
        return left[self._next % len(left)] if left else None

    def load_changed(self, node: Node) -> None:
        self._raise_in("load_changed")

    def _raise_in(self, hook: str) -> None:
        if hook not in self.raising:
            return
        if self.spared:
            self.spared -= 1
        elif self.times != 0:
            self.times -= 1
            raise ZeroDivisionError(hook)
