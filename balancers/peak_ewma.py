"""The better of two random instances, by latency and requests in flight.

Each node has a moving average of the time until it began to answer, which follows a worse time at
once and a better one slowly, and forgets exponentially (Finagle's `PeakEwma`). What a node costs is
that average times the requests that it would have in flight, so a slow instance gets few without
anybody having to call it unhealthy.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import exp
from random import Random
from typing import ClassVar, Self

from balancers.base import Node
from balancers.p2c import PowerOfTwoChoices

_UNKNOWN = 1e6
"""Seconds that a node is taken to need that has requests in flight and has answered none yet: one
with none is asked at once, and a crowd waits for what it says."""


class PeakEwma(PowerOfTwoChoices):
    """Draws two nodes by weight and picks the one that costs less per weight.

    `decay`: seconds in which an observation loses 63 % of what it counts; after some of them a slow
    instance is asked again.
    """

    limits: ClassVar = {"decay": (0.1, 600.0)}
    meanings: ClassVar = {
        "decay": "seconds in which an observed latency loses two thirds of its influence,"
        " 0.1 to 600.",
    }

    def __init__(self, nodes: Sequence[Node], rng: Random, *, decay: float = 10.0) -> None:
        self._decay = decay
        self._now = 0.0
        """The latest time that was told."""
        self._averages: dict[str, tuple[float, float]] = {}
        """Key of a node → seconds, and when they were told."""
        super().__init__(nodes, rng)

    def answered(self, node: Node, seconds: float, now: float) -> None:
        self._now = now
        before = self._average(node.key)
        if seconds < before:
            told = self._averages[node.key][1]
            kept = exp((told - now) / self._decay)
            # What is left of the average as it was told is `before` already.
            seconds = before + seconds * (1.0 - kept)
        self._averages[node.key] = seconds, now

    def _average(self, key: str) -> float:
        """Seconds to the beginning of an answer, less what is forgotten by now."""
        seconds, told = self._averages.get(key, (0.0, 0.0))
        return seconds * exp((told - self._now) / self._decay)

    def _cost(self, node: Node) -> float:
        load = node.load
        seconds = self._average(node.key)
        if not seconds and load:
            seconds = _UNKNOWN
        return seconds * (load + 1) / self._seats[node.key].weight

    def changed(self, nodes: Collection[Node], gone: Collection[Node]) -> bool:
        for node in gone:
            self._averages.pop(node.key, None)
        return super().changed(nodes, gone)

    def inherit(self, previous: Self) -> None:
        """Keep what is known of nodes that are still in the pool."""
        self._now = previous._now
        known = previous._averages
        self._averages = {key: known[key] for key in self._seats if key in known}
