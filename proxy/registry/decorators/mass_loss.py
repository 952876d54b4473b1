"""The mass-loss guard: many registrations that run out together are not believed. Pure.

A registry that lost its leader, was restored or was cut off from its clients lets leases run
out although the services behind them are well. So when at least `share` of a pool of two or
more is lost within `window` seconds by leases that ended, those instances are *retained*: they
stay in the membership while they still answer, until they are registered again, for `hold`
seconds at most.

What is said on purpose is honoured at once: a deletion of keys of several leases together
(each lease that ends does so by itself), a deletion while the lease lives, a registration
without a lease, one that was marked draining, one that was not healthy anyway. A lease that
was revoked cannot be told from one that ran out; who deregisters by revoking says `draining`
first, and one that stops answering is let go in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import inf

import msgspec

from proxy.membership import Departure, Instance, Membership
from proxy.registry.decorators.merged import Merged
from proxy.settings.registry import MassLossSettings
from proxy.statuses import RetainedInstance

PROBE_INTERVAL = 1.0
"""Seconds between two questions whether a retained instance still answers."""

MAX_FAILURES = 2
"""Unanswered probes in a row until it is let go: one may be lost, and meanwhile requests that
fail to connect go elsewhere."""

LATELY = 3.0
"""Seconds for which an answer to a request counts as much as a passed probe: workers tell once a
second what they have counted, and a busy instance may have no room for one more connection."""

WHY = "its lease ended together with most of the pool's, and it still answers"

Name = tuple[str, str]
"""(service, id)"""


@dataclass(slots=True)
class _Loss:
    """A registration that ran out, as far as is known."""

    instance: Instance
    departure: Departure
    at: float
    judged: bool = False
    """Whether the loss was retained as part of a mass loss. It still counts for its window: the
    last of a pool whose leases run out one by one is lost no less together with the others."""


@dataclass(slots=True)
class _Retained:
    """A loss that is not believed."""

    loss: _Loss
    until: float
    next_probe: float
    served: bool
    """In the membership. One that was lost before the loss became a mass loss has been out
    for a while, so it must answer first."""
    certain: bool = False
    """Whether it is certain that the lease ended."""
    failures: int = 0
    answers: int | None = None
    """Requests it had answered when it was last asked."""
    answered_at: float = -inf
    """When that number was last seen to have grown."""


class MassLossPolicy:
    """Owns what the registry last said, what was lost of it lately, and what is retained."""

    def __init__(self, settings: MassLossSettings) -> None:
        self.total = 0
        """Instances retained since the start."""
        self._settings = settings
        self._truth = Membership(services={})
        self._losses: dict[str, dict[str, _Loss]] = {}
        self._retained: dict[str, dict[str, _Retained]] = {}
        self._merged = Merged()
        self._changed = True
        self._current = self._truth

    def adopt(self, before: MassLossPolicy) -> None:
        """Go on retaining whom another one retains, before the first `update`. Both go on alone."""
        self.total = before.total
        self._losses, self._retained = deepcopy((before._losses, before._retained))

    # -------------------------------------------------------------------------- the truth

    def update(self, membership: Membership, now: float) -> list[Departure]:
        """The registry says this. Returns what is retained from now on because of it: whether
        those leases ended is to be asked, and told by `answered`."""
        before, self._truth = self._truth.services, membership
        self._changed = True
        deleted = _deleted(membership.departures)
        how = {
            (one.service, one.id): one
            for one in membership.departures
            if one.lease and one.revision not in deleted
        }
        suspicious: list[Departure] = []
        for service in [*before, *(s for s in membership.services if s not in before)]:
            old, new = before.get(service, ()), membership.services.get(service, ())
            if old is not new:
                suspicious += self._compare(service, old, new, how, now)
        return suspicious

    def _compare(
        self,
        service: str,
        old: tuple[Instance, ...],
        new: tuple[Instance, ...],
        how: Mapping[Name, Departure],
        now: float,
    ) -> list[Departure]:
        there = {instance.id for instance in new}
        retained = self._retained.get(service, {})
        losses = self._losses.setdefault(service, {})
        for known in (retained, losses):
            for id_ in [id_ for id_ in known if id_ in there]:
                del known[id_]
        for id_ in [id_ for id_, loss in losses.items() if now - loss.at > self._window]:
            del losses[id_]
        fresh: set[str] = set()
        for instance in old:
            departure = how.get((service, instance.id))
            if instance.id in there or departure is None:
                continue
            if departure.health == "healthy":
                losses[instance.id] = _Loss(instance, departure, now)
                fresh.add(instance.id)
        size = len(new) + len(losses.keys() | retained.keys())
        mass = size >= 2 and len(losses) >= self._settings.share * size
        suspicious: list[Departure] = []
        if mass and fresh:
            for id_, loss in losses.items():
                if not loss.judged:
                    loss.judged = True
                    served = id_ in fresh
                    until = now + self._settings.hold
                    self._retained.setdefault(service, {})[id_] = _Retained(
                        loss, until, now, served
                    )
                    suspicious.append(loss.departure)
                    self.total += 1
        if not losses:
            del self._losses[service]
        if not self._retained.get(service, True):
            del self._retained[service]
        return suspicious

    @property
    def _window(self) -> float:
        return self._settings.window

    def membership(self) -> Membership:
        """Membership of the registry with the retained instances. The identical object while
        nothing changed."""
        if self._changed:
            self._changed = False
            served = {
                service: [one.loss.instance for one in known.values() if one.served]
                for service, known in self._retained.items()
            }
            services = self._merged.services(self._truth.services, served)
            self._current = msgspec.structs.replace(self._truth, services=services, departures=())
        return self._current

    # --------------------------------------------------------------------- the retained

    def uncertain(self) -> list[Departure]:
        """Departures whose lease may still live: to be asked about again."""
        return [one.loss.departure for one in self._all() if not one.certain]

    def answered(self, departure: Departure, expired: bool | None) -> bool:
        """Take over the registry's answer on a departure: True = its lease ended, None = cannot
        say. True is returned if that let an instance go."""
        one = self._retained.get(departure.service, {}).get(departure.id)
        if one is None or expired is None:
            return False
        one.certain = expired
        if expired:
            return False
        # It was no loss at all, so it makes no other one suspicious.
        losses = self._losses.get(departure.service, {})
        losses.pop(departure.id, None)
        if not losses:
            self._losses.pop(departure.service, None)
        return self._release(departure.service, departure.id)

    def due(self, now: float) -> list[Instance]:
        """Instances to be asked whether they still answer; `probed` takes the results."""
        found = [one for one in self._all() if one.next_probe <= now]
        for one in found:
            one.next_probe = now + PROBE_INTERVAL
        return [one.loss.instance for one in found]

    def probed(self, instance: Instance, ok: bool, answers: int = 0, now: float = 0.0) -> bool:
        """True if that changed the membership. `answers`: requests that it has answered so far."""
        one = self._retained.get(instance.service, {}).get(instance.id)
        if one is None or one.loss.instance is not instance:
            return False
        if one.answers is not None and answers > one.answers:
            one.answered_at = now
        one.answers = answers
        if ok or (one.served and now - one.answered_at < LATELY):
            one.failures = 0
            if one.served:
                return False
            one.served = self._changed = True
            return True
        one.failures += 1
        if one.served and one.failures < MAX_FAILURES:
            return False
        return self._release(instance.service, instance.id)

    def step(self, now: float) -> list[Name]:
        """Let those go that were retained for long enough, and say whom."""
        over = [
            (one.loss.instance.service, one.loss.instance.id)
            for one in self._all()
            if one.until <= now
        ]
        for service, id_ in over:
            self._release(service, id_)
        return over

    @property
    def next_at(self) -> float | None:
        """When somebody is to be asked, or let go."""
        return min((min(one.next_probe, one.until) for one in self._all()), default=None)

    def retained(self, now: float) -> tuple[RetainedInstance, ...]:
        """Instances that are served although the registry does not name them."""
        return tuple(
            RetainedInstance(
                service=one.loss.instance.service,
                id=one.loss.instance.id,
                why=WHY,
                age=round(now - one.loss.at, 3),
            )
            for one in self._all()
            if one.served
        )

    def _release(self, service: str, id_: str) -> bool:
        del self._retained[service][id_]
        if not self._retained[service]:
            del self._retained[service]
        self._changed = True
        return True

    def _all(self) -> Iterable[_Retained]:
        return [one for known in self._retained.values() for one in known.values()]


def _deleted(departures: Iterable[Departure]) -> set[int]:
    """Revisions at which keys of several leases went: somebody deleted them in one request. A
    lease that ends, for whatever reason, is a revision of its own."""
    leases: dict[int, set[int]] = {}
    for departure in departures:
        leases.setdefault(departure.revision, set()).add(departure.lease)
    leases.pop(0, None)
    return {revision for revision, known in leases.items() if len(known) > 1}
