"""Passive ejection: an instance that fails in live traffic is out for a while. Pure.

Workers count failures in a row and report a `Suspect`; here it is decided whether the instance
goes, and for how long. Time is an argument (monotonic seconds), randomness is injected.

The rules are Envoy's outlier detection, with its most frequent complaint (a pool of one that
ejects its only instance) answered: the last instance that is ready is never ejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import floor
from random import Random

import msgspec

from proxy.settings.service import EjectionSettings

JITTER = 0.1
"""An ejection lasts up to this share less than computed, so that instances which failed
together do not come back together, and never longer than `max`."""


class Refusal(Enum):
    """Why a suspect stays in its pool."""

    OFF = "ejection is off"
    NOT_READY = "it is not ready anyway"
    SHARE = "too many of the pool are ejected"
    LAST = "no other instance is ready"


KEPT_BY = {Refusal.SHARE: "max_share", Refusal.LAST: "last_ready"}
"""Refusals that leave an instance in use though it fails → the rule, as it is counted and told.
The other refusals change nothing, so nobody is told."""


@dataclass(frozen=True, slots=True)
class Ejected:
    """A decision: out until then."""

    until: float
    count: int
    """How many ejections its time was computed from: 1 for the first."""


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """Counts of a pool, one of whose instances is suspected."""

    total: int
    """Instances that do not drain, ready or not."""
    ready: int
    """Instances that are ready, the suspect included."""
    is_ready: bool
    """Whether the suspect is ready."""


class Ejection(msgspec.Struct, frozen=True, array_like=True):
    """An instance that was ejected, as another process of this machine remembers it; times are
    monotonic seconds."""

    service: str
    key: str
    count: int
    until: float
    base: float
    out: bool
    ended: float
    reason: str = ""


@dataclass(slots=True)
class _Record:
    """One instance that was ejected once."""

    count: int
    until: float
    base: float
    out: bool = True
    ended: float = 0.0


class Ejections:
    """Owns who is ejected until when, how often that happened lately, and the totals.

    Instances are named by (service, `Instance.key`); a record outlives the registry's view of
    its instance, so one that flaps in the registry stays out.
    """

    def __init__(self, rng: Random) -> None:
        self.totals: dict[tuple[str, str], int] = {}
        """Ejections of each instance since the start, for as long as somebody keeps it."""
        self.refused: dict[tuple[str, str], int] = {}
        """By service and rule (of `KEPT_BY`): suspects that stayed because of it, since the start,
        for as long as somebody keeps it."""
        self._rng = rng
        self._records: dict[tuple[str, str], _Record] = {}
        self._out: dict[str, set[str]] = {}

    def suspect(
        self, service: str, key: str, counts: PoolCounts, settings: EjectionSettings, now: float
    ) -> Ejected | Refusal:
        """Decide on one suspect."""
        refusal = self._refusal(service, key, counts, settings)
        if refusal is not None:
            if (rule := KEPT_BY.get(refusal)) is not None:
                self.refused[service, rule] = self.refused.get((service, rule), 0) + 1
            return refusal
        count = self._count(service, key, now) + 1
        time = min(settings.base * count, settings.max) * self._rng.uniform(1.0 - JITTER, 1.0)
        self._records[service, key] = _Record(count, now + time, settings.base)
        self._out.setdefault(service, set()).add(key)
        self.totals[service, key] = self.totals.get((service, key), 0) + 1
        return Ejected(now + time, count)

    def _refusal(
        self, service: str, key: str, counts: PoolCounts, settings: EjectionSettings
    ) -> Refusal | None:
        if not settings.enabled:
            return Refusal.OFF
        out = self._out.get(service, ())
        if not counts.is_ready or key in out:
            return Refusal.NOT_READY
        if counts.ready < 2:
            return Refusal.LAST
        if len(out) >= allowed(counts.total, settings.max_share):
            return Refusal.SHARE
        return None

    def kept(self) -> list[Ejection]:
        """Ejections that are remembered, without reasons."""
        return [
            Ejection(*of, one.count, one.until, one.base, one.out, one.ended)
            for of, one in self._records.items()
        ]

    def restore(self, one: Ejection) -> bool:
        """Remember what another process did, unless something is known already; False then."""
        of = (one.service, one.key)
        if of in self._records:
            return False
        self._records[of] = _Record(one.count, one.until, one.base, one.out, one.ended)
        if one.out:
            self._out.setdefault(one.service, set()).add(one.key)
        return True

    def passed(self, service: str, key: str, now: float) -> bool:
        """An active check, begun after the ejection, was passed: the ejection is over. True if
        there was one."""
        record = self._records.get((service, key))
        if record is None or not record.out:
            return False
        self._end(service, key, record, now)
        return True

    def step(self, now: float) -> list[tuple[str, str]]:
        """End the ejections whose time is over, and say which; forget who has been well for
        as long as it takes for its count to fall to 0."""
        over = []
        for (service, key), record in list(self._records.items()):
            if record.out and record.until <= now:
                self._end(service, key, record, now)
                over.append((service, key))
            elif not record.out and self._count(service, key, now) == 0:
                del self._records[service, key]
        return over

    @property
    def next_at(self) -> float | None:
        """When the next ejection is over."""
        return min((record.until for record in self._records.values() if record.out), default=None)

    def is_out(self, service: str, key: str) -> bool:
        return key in self._out.get(service, ())

    def _end(self, service: str, key: str, record: _Record, now: float) -> None:
        record.out = False
        record.ended = now
        keys = self._out[service]
        keys.remove(key)
        if not keys:
            del self._out[service]

    def _count(self, service: str, key: str, now: float) -> int:
        """Ejections that still weigh: one less for each `base` spent in service since."""
        record = self._records.get((service, key))
        if record is None:
            return 0
        return max(0, record.count - floor((now - record.ended) / record.base))


def allowed(total: int, share: float) -> int:
    """How many of `total` may be out at once: the share rounded down, but one at least, as in
    Envoy: half of three is one, and so is a tenth of two. A share of 0 means nobody."""
    return max(1, floor(total * share + 1e-9)) if share else 0
