"""Round robin from a random position."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from balancers.weighted_round_robin import WeightedRoundRobin


class RoundRobin(WeightedRoundRobin):
    """Each usable node in turn; with unequal weights, smooth weighted round robin.

    The first pick falls on a random node, so that a fleet of proxies, or the workers of one,
    started together do not all send their first request to the same instance.
    """

    def _start(self, rng: Random) -> Iterable[int]:
        # As if each of the nodes before the random position had just had its turn.
        passed = rng.randrange(len(self._weights) or 1)
        return [
            weight * passed - (self._total if order < passed else 0)
            for order, weight in enumerate(self._weights)
        ]
