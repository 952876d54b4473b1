"""How many requests of a service may wait for their answers, by how long these take.

A limit in the manner of TCP Vegas (Brakmo and Peterson, 1995), as Netflix's and Envoy's gradients
are: as long as answers take about as long as those of an unloaded service, it grows; when they take
longer, requests wait somewhere for each other, and it shrinks by as much. How long the unloaded
service takes is measured now and then, with a quarter of the requests.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

LOWEST: Final = 2.0
"""Requests that are always let in: with fewer nothing could be learnt."""
START: Final = 10.0
HIGHEST: Final = 100_000.0
WINDOW: Final = 100
"""Answers whose mean is looked at; more where more may be on their way at once."""
FEWEST: Final = 20
PATIENCE: Final = 2.0
"""Seconds after which so few answers will do."""
PROBE: Final = 30.0
"""Seconds between two measurements of the unloaded service."""


class Concurrency:
    """Owns the limit of one service in one worker, and the requests that count against it: those
    whose answers have not begun."""

    __slots__ = (
        "_at", "_count", "_next_probe", "_probing", "_saved", "_sum", "_target", "_unloaded",
        "inflight", "limit",
    )  # fmt: skip

    def __init__(self, target: float, now: float) -> None:
        """`target`: how fast answers are to be, as a share of the unloaded service's speed."""
        self._target = target
        self._at = now
        """Since when answers are looked at: those to earlier requests had another limit."""
        self._sum = 0.0
        self._count = 0
        self._unloaded = 0.0
        """Mean seconds of an answer without load; 0 = not known."""
        self._probing = True
        self._saved = START
        self._next_probe = 0.0
        self.limit = LOWEST
        self.inflight = 0

    @property
    def is_full(self) -> bool:
        """Whether no further request is let in."""
        return self.inflight >= self.limit

    def leave(self, began: float, now: float, answered: bool) -> None:
        """A request that was let in at `began` waits no more. `answered`: and not by a failure;
        else it tells only how long it took at least."""
        self.inflight -= 1
        took = now - began
        if began < self._at or (not answered and took <= self._unloaded):
            return
        self._sum += took
        self._count += 1
        enough = max(WINDOW, 2 * self.limit)
        if self._count >= enough or (self._count >= FEWEST and now - self._at >= PATIENCE):
            self._look(self._sum / self._count, now)
            self._sum, self._count, self._at = 0.0, 0, now

    def _look(self, mean: float, now: float) -> None:
        if self._probing:
            self._probing = False
            self._unloaded = mean
            self.limit = self._saved
            self._next_probe = now + PROBE
            return
        ratio = self._unloaded / (mean * self._target) if mean else 1.0
        if ratio < 1.0:
            self.limit = max(LOWEST, self.limit * max(0.5, ratio))
        elif 2 * self.inflight >= self.limit:  # Else nobody wants more.
            self.limit = min(HIGHEST, self.limit + max(1.0, sqrt(self.limit) / 2))
        if now >= self._next_probe:
            self._probing = True
            self._saved = self.limit
            self.limit = max(LOWEST, self.limit / 4)
