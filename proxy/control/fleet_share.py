"""The share that this proxy has of the rate limits of a whole fleet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import structlog

from proxy.fleet.shares import loads_of, pause, share_of
from proxy.registry.base import RegistryError
from proxy.settings.file import Settings

log = structlog.get_logger()

RATE_EVERY = 5.0
"""Seconds over which requests are counted for the load that others see."""

JITTER = 0.2
"""Of a pause, either way: proxies that started together do not ask together."""


class FleetShare:
    """Owns the share, and when it was last asked for."""

    def __init__(self, tell: Callable[[float], None], rng: random.Random | None = None) -> None:
        """`tell` hears of another share."""
        self.value = 1.0
        self._tell = tell
        self._rng = rng or random.Random()
        self._problem = ""
        self._in_use = False

    async def run(
        self,
        id_: str,
        settings: Callable[[], Settings],
        listed: Callable[[], Awaitable[list[dict[str, Any]]]],
    ) -> None:
        """Look at the list again and again, while a limit asks for it. What cannot be read leaves
        the share as it is."""
        while True:
            number = 0
            self._in_use = shares_limits(settings())
            if self._in_use:
                try:
                    loads = loads_of(await listed())
                except RegistryError as error:
                    if not self._problem:
                        log.warning("fleet_share_not_read", error=str(error), share=self.value)
                    self._problem = str(error)
                else:
                    self._problem = ""
                    number = len(loads)
                    self._use(share_of(id_, loads))
            await asyncio.sleep(pause(number) * self._rng.uniform(1 - JITTER, 1 + JITTER))

    def leave(self) -> None:
        """Be in no fleet: limits are this proxy's alone."""
        self._use(1.0)

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        if self._in_use:
            yield "fairlead_fleet_share", {}, self.value

    def _use(self, share: float) -> None:
        if share != self.value:
            self.value = share
            self._tell(share)


class Rate:
    """Owns how many requests there were when they were last counted."""

    def __init__(self) -> None:
        self._known: tuple[float, int] | None = None
        self._rate = 0.0

    def at(self, now: float, total: Callable[[], int]) -> float:
        """Requests a second. `total`: those of all time, which takes a while to count; it begins
        anew with the workers."""
        if self._known is None or now - self._known[0] >= RATE_EVERY:
            count = total()
            if self._known is not None:
                self._rate = max(0, count - self._known[1]) / (now - self._known[0])
            self._known = now, count
        return round(self._rate, 1)


def shares_limits(settings: Settings) -> bool:
    """Whether a rate limit of these settings holds for the fleet."""
    pools = (settings.defaults, *settings.services.values())
    limits = [pool.rate_limit for pool in pools]
    if any(limit is not None and limit.scope == "fleet" for limit in limits):
        return True
    lists = [one.filters for one in pools]
    lists += [one.filters for one in settings.listeners]
    lists += [one.filters for one in settings.routes]
    if settings.routes_from_instances is not None:
        lists.append(settings.routes_from_instances.filters)
    filters = (one for some in lists for one in some)
    return any(one.settings.get("scope") == "fleet" for one in filters)
