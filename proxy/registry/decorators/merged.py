"""Memberships with more instances than the registry names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxy.membership import Instance

Services = Mapping[str, tuple[Instance, ...]]


class Merged:
    """Owns the tuples of services that have retained instances."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Instance, ...]] = {}

    def services(self, named: Services, retained: Mapping[str, Iterable[Instance]]) -> Services:
        """Services with those the registry names and those that are retained, in the order of
        their ids. A service of which nothing changed has the identical tuple as before."""
        services, known = dict(named), {}
        for service, instances in retained.items():
            whole = (*services.get(service, ()), *instances)
            if whole:
                whole = tuple(sorted(whole, key=lambda one: one.id))
                before = self._known.get(service)
                known[service] = services[service] = before if before == whole else whole
        self._known = known
        return services
