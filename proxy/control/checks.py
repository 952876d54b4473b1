"""Active checks: the monitor is told of the pools' instances, and the pools of its findings."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from random import Random

from proxy import catalog
from proxy.control.pool import Changes
from proxy.control.pools import PoolRegistry
from proxy.control.reactions import Reactions, id_in
from proxy.control.sockets import descriptors
from proxy.destinations import Destinations
from proxy.health.base import Check, Endpoint
from proxy.health.monitor import Finding, Monitor, Passed, Plan
from proxy.health.schedule import Candidate, Rules
from proxy.membership import Instance
from proxy.proxy_header import header
from proxy.settings.health_check import HealthCheckSettings, arguments
from proxy.settings.protocol import spoken
from proxy.settings.upstream_tls import UpstreamTls
from proxy.threads import in_thread
from proxy.tls.contexts import upstream_context

CHECK_DESCRIPTORS = 4
"""At most one part in so many of this process's descriptors is for checks under way: where few are
allowed, the registry is followed and the admin server answers all the same."""


class Checks:
    """Owns the monitor, and which instances it was told of."""

    def __init__(
        self,
        pools: PoolRegistry,
        reactions: Reactions,
        on_changes: Callable[[Changes], None],
        on_passed: Passed,
        destinations: Destinations,
        contents: Callable[[], Mapping[str, bytes]],
        rng: Random,
    ) -> None:
        """`destinations`: where checks of the registry's instances may not lead; `contents`: see
        `Contexts`."""
        self._pools = pools
        self._reactions = reactions
        self._on_changes = on_changes
        self._destinations = destinations
        self._monitor = Monitor(
            self._plan,
            self._on_findings,
            on_passed,
            most=descriptors() // CHECK_DESCRIPTORS,
            rng=rng,
        )
        self._contexts = Contexts(contents)
        self._plans: dict[tuple[HealthCheckSettings, UpstreamTls], Plan] = {}
        self._looked_at: dict[str, tuple[Instance, ...]] = {}
        """Service → the instances that the monitor was told of."""

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Service → `passed | failed | skipped` → checks."""
        return self._monitor.counts

    async def run(self) -> None:
        """Check until cancelled."""
        await self._monitor.run()

    async def close(self) -> None:
        """Release what checks share. `run` must be over."""
        await self._monitor.close()

    def _plan(self, service: str) -> Plan | None:
        settings = self._pools.settings(service)
        wanted = settings.health_check
        if wanted is None:
            return None
        key = (wanted, settings.tls)
        if key not in self._plans:
            check = build_check(wanted)
            check.destinations = self._destinations
            check.context = partial(self._contexts.get, settings.tls, check.alpn)
            self._plans[key] = Plan(check, Rules(wanted.interval, wanted.fall, wanted.rise))
        return self._plans[key]

    def configure(self) -> None:
        """Services may be checked in another way now, or not any more. What is known of an instance
        that goes on being checked is kept."""
        self._looked_at.clear()
        self.follow(self._pools.by_service)

    def follow(self, services: Iterable[str]) -> None:
        """The instances of these services may be other ones now."""
        for service in services:
            pool = self._pools.by_service.get(service)
            instances = () if pool is None else pool.source
            local = pool is not None and pool.local
            settings = self._pools.settings(service)
            if self._looked_at.get(service) is instances:
                continue
            self._looked_at[service] = instances
            if not instances:
                del self._looked_at[service]
            for instance in instances if self._plan(service) is not None else ():
                if not self._monitor.checks(service, instance.key) and not _well(instance):
                    # Or it would be served as soon as the registry calls it healthy, whatever
                    # our own checks found meanwhile.
                    self._pools.check(service, instance.key, "not checked since it was unhealthy")
            version = settings.send_proxy_protocol
            preface = b"" if version == "off" else header(version, None)
            left = self._monitor.update(
                service,
                (
                    Candidate(
                        instance.key,
                        Endpoint(
                            instance.address,
                            instance.port,
                            local,
                            spoken(settings.protocol, settings.tls, instance)[1],
                            preface,
                            settings.tls.trust_domain,
                        ),
                        _well(instance),
                    )
                    for instance in instances
                ),
            )
            for key in left:
                self._pools.check(service, key, None)

    def _on_findings(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._pools.check(
                finding.service, finding.key, None if finding.healthy else finding.message
            )
            self._reactions.tell(
                "check_healthy" if finding.healthy else "check_unhealthy",
                service=finding.service,
                instance=id_in(finding.key),
                message=finding.message,
            )
        self._on_changes(self._pools.settle(time.monotonic()))


class Contexts:
    """Owns the TLS contexts of checks, one for each policy: made anew once a file has changed."""

    def __init__(self, contents: Callable[[], Mapping[str, bytes]]) -> None:
        """`contents`: of the files that policies name; another object when they change."""
        self._contents = contents
        self._made: dict[tuple[UpstreamTls, str], tuple[object, asyncio.Future[ssl.SSLContext]]]
        self._made = {}

    async def get(self, tls: UpstreamTls, alpn: str = "http/1.1") -> ssl.SSLContext:
        """The context for a policy and a protocol."""
        contents = self._contents()
        before, made = self._made.get((tls, alpn), (None, None))
        if made is None or before is not contents or (made.done() and made.exception()):
            # The system's authorities take 35 ms, in which nothing else would happen.
            made = in_thread(
                partial(upstream_context, tls, contents, (alpn,)), "make a TLS context"
            )
            self._made[tls, alpn] = contents, made
        return await asyncio.shield(made)


def _well(instance: Instance) -> bool:
    """By the registry's word, where checks begin."""
    return instance.health in ("healthy", "draining")


def build_check(settings: HealthCheckSettings) -> Check:
    """The check that the settings ask for. ValueError when a parameter is wrong."""
    kind: Callable[..., Check] = catalog.plug_in("checks", settings.type)
    return kind(**arguments(settings))
