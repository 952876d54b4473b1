"""The mass-loss guard around a provider: asks and probes what `mass_loss.py` wants to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

import msgspec
import structlog

from proxy.destinations import Destinations
from proxy.health.base import Check, Endpoint
from proxy.health.tcp import TcpCheck
from proxy.membership import Departure, Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.base import Decorator, OnEvent, to_nobody
from proxy.registry.decorators.mass_loss import MassLossPolicy
from proxy.settings.registry import MassLossSettings
from proxy.statuses import RegistryStatus
from proxy.waiting import set_within

log = structlog.get_logger()

AT_A_TIME = 64
"""Questions, and probes, under way at a time: thousands of retained instances are no reason to
open thousands of connections at once."""

ASK_AGAIN = 1.0
"""Seconds until the registry is asked again about a lease of which it could say nothing."""

GATHER = 0.02
"""Seconds in which answers are gathered: an explicit delete of a whole pool is a few changes of
the pools and a few lines in the log, whatever its size."""

SHOWN = 10
"""Instances that a log line names."""


class MassLossProvider(Decorator):
    """Owns the policy, and the questions about those it retains."""

    name: ClassVar[str] = "mass_loss_guard"

    def __init__(
        self,
        inner: Provider,
        settings: MassLossSettings,
        *,
        check: Check | None = None,
        answers: Callable[[Instance], int] = lambda instance: 0,
        on_event: OnEvent = to_nobody,
        clock: Callable[[], float] = time.monotonic,
        destinations: Destinations | None = None,
        before: Callable[[], Provider | None] = lambda: None,
    ) -> None:
        """`answers`: how many requests an instance has answered so far, as far as is known.
        `on_event(kind, **fields)` hears of mass losses and of those that are let go.
        `destinations`: where instances may not lead. `before`: the provider in use, whose place
        this one takes with its first membership."""
        super().__init__(inner, on_event)
        self._before = before
        self._policy = MassLossPolicy(settings)
        self._check = check or TcpCheck(timeout=1.0)
        self._check.destinations = destinations
        self._answers = answers
        self._clock = clock
        self._known = False
        self._ended: dict[tuple[str, str], list[str]] = {}
        """(service, why) → ids of those let go that nobody was told of yet."""
        self._to_ask = asyncio.Event()
        self._to_probe = asyncio.Event()
        self._asking = asyncio.Semaphore(AT_A_TIME)
        self._probing = asyncio.Semaphore(AT_A_TIME)

    def status(self) -> RegistryStatus:
        inner = self._inner.status()
        return msgspec.structs.replace(
            inner,
            retained=(*inner.retained, *self._policy.retained(self._clock())),
            retained_total=self._policy.total,
        )

    async def close(self) -> None:
        await super().close()
        await self._check.close()

    def _work(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._follow(), self._ask(), self._probe())

    def _current(self) -> Membership | None:
        return self._policy.membership() if self._known else None

    async def _follow(self) -> None:
        async for membership in self._inner.watch():
            if not self._known and (before := guard_of(self._before())) is not None:
                self._policy.adopt(before._policy)
                self._to_ask.set()
                self._to_probe.set()
            suspicious = self._policy.update(membership, self._clock())
            self._known = True
            self._changed.set()
            if suspicious:
                self._tell_of(suspicious)
                self._to_ask.set()
                self._to_probe.set()

    def _tell_of(self, suspicious: list[Departure]) -> None:
        counts: dict[str, int] = {}
        for departure in suspicious:
            counts[departure.service] = counts.get(departure.service, 0) + 1
        for service, count in counts.items():
            log.warning("registry_mass_loss", service=service, held=count)
            self._on_event("mass_loss", service=service, held=count)

    async def _ask(self) -> None:
        """Ask the registry whether the leases ended, until it says so."""

        async def one(departure: Departure) -> None:
            async with self._asking:
                expired = await self._inner.expired(departure)
            if self._policy.answered(departure, expired):
                self._let_go("deleted on purpose", departure.service, departure.id)

        while True:
            self._to_ask.clear()
            uncertain = self._policy.uncertain()
            await asyncio.gather(*map(one, uncertain))
            await set_within(self._to_ask, ASK_AGAIN if uncertain else None)

    async def _probe(self) -> None:
        """See whether the retained still answer, and let those go that were for too long."""

        async def one(instance: Instance) -> None:
            async with self._probing:
                verdict = await self._check.probe(Endpoint(instance.address, instance.port))
            if not verdict.asked:
                return  # It says nothing of the instance.
            answers = self._answers(instance)
            if self._policy.probed(instance, verdict.ok, answers, self._clock()):
                if verdict.ok:
                    self._changed.set()
                else:
                    self._let_go(verdict.message, instance.service, instance.id)

        while True:
            self._to_probe.clear()
            for service, id_ in self._policy.step(self._clock()):
                self._let_go("held for too long", service, id_)
            await asyncio.gather(*map(one, self._policy.due(self._clock())))
            at = self._policy.next_at
            await set_within(self._to_probe, None if at is None else at - self._clock())

    def _let_go(self, why: str, service: str, id_: str) -> None:
        if not self._ended:
            asyncio.get_running_loop().call_later(GATHER, self._tell_of_ends)
        self._ended.setdefault((service, why), []).append(id_)

    def _tell_of_ends(self) -> None:
        ended, self._ended = self._ended, {}
        for (service, why), ids in ended.items():
            fields = {"service": service, "because": why, "count": len(ids)}
            log.info("registry_hold_ended", instances=ids[:SHOWN], **fields)
            self._on_event("hold_ended", instances=ids[:SHOWN], **fields)
        self._changed.set()


def guard_of(provider: Provider | None) -> MassLossProvider | None:
    """The guard in a provider, if there is one."""
    while isinstance(provider, Decorator) and not isinstance(provider, MassLossProvider):
        provider = provider._inner
    return provider if isinstance(provider, MassLossProvider) else None
