"""Services that have the instances of another one, beside what the registry lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.membership import Instance
from proxy.settings.instances import renamed

Services = Mapping[str, tuple[Instance, ...]]


class Derived:
    """Owns the instances of services with `from`, and what the registry last listed."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """`sources`: service → the one that it has its instances from."""
        self._sources = sources
        self._listed: Services = {}
        self._known: dict[str, tuple[tuple[Instance, ...], tuple[Instance, ...]]] = {}
        """Service → instances of its source, and the same as its own."""
        self.services: Services = {}
        """All services, those of the registry and these; what did not change is the same object."""

    def configure(self, sources: Mapping[str, str]) -> set[str]:
        """Take over other sources. Returns the services that have others than before."""
        moved = {name for name, _ in sources.items() ^ self._sources.items()}
        if moved:
            self._sources = sources
            self._known.clear()
            self.follow(self._listed)
        return moved

    def follow(self, listed: Services) -> Services:
        """All services, now that the registry lists these."""
        self._listed = self.services = listed
        if not self._sources:
            return listed
        services = dict(listed)
        for name, source in self._sources.items():
            instances = listed.get(source, ())
            known = self._known.get(name)
            if known is None or known[0] is not instances:
                known = self._known[name] = instances, renamed(instances, name)
            services[name] = known[1]
        self.services = services
        return services
