"""Instances that fail in live traffic: suspects → ejections → pools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from random import Random

import msgspec

from proxy.control.ejections import KEPT_BY, Ejected, Ejection, Ejections, PoolCounts, Refusal
from proxy.control.pool import Changes
from proxy.control.pools import PoolRegistry
from proxy.control.reactions import Reactions, id_in
from proxy.messages import Suspect

SUSPECT_GATHER = 0.005
"""Seconds in which suspects are gathered, so that a rack that loses power is one update of
each pool; a tenth of the time in which an ejection must have reached all workers."""

REFUSAL_PAUSE = 10.0
"""Seconds between two log lines, and two events, about suspects of one service that stay: while
all of its instances fail, workers report some hundred times a second."""


class Outliers:
    """Owns the ejections, and the suspects that are not judged yet."""

    def __init__(
        self,
        pools: PoolRegistry,
        reactions: Reactions,
        on_changes: Callable[[Changes], None],
        on_ejected: Callable[[], None],
        rng: Random,
    ) -> None:
        """`on_ejected`: `ejections.next_at` is another one now."""
        self.ejections = Ejections(rng)
        self._pools = pools
        self._reactions = reactions
        self._on_changes = on_changes
        self._on_ejected = on_ejected
        self._suspects: list[Suspect] = []
        self._refused_at: dict[str, float] = {}
        self._ejected_at: dict[tuple[str, str], float] = {}

    def suspect(self, suspect: Suspect) -> None:
        """A worker reports an instance."""
        if not self._suspects:
            asyncio.get_running_loop().call_later(SUSPECT_GATHER, self._judge)
        self._suspects.append(suspect)

    def _judge(self) -> None:
        suspects, self._suspects = self._suspects, []
        now = time.monotonic()
        by_service: dict[str, dict[str, Suspect]] = {}
        for suspect in suspects:
            by_service.setdefault(suspect.service, {})[suspect.key] = suspect
        for service, named in by_service.items():
            settings = self._pools.settings(service).ejection
            ejected = 0
            for key, counts in self._pools.counts(service, named).items():
                # Those of this very batch are still shown as ready.
                now_ready = PoolCounts(counts.total, counts.ready - ejected, counts.is_ready)
                found = self.ejections.suspect(service, key, now_ready, settings, now)
                if isinstance(found, Refusal):
                    self._refused(named[key], found, now)
                else:
                    self._eject(named[key], found, now)
                    ejected += 1
        self._on_changes(self._pools.settle(now))

    def _eject(self, suspect: Suspect, found: Ejected, now: float) -> None:
        service, key = suspect.service, suspect.key
        times = f"{suspect.failures} × " if suspect.failures else ""
        self._pools.eject(service, key, f"{times}{suspect.reason}", found.until)
        self._ejected_at[service, key] = now
        self._reactions.tell(
            "ejected",
            service=service,
            instance=id_in(key),
            reason=suspect.reason,
            failures=suspect.failures,
            seconds=round(found.until - now, 3),
            count=found.count,
        )
        self._on_ejected()

    def _refused(self, suspect: Suspect, why: Refusal, now: float) -> None:
        if why not in KEPT_BY:
            return
        if now - self._refused_at.get(suspect.service, -REFUSAL_PAUSE) < REFUSAL_PAUSE:
            return
        self._refused_at[suspect.service] = now
        self._reactions.tell(
            "not_ejected",
            service=suspect.service,
            instance=id_in(suspect.key),
            reason=suspect.reason,
            because=why.value,
        )

    def kept(self) -> list[Ejection]:
        """Ejections, with the reasons of those that go on."""
        overrides = self._pools.overrides
        return [
            msgspec.structs.replace(one, reason=overrides[one.service].ejected[one.key][0])
            if one.out
            else one
            for one in self.ejections.kept()
        ]

    def restore(self, kept: Iterable[Ejection], now: float) -> None:
        """Go on with what another process remembered; to be followed by `PoolRegistry.settle`."""
        for one in kept:
            if self.ejections.restore(one) and one.out:
                self._pools.eject(one.service, one.key, one.reason, one.until)
                self._ejected_at[one.service, one.key] = now
        self._on_ejected()

    def passed(self, service: str, key: str, began: float) -> None:
        """An instance passed a check that began then, which ends an ejection from before."""
        if self._ejected_at.get((service, key), began) < began and self.ejections.passed(
            service, key, time.monotonic()
        ):
            self._reinstate([(service, key)], "it passed a check")

    def step(self, now: float) -> None:
        """End the ejections whose time is over. Call at `ejections.next_at`."""
        if over := self.ejections.step(now):
            self._reinstate(over, "its time is over")

    def _reinstate(self, over: list[tuple[str, str]], why: str) -> None:
        for service, key in over:
            self._pools.reinstate(service, key)
            self._ejected_at.pop((service, key), None)
            self._reactions.tell("reinstated", service=service, instance=id_in(key), because=why)
        self._on_changes(self._pools.settle(time.monotonic()))

    def forget(self) -> None:
        """Drop the totals of instances, and of services, that left. Call every now and then."""
        names: dict[str, list[str]] = {}
        for service, key in self.ejections.totals:
            names.setdefault(service, []).append(key)
        for service, keys in names.items():
            known = self._pools.counts(service, keys)
            for key in keys:
                if key not in known and not self.ejections.is_out(service, key):
                    del self.ejections.totals[service, key]
        pools = self._pools.by_service
        for service, rule in list(self.ejections.refused):
            if service not in pools:
                del self.ejections.refused[service, rule]
        for service in [name for name in self._refused_at if name not in pools]:
            del self._refused_at[service]
