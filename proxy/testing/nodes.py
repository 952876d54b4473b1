"""Nodes for tests of balancers, and requests in flight on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from random import Random
from typing import Any

from balancers.base import Balancer, Node


class Instance:
    """A `balancers.base.Node` whose every value a test may set."""

    def __init__(
        self, id: str, weight: int = 1, usable: bool = True, load: int = 0, port: int = 80
    ) -> None:
        """`load`: requests in flight on it."""
        self.id = id
        self.key = f"{id}@10.0.0.1:{port}"
        self.weight = weight
        self.share = 1.0
        self.usable = usable
        self.in_flight = load
        self._read = False
        self._balancer: Balancer | None = None

    def __repr__(self) -> str:
        return f"{self.id}(weight={self.weight} usable={self.usable} load={self.in_flight})"

    @property
    def load(self) -> int:
        self._read = True
        self._check()
        return self.in_flight

    @load.setter
    def load(self, load: int) -> None:
        self.in_flight = load

    def shown_to(self, balancer: Balancer) -> None:
        """From its building on, this balancer sees the node: `load` only if it has said that it
        reads it, since without that it would see its own worker's requests alone."""
        self._balancer = balancer
        self._check()
        self._read = False

    def _check(self) -> None:
        if self._read and self._balancer is not None:
            assert self._balancer.reads_load, (
                f"{type(self._balancer).__name__} reads load, but reads_load is not set"
            )

    @property
    def pickable(self) -> bool:
        return self.usable and self.weight > 0


def instances(weights: Iterable[int]) -> list[Instance]:
    """Nodes `n0`, `n1`, … with these weights."""
    return [Instance(f"n{number}", weight) for number, weight in enumerate(weights)]


class Traffic:
    """Owns the loads of the nodes: picks as the engine does, and tells the balancer of each
    change."""

    def __init__(self, balancer: Balancer, seed: int = 1) -> None:
        self.balancer = balancer
        self.keys = Random(seed)
        self.in_flight: list[Any] = []

    def pick(self, tried: Collection[Node] = ()) -> Any:
        return self.balancer.pick(self.keys.getrandbits(64), tried)

    def begin(self) -> Any:
        node = self.pick()
        assert node is not None
        self.set_load(node, node.in_flight + 1)
        self.in_flight.append(node)
        return node

    def finish(self, position: int = 0) -> None:
        node = self.in_flight.pop(position)
        self.set_load(node, node.in_flight - 1)

    def set_load(self, node: Any, load: int) -> None:
        node.load = load
        if self.balancer.follows_load:
            self.balancer.load_changed(node)

    def shares(self, requests: int) -> dict[str, float]:
        """Share of each node in requests that come one after another."""
        counts: Counter[str] = Counter()
        for _ in range(requests):
            counts[self.begin().id] += 1
            self.finish()
        return {id: count / requests for id, count in counts.items()}
