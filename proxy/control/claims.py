"""Routes that instances bring: who may have which, and who had it first. Pure.

Metadata are written by whoever may register, so a route counts only within the bounds of the file,
behind all routes of the file, and for the service of the instance alone. Of several services that
want one route the first keeps it until it wants it no more, over outages and reloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from proxy.membership import Instance
from proxy.settings.addresses import parse_host_name
from proxy.settings.instance_routes import InstanceRoutes
from proxy.settings.route import RouteSpec
from proxy.settings.route_values import EXACT_PATH
from proxy.settings.tree import Scalar

HOST, PREFIX = "route_host", "route_prefix"
"""Metadata."""

MOST_OF_ONE: Final = 8
"""Routes of one service: its instances say the same, or two things while it is deployed anew."""
MOST: Final = 1_000
"""Routes in force: a worker makes its table of them anew, in ten milliseconds, at each change."""
LONGEST: Final = 1_024
"""Characters of a prefix."""


class Claim(NamedTuple):
    """A host and a path prefix, as they stand in metadata; "" = it does not."""

    host: str
    prefix: str

    def __str__(self) -> str:
        return (self.host or "any host") + (self.prefix or "/")


class Refused(NamedTuple):
    """A claim that is not in force, and why."""

    service: str
    claim: Claim
    reason: str
    held_by: str = ""
    """The service that has it; "" = it is outside the bounds, or one too many."""


class Claims:
    """Owns who wants which route, in the order in which they came, and what is in force of it."""

    def __init__(self) -> None:
        self._bounds: InstanceRoutes | None = None
        self._wanted: dict[str, tuple[Claim, ...]] = {}
        """By service."""
        self._waiting: dict[Claim, list[str]] = {}
        """Services that want it, the first to come first."""
        self.routes: tuple[RouteSpec, ...] = ()
        """In force; the same object while nothing changes."""
        self.refused: tuple[Refused, ...] = ()

    def configure(self, bounds: InstanceRoutes | None) -> bool:
        """Go by these bounds; whether other routes are in force now."""
        self._bounds = bounds
        return self._decide()

    def follow(self, services: Iterable[tuple[str, Sequence[Instance] | None]]) -> bool:
        """Hear what the instances of services want; None: nobody knows the service any more. One
        that has no instance keeps what it had. Whether other routes are in force now."""
        changed = False
        # By name, so that all proxies that learn of several at once agree.
        for service, instances in sorted(services, key=lambda one: one[0]):
            if instances is not None and not instances:
                continue
            claims = {claim for one in instances or () if (claim := _claim(one)) is not None}
            wanted = tuple(sorted(claims)[: MOST_OF_ONE + 1])
            if wanted != self._wanted.get(service, ()):
                changed = True
                self._want(service, wanted)
        return changed and self._decide()

    def order(self) -> list[tuple[str, str, str]]:
        """Service, host and prefix of all that is wanted, for a successor."""
        return [(service, *claim) for claim, some in self._waiting.items() for service in some]

    def restore(self, order: Iterable[tuple[str, str, str]]) -> None:
        """Take over the order of a predecessor, before anything is heard."""
        for service, host, prefix in order:
            self._want(service, (*self._wanted.get(service, ()), Claim(host, prefix)))
        self._decide()

    def document(self) -> dict[str, Any]:
        """Document of the claims, for `GET /api/v1/routes`."""
        return {
            "from_instances": [
                {"host": one.host, "path_prefix": one.path_prefix, "service": one.service}
                for one in self.routes
            ],
            "refused": [
                {"service": one.service, "route": str(one.claim), "reason": one.reason}
                for one in self.refused
            ],
        }

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        if self._bounds is not None:
            yield "fairlead_instance_routes", {}, float(len(self.routes))
            yield "fairlead_instance_routes_refused", {}, float(len(self.refused))

    # ------------------------------------------------------------------------- private

    def _want(self, service: str, wanted: tuple[Claim, ...]) -> None:
        before = self._wanted.pop(service, ())
        for claim in before:
            if claim not in wanted:
                self._waiting[claim].remove(service)
                if not self._waiting[claim]:
                    del self._waiting[claim]
        for claim in wanted:
            if claim not in before:
                self._waiting.setdefault(claim, []).append(service)
        if wanted:
            self._wanted[service] = wanted

    def _decide(self) -> bool:
        routes: list[RouteSpec] = []
        refused: list[Refused] = []
        held: dict[str, int] = {}
        holders: dict[Claim, str] = {}
        for claim, services in self._waiting.items() if self._bounds is not None else ():
            place = _place(claim)
            for service in services:
                reason = _refusal(self._bounds, service, claim)
                holder = holders.get(place, "")
                if not reason and holder not in ("", service):
                    reason = f"{holder} has it"
                elif not reason and (held.get(service, 0) >= MOST_OF_ONE or len(routes) >= MOST):
                    reason = f"too many; allowed: {MOST_OF_ONE} of a service, {MOST} in all"
                elif not reason:
                    holders[place] = service
                    held[service] = held.get(service, 0) + 1
                    routes.append(_route(service, claim, self._bounds))
                    continue
                refused.append(Refused(service, claim, reason, holder))
        changed = tuple(routes) != self.routes
        if changed:
            self.routes = tuple(routes)
        self.refused = tuple(refused)
        return changed


def _claim(instance: Instance) -> Claim | None:
    if HOST not in instance.metadata and PREFIX not in instance.metadata:
        return None  # Nearly all, and each is asked at each change of its service.
    host = instance.metadata.get(HOST, "").lower().removesuffix(".")[: LONGEST + 1]
    prefix = instance.metadata.get(PREFIX, "")[: LONGEST + 1]
    try:
        prefix = EXACT_PATH(Scalar(prefix))
    except ValueError:
        pass  # The bounds say why it is refused.
    return Claim(host, prefix) if host or prefix else None


def _place(claim: Claim) -> Claim:
    """The claim as all are written that lead to the same requests, but for the path alone: a slash
    more at the end, which is looked up first, takes no route away from whoever has it."""
    return Claim(claim.host, claim.prefix.rstrip("/"))


def _route(service: str, claim: Claim, bounds: InstanceRoutes | None) -> RouteSpec:
    assert bounds is not None
    host, prefix = claim.host or None, claim.prefix or None
    return RouteSpec(host=host, path_prefix=prefix, service=service, filters=bounds.filters)


def _refusal(bounds: InstanceRoutes | None, service: str, claim: Claim) -> str:
    """Why a service may not have this; "" = it may."""
    assert bounds is not None
    host, prefix = claim
    if host:
        try:
            parse_host_name(host)
        except ValueError as error:
            return f"{HOST} {error}"
    elif bounds.hosts:
        return f"no {HOST}; allowed: {', '.join(bounds.hosts)}"
    if host and not any(_fits(host, pattern, service) for pattern in bounds.hosts):
        return f"{HOST} is outside the bounds; allowed: {', '.join(bounds.hosts) or 'none'}"
    if prefix:
        try:
            EXACT_PATH(Scalar(prefix))
        except ValueError as error:
            return f"{PREFIX} {error}"
        if len(prefix) > LONGEST:
            return f"{PREFIX} is longer than {LONGEST} characters"
    elif bounds.path_prefixes:
        return f"no {PREFIX}; allowed: {', '.join(bounds.path_prefixes)}"
    if bounds.path_prefixes and not any(_is_below(prefix, one) for one in bounds.path_prefixes):
        return f"{PREFIX} is outside the bounds; allowed: {', '.join(bounds.path_prefixes)}"
    return ""


def _fits(host: str, pattern: str, service: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    return host == pattern.removesuffix(".").replace("{service}", service.lower())


def _is_below(prefix: str, bound: str) -> bool:
    """Whether all paths with this prefix are within the bound, whole segments."""
    return prefix == bound or prefix.startswith(bound.removesuffix("/") + "/")
