"""How often a service's requests may be tried again.

A retry helps when one instance in many is broken, and does harm when all are: then each adds
load to what fails under load. The budget tells the two apart without knowing which it is: it is
filled by requests and drained by retries, so retries stay a fixed share of the requests
whatever happens (the rule of Finagle's RetryBudget; Envoy's counts what is in flight instead,
which does not bound retries that fail fast).
"""

from __future__ import annotations

FLOOR = 3.0
"""Retries a service may make that has had no requests to earn any: the first request after a
quiet night should survive a stale connection, too."""
HORIZON = 10.0
"""Seconds of traffic that retries may be saved up from. Longer, and a quiet day could be spent
in one storm; shorter, and there is nothing saved for those that a dying instance fails all at
once."""


class RetryBudget:
    """Owns the retries that one service in one worker may still make.

    Law: retries ≤ FLOOR + share × requests, counting the requests of the stretch of time in
    question and of at most two `HORIZON` before it.
    """

    __slots__ = ("_balance", "_began", "_earned", "_earned_before", "_share")

    def __init__(self, share: float, now: float) -> None:
        """`share`: retries per request, 0.2 = one for five."""
        self._share = share
        self._balance = FLOOR
        self._began = now
        self._earned = 0.0
        self._earned_before = 0.0

    def on_request(self, now: float) -> None:
        """A request came in."""
        if now - self._began >= HORIZON:
            # Two half-forgotten spans approximate a sliding one: what may be saved is at most
            # what the present span and the one before it earned.
            fresh = now - self._began < 2 * HORIZON
            self._earned_before = self._earned if fresh else 0.0
            self._earned = 0.0
            self._began = now
            self._balance = min(self._balance, FLOOR + self._earned_before)
        self._earned += self._share
        self._balance += self._share

    def spend(self) -> bool:
        """Take one retry out, if there is one."""
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True
