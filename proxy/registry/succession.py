"""Which of several registries is in use, and what is served over a switch. Pure.

`now` is an argument (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from proxy.membership import Instance, Membership

RETURN_AFTER = 2
"""Good checks in a row before a registry that is preferred takes over again: one that goes up
and down does not pull the pools along."""

GRACE = 30.0
"""Seconds for which instances that the new registry does not know are kept: services that
follow the proxy to it need to notice and to register, which takes them a lease's time."""

LISTING = 0.1
"""Share of the check interval for the first list of the registry that takes over."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a registry is checked, in seconds, so that one that falls silent at any moment is left
    within the interval: just after a check it passed, at the worst. The next check, its limit and
    the first list of the next registry have to fit into the interval after that."""

    every: float
    """From the end of a check to the beginning of the next: two that are passed in a row say that
    it was there for so long."""
    limit: float
    """For the answer. One that takes a little less is an answer."""

    @classmethod
    def within(cls, interval: float, timeout: float) -> Pace:
        """`timeout` counts up to half of `interval`: there must be time left between checks."""
        limit = min(timeout, interval / 2)
        return cls(interval * (1 - LISTING) - limit, limit)


class Succession:
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


class Handover:
    """Owns what is served: the registry in use, and for a while those that only the one before
    it knew. A service of which the new registry knows nobody at all keeps what it had until
    somebody registers there: an empty registry is a reason to doubt it, not to stop serving.
    """

    def __init__(self) -> None:
        self._truth: Membership | None = None
        self._kept: dict[str, dict[str, Instance]] = {}
        self._until = 0.0
        self._merged: dict[str, tuple[tuple[Instance, ...], tuple[Instance, ...]]] = {}
        self._served: Membership | None = None
        self._stale = False

    def update(self, membership: Membership, now: float) -> None:
        """News from the registry in use."""
        self._truth = membership
        self._drop(now)

    def switch(self, membership: Membership, now: float) -> None:
        """The first membership of another registry."""
        before = self.membership()
        self._kept = {
            service: {instance.id: instance for instance in instances}
            for service, instances in (before.services.items() if before is not None else ())
        }
        self._until = now + GRACE
        self._truth = membership
        self._drop(now)

    def step(self, now: float) -> bool:
        """True if the grace was over for somebody."""
        before = sum(map(len, self._kept.values()))
        if self._truth is not None and self._kept:
            self._drop(now)
        return sum(map(len, self._kept.values())) != before

    @property
    def kept(self) -> int:
        """Instances that are served although the registry in use does not name them."""
        return sum(map(len, self._kept.values()))

    @property
    def next_at(self) -> float | None:
        """When the grace is over, if anybody is kept by it."""
        return self._until if self._kept else None

    def membership(self) -> Membership | None:
        """What is served; the identical object while nothing changed."""
        if self._stale and self._truth is not None:
            self._stale = False
            services = dict(self._truth.services)
            merged = {}
            for service, kept in self._kept.items():
                truth = services.get(service, ())
                whole = tuple(sorted((*truth, *kept.values()), key=lambda one: one.id))
                _, known = self._merged.get(service, ((), ()))
                merged[service] = (truth, known if known == whole else whole)
                services[service] = merged[service][1]
            self._merged = merged
            self._served = (
                msgspec.structs.replace(self._truth, services=services)
                if self._kept
                else self._truth
            )
        return self._served

    def _drop(self, now: float) -> None:
        """Those the registry names, and after the grace those of services it knows."""
        assert self._truth is not None
        self._stale = True
        for service, kept in list(self._kept.items()):
            there = self._truth.services.get(service, ())
            for id_ in _ids(there):
                kept.pop(id_, None)
            if not kept or (there and now >= self._until):
                del self._kept[service]


def _ids(instances: Sequence[Instance]) -> list[str]:
    return [instance.id for instance in instances]
