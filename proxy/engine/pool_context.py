"""Values and callbacks that every pool of a worker uses."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from proxy.engine.resilience.limits import BucketTable
from proxy.messages import Suspect


class PoolContext:
    """Values and callbacks that every pool of a worker uses."""

    def __init__(
        self,
        row: memoryview[int],
        rng: Random,
        buckets: BucketTable,
        suspect: Callable[[Suspect], None],
        total: Callable[[int], int],
        look: Callable[[], int],
        later: Callable[[float, Callable[[], None]], object],
        breaker_turned: Callable[[str, str], None],
        raised: Callable[[Exception, str], None],
        now: Callable[[], float],
    ) -> None:
        self.row = row
        """The worker's row of the board."""
        self.rng = rng
        self.buckets = buckets
        self.suspect = suspect
        """Tells the control process of an instance that keeps failing."""
        self.total = total
        """In flight in one column of the board, in all workers, this moment."""
        self.look = look
        """Bring the loads of all nodes up to what other workers have in flight, unless that was
        done a fraction of a millisecond ago. Returns how often it was done so far."""
        self.later = later
        """Call something after so many seconds."""
        self.breaker_turned = breaker_turned
        """Hears of (service, state) when a circuit breaker is in another state."""
        self.raised = raised
        """Hears of what was raised by a balancer, and its service."""
        self.now = now
        """Seconds of a monotonic clock, which all processes share."""
