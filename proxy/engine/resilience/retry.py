"""How often a service's requests may be tried again.

A retry helps when one instance in many is broken, and does harm when all are: then each adds
load to what fails under load. The budget tells the two apart without knowing which it is: it is
filled by requests and drained by retries, so retries stay a fixed share of the requests
whatever happens (the rule of Finagle's RetryBudget; Envoy's counts what is in flight instead,
which does not bound retries that fail fast).
"""

from __future__ import annotations

from collections import deque
from typing import Final

FLOOR: Final = 3.0
"""Retries a service may make that has had no requests to earn any: the first request after a
quiet night should survive a stale connection, too."""
HORIZON: Final = 10
"""Seconds of traffic that retries may be saved up from. Longer, and a quiet day could be spent
in one storm; shorter, and there is nothing saved for those that a dying instance fails all at
once."""


class RetryBudget:
    """Owns the retries that one service in one worker may still make.

    Law: retries ≤ FLOOR + share × requests. What is saved never exceeds what the requests of
    the last `HORIZON` seconds earned, and the floor.

    Requests are not announced one by one (that would be the dearest part of a request that
    needs no retry): whoever asks says how many there have been in all.
    """

    __slots__ = ("_balance", "_history", "_seen", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        """Retries per request, 0.2 = one for five."""
        self._balance = FLOOR
        self._seen = 0
        self._history: deque[int] = deque([0], maxlen=HORIZON)  # ≤ 2 KiB

    def tick(self, requests: int) -> None:
        """A second has passed; `requests` there have been since the beginning."""
        self._earn(requests)
        recent = requests - self._history[0]
        self._balance = min(self._balance, FLOOR + self.share * recent)
        self._history.append(requests)

    def spend(self, requests: int) -> bool:
        """Take one retry out, if there is one; `requests` as for `tick`."""
        self._earn(requests)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _earn(self, requests: int) -> None:
        self._balance += self.share * (requests - self._seen)
        self._seen = requests
