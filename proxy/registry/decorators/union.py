"""The memberships of several registries as one. Pure.

A service has the instances of all of them. One that stands in two, which is how services move from
one registry to another, is one instance: by its address and port, as the first of the registries
has it, in their order. What is said on purpose counts whoever says it, so it is draining if one of
them says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from proxy.membership import Instance, Membership

Pool = tuple[Instance, ...]


class Union:
    """Owns what each registry last said, and the membership that it makes."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: of the registries, the preferred first."""
        self._names = names
        self._said: dict[str, Membership] = {}
        self._changed = False
        self._made: dict[str, tuple[tuple[Pool, ...], Pool]] = {}
        """Service → the pools of the registries, and what was made of them."""
        self._membership = Membership(services={})

    @property
    def missing(self) -> list[str]:
        """The registries that have not said anything yet."""
        return [name for name in self._names if name not in self._said]

    def take(self, name: str, membership: Membership) -> None:
        """A registry says all that it knows."""
        self._said[name] = membership
        self._changed = True

    def adopt(self, before: Union) -> None:
        """Take what registries of the same names said to another one, until they say it here."""
        for name in self.missing:
            if name in before._said:
                self.take(name, before._said[name])

    def membership(self) -> Membership:
        """The membership now. The identical object while nothing changed, and within it the
        identical tuple for each service of which nothing changed."""
        if not self._changed:
            return self._membership
        self._changed = False
        known = [(name, self._said[name].services) for name in self._names if name in self._said]
        made = {}
        for service in dict.fromkeys(service for _, services in known for service in services):
            pools = tuple(services.get(service, ()) for _, services in known)
            before = self._made.get(service)
            if before is not None and _same(before[0], pools):
                made[service] = before
            else:
                named = [(name, pool) for (name, _), pool in zip(known, pools, strict=True)]
                made[service] = pools, joined(named)
        self._made = made
        services = {service: pool for service, (_, pool) in made.items()}
        self._membership = Membership(services=services)
        return self._membership

    def origins(self) -> Mapping[str, int]:
        """How many instances each registry has that are served."""
        counts: dict[str, int] = {}
        for _, pool in self._made.values():
            for one in pool:
                counts[one.origin] = counts.get(one.origin, 0) + 1
        return dict(sorted(counts.items()))


def joined(pools: Sequence[tuple[str, Pool]]) -> Pool:
    """The instances of one service, of registries by name, in the order of their ids."""
    found: dict[str, Instance] = {}
    places: dict[tuple[str, int], str] = {}
    for name, pool in pools:
        own: dict[tuple[str, int], str] = {}
        for one in pool:
            place = one.address, one.port
            first = places.get(place)
            if first is not None:
                leaves = one.health == "draining" or one.weight == 0
                if leaves and found[first].health == "healthy":
                    message = one.health_message or f"draining in {name}"
                    found[first] = msgspec.structs.replace(
                        found[first], health="draining", health_message=message
                    )
                continue
            id_ = one.id
            while id_ in found:
                id_ += f"@{name}"
            origin = f"{name}/{one.origin}" if one.origin else name
            found[id_] = msgspec.structs.replace(one, id=id_, origin=origin)
            own.setdefault(place, id_)
        places |= own
    return tuple(sorted(found.values(), key=lambda one: one.id))


def _same(before: tuple[Pool, ...], now: tuple[Pool, ...]) -> bool:
    return len(before) == len(now) and all(
        one is other for one, other in zip(before, now, strict=True)
    )
