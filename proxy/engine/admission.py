"""Debts of one request to its service's breaker and limit, and to an instance that it probes."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.resilience.breaker import Breaker
from proxy.engine.resilience.concurrency import Concurrency
from proxy.engine.resilience.policies import LIMIT_OF


class Admission:
    """Owns the debts of a request that was let in: each is paid once, or given up."""

    __slots__ = ("_began", "_breaker", "_limit", "_pool", "_turn", "probe")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._breaker: Breaker | None = None
        """Waits to hear what comes of this. Not always the pool's own: its settings may change."""
        self._turn = 0
        """The breaker's, in which this was admitted."""
        self._limit: Concurrency | None = None
        """Counts this until its answer begins."""
        self._began = 0.0
        self.probe: Node | None = None
        """An instance on probation, to which this request goes to find out."""

    def await_result(self, breaker: Breaker) -> None:
        """The breaker has let the request in, and waits to hear of it."""
        self._breaker = breaker
        self._turn = breaker.opened

    def count(self, limit: Concurrency, now: float) -> None:
        """Let the request count against a limit that has room."""
        limit.inflight += 1
        self._limit = limit
        self._began = now

    def _leave(self, now: float, answered: bool) -> None:
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.leave(self._began, now, answered)

    def report(self, failed: bool, now: float) -> None:
        """Tell the breaker, as soon as it is known: an answer may last for hours after its head."""
        self._leave(now, not failed)
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.on_result(failed, now, self._turn)
            self._pool.look_at_breaker()

    def pass_probe(self) -> None:
        """The instance has answered well: its probation is over, also as soon as it is known."""
        if self.probe is not None:
            self._pool.end_probation(self.probe)
            self.end_probe()

    def end_probe(self) -> None:
        """The attempt has ended: another request may find out."""
        if self.probe is not None:
            self._pool.end_probe(self.probe)
            self.probe = None

    def abandon(self, now: float) -> None:
        """The breaker learns nothing from this request."""
        self._leave(now, False)
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.on_abandoned(self._turn)


def admit(pool: Pool, rate_value: bytes, now: float) -> Admission | None:
    """Ask the limits and the breaker of the service. `rate_value`: what the rate limit is keyed on.
    None: nobody waits to hear of the request. Raises `Refused`."""
    policies = pool.policies
    refusal = policies.admit(rate_value, now)
    pool.look_at_breaker()
    if refusal is not None:
        pool.counters.rejected(LIMIT_OF[refusal.fault])
        raise refusal
    if policies.breaker is None and policies.concurrency is None:
        return None
    admission = Admission(pool)
    if policies.breaker is not None:
        admission.await_result(policies.breaker)
    if policies.concurrency is not None:
        admission.count(policies.concurrency, now)
    return admission


def check_caller(pool: Pool, caller: str, method: str, paths: Iterable[str]) -> None:
    """Raises `Refused` for a client whom `callers` of the service does not allow this; see
    `Callers.refusal`."""
    callers = pool.callers
    refusal = None if callers is None else callers.refusal(caller, method, paths)
    if callers is None or refusal is None:
        return
    if not callers.dry_run:
        pool.counters.rejected("callers")
        raise refusal
    pool.counters.rejected("callers.dry_run")
