"""The choice among several registries, and the membership served over a switch. Pure.

`now` is an argument (monotonic seconds).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from proxy.membership import Instance, Membership
from proxy.registry.decorators.merged import Merged

RETURN_AFTER = 2
"""Good checks in a row before a registry that is preferred takes over again: one that goes up
and down does not pull the pools along."""

GRACE = 30.0
"""Seconds for which instances that the new registry does not know are retained: services that
follow the proxy to it need to notice and to register, which takes them a lease's time."""

LISTING = 0.1
"""Share of the check interval for the first list of the registry that takes over."""


@dataclass(frozen=True, slots=True)
class ProbeSchedule:
    """How a registry is checked, in seconds, so that one that falls silent at any moment is left
    within the interval: just after a check it passed, at the worst. The next check, its limit and
    the first list of the next registry have to fit into the interval after that."""

    every: float
    """From the end of a check to the beginning of the next: two that are passed in a row say that
    it was there for so long."""
    limit: float
    """For the answer. One that takes a little less is an answer."""

    @classmethod
    def within(cls, interval: float, timeout: float) -> ProbeSchedule:
        """`timeout` counts up to half of `interval`: there must be time left between checks."""
        limit = min(timeout, interval / 2)
        return cls(interval * (1 - LISTING) - limit, limit)


class FailoverPolicy:
    """Owns what the checks said of each registry. They are numbered in order of preference."""

    def __init__(self, size: int) -> None:
        self.alive: list[bool | None] = [None] * size
        self._good = [0] * size

    def checked(self, index: int, ok: bool) -> None:
        self.alive[index] = ok
        self._good[index] = self._good[index] + 1 if ok else 0

    def choose(self, active: int | None) -> int | None:
        """The registry to use, given the one in use; None = wait. The first that lives; one that
        is preferred to a living one must have proved itself. When none lives everything stays."""
        for index, alive in enumerate(self.alive):
            if index == active:
                if alive is not False:
                    return index
                continue
            if active is None and alive is None:
                return None  # It is preferred, and its first check is under way.
            instead = active is not None and index < active and self.alive[active]
            if alive and (not instead or self._good[index] >= RETURN_AFTER):
                return index
        return active


class GracefulSwitch:
    """Owns what is served: the registry in use, and for a while those that only the one before
    it knew. A service of which the new registry knows nobody at all keeps what it had until
    somebody registers there: an empty registry is a reason to doubt it, not to stop serving.
    """

    def __init__(self) -> None:
        self._truth: Membership | None = None
        self._retained: dict[str, dict[str, Instance]] = {}
        self._until = 0.0
        self._merged = Merged()
        self._served: Membership | None = None
        self._stale = False

    def update(self, membership: Membership, now: float) -> None:
        """News from the registry in use."""
        self._truth = membership
        self._drop(now)

    def begin(self, membership: Membership, now: float) -> None:
        """The first membership of another registry."""
        before = self.membership()
        self._retained = {
            service: {instance.id: instance for instance in instances}
            for service, instances in (before.services.items() if before is not None else ())
        }
        self._until = now + GRACE
        self._truth = membership
        self._drop(now)

    def step(self, now: float) -> bool:
        """True if the grace was over for somebody."""
        before = self.retained
        if self._truth is not None and self._retained:
            self._drop(now)
        return self.retained != before

    @property
    def retained(self) -> int:
        """Instances that are served although the registry in use does not name them."""
        return sum(map(len, self._retained.values()))

    @property
    def next_at(self) -> float | None:
        """When the grace is over, if anybody is retained by it."""
        return self._until if self._retained else None

    def membership(self) -> Membership | None:
        """Membership that is served; the identical object while nothing changed."""
        if self._stale and self._truth is not None:
            self._stale = False
            self._served = self._truth
            if self._retained:
                retained = {name: known.values() for name, known in self._retained.items()}
                services = self._merged.services(self._truth.services, retained)
                self._served = msgspec.structs.replace(self._truth, services=services)
        return self._served

    def _drop(self, now: float) -> None:
        """Let go of those the registry names, and after the grace of those of services it knows."""
        assert self._truth is not None
        self._stale = True
        for service, retained in list(self._retained.items()):
            there = self._truth.services.get(service, ())
            for instance in there:
                retained.pop(instance.id, None)
            if not retained or (there and now >= self._until):
                del self._retained[service]
