"""When to check whom, and what the results make of them. Pure: `now` is an argument.

The standing of an instance belongs to its identity: it survives every update of the pools that
names the instance again.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from proxy.health.base import Endpoint
from proxy.health.thresholds import Standing

JITTER = 0.1
"""Share by which an interval is longer or shorter, so that checks do not fall into step."""

FASTER = 1.0
"""Seconds between checks of an instance whose results speak against its standing."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How often one service is checked, and how many results make a change."""

    interval: float
    fall: int
    rise: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance to be checked."""

    key: str
    endpoint: Endpoint
    healthy: bool
    """Where it starts, by the registry's word."""


@dataclass(slots=True, eq=False)
class Target:
    """One instance that is checked. Owned by the `Schedule`."""

    service: str
    key: str
    endpoint: Endpoint
    rules: Rules
    standing: Standing
    gone: bool = False
    message: str = ""
    """Message of the last check."""


@dataclass(slots=True)
class _Service:
    rules: Rules
    targets: dict[str, Target] = field(default_factory=dict)


class Schedule:
    """Owns all targets and the order in which they are due."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._services: dict[str, _Service] = {}
        self._due: list[tuple[float, int, Target]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return sum(len(service.targets) for service in self._services.values())

    def has(self, name: str, key: str) -> bool:
        service = self._services.get(name)
        return service is not None and key in service.targets

    def update(
        self, name: str, rules: Rules | None, candidates: Iterable[Candidate], now: float
    ) -> list[str]:
        """The instances of a service, whole; `rules` None = not checked (any more). Who is new
        is checked first at a random time within an interval. Returns the keys that are not
        checked any more."""
        service = self._services.get(name)
        known = dict(service.targets) if service is not None else {}
        if rules is None:
            self._services.pop(name, None)
        else:
            if service is None:
                service = self._services[name] = _Service(rules)
            service.rules = rules
            service.targets = {}
            for candidate in candidates:
                target = known.pop(candidate.key, None)
                if target is None:
                    standing = Standing(rules.fall, rules.rise, healthy=candidate.healthy)
                    target = Target(name, candidate.key, candidate.endpoint, rules, standing)
                    self._put(target, now + self._rng.uniform(0.0, rules.interval))
                elif target.rules != rules:
                    target.rules = rules
                    target.standing.fall, target.standing.rise = rules.fall, rules.rise
                target.endpoint = candidate.endpoint
                service.targets[candidate.key] = target
        for target in known.values():
            target.gone = True
        return list(known)

    def due(self, now: float, limit: int) -> list[Target]:
        """Up to `limit` targets that are due. Each must be handed to `done` or `skipped`."""
        found: list[Target] = []
        while self._due and len(found) < limit and self._due[0][0] <= now:
            target = heapq.heappop(self._due)[2]
            if not target.gone:
                found.append(target)
        return found

    def done(self, target: Target, ok: bool, message: str, began: float, now: float) -> bool:
        """Take a result in and schedule the next check. True if it changed the standing. An
        interval counts from the beginning of a check, so a slow one makes no pause longer;
        one that took longer than the interval is followed at once."""
        if target.gone:
            return False
        target.message = message
        changed = target.standing.observe(ok)
        self._again(target, began, now)
        return changed

    def skipped(self, target: Target, began: float, now: float) -> None:
        """There was no result: ask again when it is time."""
        if not target.gone:
            self._again(target, began, now)

    def _again(self, target: Target, began: float, now: float) -> None:
        interval = target.rules.interval
        if target.standing.in_transition:
            interval = min(interval, FASTER)
        wait = interval * self._rng.uniform(1.0 - JITTER, 1.0 + JITTER)
        self._put(target, max(now, began + wait))

    @property
    def next_at(self) -> float | None:
        """When the next target is due; some that are gone may still be counted."""
        return self._due[0][0] if self._due else None

    def _put(self, target: Target, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), target))
