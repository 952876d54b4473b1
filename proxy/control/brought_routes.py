"""Routes that instances bring, from the pools to the workers and the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from proxy.control.claims import Claims
from proxy.control.pools import PoolRegistry
from proxy.log import Novelties
from proxy.membership import Instance
from proxy.messages import BroughtRoutes
from proxy.settings.instance_routes import InstanceRoutes

log = structlog.get_logger()

NAMED = 1_000
LONGEST_NAMED = 500
"""Routes that are refused, and characters of each, in the log: whoever may register can make them
up at will. `GET /api/v1/routes` has those of now."""


class RoutesOfInstances:
    """Owns the claims, and tells of them."""

    def __init__(
        self,
        bounds: InstanceRoutes | None,
        pools: PoolRegistry,
        tell: Callable[[BroughtRoutes], None],
    ) -> None:
        """`tell`: all workers."""
        self.claims = Claims()
        self.claims.configure(bounds)
        self._pools = pools
        self._tell = tell
        self._named = Novelties(NAMED, LONGEST_NAMED)

    @property
    def message(self) -> BroughtRoutes:
        """Message with all routes in force, for a new worker."""
        routes = self.claims.routes
        return BroughtRoutes(
            tuple((one.host, one.path_prefix, one.service or "") for one in routes)
        )

    def configure(self, bounds: InstanceRoutes | None) -> None:
        """Go by these bounds."""
        if self.claims.configure(bounds):
            self._tell(self.message)
        self.follow(self._pools.by_service)

    def follow(self, services: Iterable[str]) -> None:
        """Hear what the instances of these services bring."""
        if self.claims.follow((service, self._instances(service)) for service in services):
            self._tell(self.message)
        self._say()

    def _instances(self, service: str) -> Sequence[Instance] | None:
        """Instances as the registry names them; None: it does not know the service."""
        pool = self._pools.by_service.get(service)
        if pool is None or pool.static:
            return None
        return () if pool.fallback else pool.source

    def _say(self) -> None:
        for one in self.claims.refused:
            if self._named.take(f"{one.service} {one.claim} {one.reason}"):
                log.warning(
                    "instance_route_refused",
                    service=one.service,
                    route=str(one.claim),
                    reason=one.reason,
                    held_by=one.held_by,
                )
