"""The life of one lease, on stepped time. Pure: whoever acts asks `next`, and tells the result.

    none ── granted ──▶ held ── kept ──▶ held
      ▲                  │ lost
      └──────────────────┘

A time-out is not a loss: the answer may be all that was missing, and a lease outlives its TTL
while the registry has no leader to end it. Only an answer ends a lease here.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from proxy.register.backend import Lease

CHURN = 1.0
"""Seconds that a lease is given at least. One that is lost sooner was ended by somebody, and
who grants at once again would keep that up at the speed of the network."""
PAST = 8
"""Former leases that are remembered, to know our own keys by."""


class Step(Enum):
    """The next thing to do."""

    GRANT = "grant"
    KEEP_ALIVE = "keep_alive"
    CHECK = "check"
    SETTLE = "settle"
    WAIT = "wait"


class LeaseLife:
    """Owns what is known of one lease: which it is, until when it lives, what is due when.

    `now` is in seconds on any clock that never goes back. `ttl` is in seconds too.
    """

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.lease: Lease | None = None
        self._granted_ttl = ttl
        self._granted_at = 0.0
        self._expires_at = 0.0
        self._keep_at = 0.0
        self._not_before = 0.0
        self._check_due = False
        self._past: deque[int] = deque(maxlen=PAST)

    def next(self, now: float, unsettled: bool) -> tuple[Step, float]:
        """The next step, and when. A wait ends early when something becomes unsettled.

        Keeping alive goes before writing: what was written is no use under a dead lease. The
        check for keys that vanished follows each keep-alive.
        """
        if now < self._not_before:
            return Step.WAIT, self._not_before
        if self.lease is None:
            return Step.GRANT, now
        if now >= self._keep_at:
            return Step.KEEP_ALIVE, now
        if unsettled:
            return Step.SETTLE, now
        if self._check_due:
            return Step.CHECK, now
        return Step.WAIT, self._keep_at

    def granted(self, lease: Lease, sent_at: float) -> None:
        """`sent_at`: when the request went out. The registry counts from its arrival, so counting
        from there never believes too long."""
        self.lease = lease
        self._granted_at = sent_at
        self._check_due = False
        self._renew(lease.ttl, sent_at)

    def kept(self, ttl: float, sent_at: float) -> None:
        self._check_due = True
        self._renew(ttl, sent_at)

    def _renew(self, ttl: float, sent_at: float) -> None:
        self._granted_ttl = ttl
        self._expires_at = sent_at + ttl
        # Two tries fail before the third is late.
        self._keep_at = sent_at + ttl / 3
        self._not_before = 0.0

    def lost(self, now: float) -> None:
        """The registry said that there is no such lease."""
        if self.lease is None:
            return
        self._past.append(self.lease.id)
        self.lease = None
        self._check_due = False
        if now - self._granted_at < CHURN:
            self._not_before = now + CHURN

    def checked(self) -> None:
        self._check_due = False

    def failed(self, now: float, delay: float) -> None:
        """No answer, or an error that says nothing about the lease: try again after `delay`
        seconds, which is cut to a third of the TTL."""
        self._not_before = now + min(delay, self._granted_ttl / 3)

    def alive(self, now: float) -> bool:
        """Whether the registry must still know the lease, as far as anyone can tell from here."""
        return self.lease is not None and now < self._expires_at

    def was_ours(self, lease: int) -> bool:
        """Whether this is the id of our lease, or of one before it."""
        return (self.lease is not None and lease == self.lease.id) or lease in self._past
