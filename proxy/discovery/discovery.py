"""`Discovery`: who serves a service, kept current, and served on through any outage.

A provider yields whole memberships and never yields an empty one because it lost its registry;
what it yielded last is the local cache. So reads are plain look-ups that never wait and never
fail once the first full list is known, whatever happens to the registry after.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import structlog

from proxy import catalog
from proxy.control.judging import judge
from proxy.discovery.metrics import DiscoveryMetrics
from proxy.membership import Instance, Membership
from proxy.registry.base import Provider
from proxy.settings.registry import RegistryOptions
from proxy.statuses import RegistryStatus
from proxy.waiting import ended

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = structlog.get_logger()

Callback = Callable[[str, tuple[Instance, ...]], Awaitable[None] | None]
"""`callback(service, instances)`: all that are registered now, in the order of their ids."""

PROVIDER_PAUSE = 1.0
"""Seconds between the failure of a provider and the next one. Providers handle outages
themselves; this is for their bugs."""


class NotReady(Exception):
    """The registry has not answered yet, so nothing is known, not even that nobody is there."""


@dataclass(eq=False, slots=True)
class _Watcher:
    """One reader of one service. Its queue is one bit: there is news, or not."""

    service: str
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class _Subscription:
    """One callback on one service."""

    service: str
    callback: Callback
    seen: tuple[Instance, ...] | None
    """Instances known at the registration, which are no change; None = nothing was known."""
    over: bool = False


class Discovery:
    """Owns the provider, the membership it last yielded, and the tasks of the callbacks.

    `source`: endpoints of etcd (one URL or several); or a registry of any type, as a mapping with
    the keys that `registry` has in proxy.yaml, or as its options (`EtcdOptions`); or a `Provider`.
    `prefix`: of the keys, with endpoints only; `/services/` if not given.
    `metrics`: a prometheus registry that shows the library's metrics while it is open; one
    `Discovery` for each registry.

    ValueError for endpoints that are no URLs, and for keys that will not do. An `async with`, or
    `start` and `close`, within one event loop, once.
    """

    def __init__(
        self,
        source: str | Sequence[str] | Mapping[str, Any] | RegistryOptions | Provider,
        *,
        prefix: str | None = None,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self._settings: RegistryOptions | None = None
        if isinstance(source, Provider | RegistryOptions | Mapping) and prefix is not None:
            raise TypeError("prefix: goes with endpoints; settings and providers have theirs")
        if isinstance(source, RegistryOptions):
            self._settings = source
        elif isinstance(source, Mapping):
            # It reads a file's words, which programs without such a mapping do not need.
            from proxy.settings.one_registry import registry_options_of

            self._settings = registry_options_of(source)
        elif not isinstance(source, Provider):
            endpoints = (source,) if isinstance(source, str) else tuple(source)
            etcd = catalog.registry_options("etcd")
            self._settings = etcd(endpoints=endpoints, prefix=prefix or "/services/")
        self._provider = source if isinstance(source, Provider) else self._build()
        self._registry = metrics
        self.metrics = DiscoveryMetrics(lambda: self._services)
        """Counted always, shown where the user wants it."""
        self._services: Mapping[str, tuple[Instance, ...]] = {}
        self._known = asyncio.Event()
        self._closed = False
        self._watchers: set[_Watcher] = set()
        self._watching: asyncio.Task[None] | None = None
        self._callbacks: dict[_Subscription, asyncio.Task[None] | None] = {}

    def _build(self) -> Provider:
        assert self._settings is not None
        provider: Provider = catalog.provider(self._settings)
        return provider

    # ------------------------------------------------------------------- start and stop

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to watch; returns at once, with the registry up or down. RuntimeError the
        second time."""
        if self._watching is not None or self._closed:
            raise RuntimeError("a Discovery is started once")
        if self._registry is not None:
            self._registry.register(self.metrics)
        self._watching = asyncio.create_task(self._watch(), name="discovery")
        for subscription in self._callbacks:
            self._start_callback(subscription)

    async def close(self) -> None:
        """Stop watching, end every `watch()` and callback. What is known stays readable. Safe
        to call more than once."""
        if self._closed:
            return
        self._closed = True
        if self._registry is not None and self._watching is not None:
            self._registry.unregister(self.metrics)
        for watcher in self._watchers:
            watcher.news.set()
        tasks = [task for task in (self._watching, *self._callbacks.values()) if task is not None]
        # A callback that closes the discovery must not wait for itself.
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        await ended(*tasks)
        await self._provider.close()

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait for the first full list. NotReady, with the registry's last error, when there
        is none after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._known.wait()
        except TimeoutError:
            raise self._not_ready(f"no answer within {timeout:g} s") from None

    # --------------------------------------------------------------------------- reading

    @property
    def ready(self) -> bool:
        """The first full list is known. Once true, always true."""
        return self._known.is_set()

    @property
    def age(self) -> float | None:
        """Seconds since the registry last answered anything: how old the cache may be. None =
        it never did."""
        return self._provider.status().age

    def status(self) -> RegistryStatus:
        """The provider's view of its registry: connected, endpoint, age, unreadable keys."""
        return self._provider.status()

    def services(self) -> tuple[str, ...]:
        """Names of the services that have instances, sorted. NotReady before the first list."""
        return tuple(sorted(self._current()))

    def instances(self, service: str) -> tuple[Instance, ...]:
        """All registered instances, whatever their health, in the order of their ids; () for a
        service that nobody registered. The identical tuple until something changes. NotReady before
        the first list."""
        return self._current().get(service, ())

    def healthy(self, service: str) -> tuple[Instance, ...]:
        """Instances that the proxy would call ready: healthy in the registry and of a weight above
        0."""
        return tuple(
            instance for instance in self.instances(service) if judge(instance)[0] == "ready"
        )

    async def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        """Whole tuples as `instances` gives them: the current one as soon as it is known, then
        one after each change, until the discovery is closed. A slow reader misses tuples in
        between and gets the newest: nothing is queued."""
        watcher = _Watcher(service)
        self._watchers.add(watcher)
        try:
            if self.ready:
                watcher.news.set()
            last: tuple[Instance, ...] | None = None
            while True:
                await watcher.news.wait()
                watcher.news.clear()
                if self._closed:
                    return
                current = self._services.get(service, ())
                if current is not last:
                    last = current
                    yield current
        finally:
            self._watchers.discard(watcher)

    def on_change(self, service: str, callback: Callback) -> Callable[[], None]:
        """Call `callback(service, instances)` after each change from now on; the first full
        list is one, if it is not known yet. A plain function is called in the event loop; a
        coroutine function is awaited, one call at a time, and meanwhile only the newest change
        is kept for it. An exception is logged and ends nothing. Returns the function that
        unregisters."""
        seen = self._services.get(service, ()) if self.ready else None
        subscription = _Subscription(service, callback, seen)
        self._callbacks[subscription] = None
        if self._watching is not None and not self._closed:
            self._start_callback(subscription)
        return lambda: self._unregister(subscription)

    # --------------------------------------------------------------------------- private

    def _current(self) -> Mapping[str, tuple[Instance, ...]]:
        if not self.ready:
            raise self._not_ready("the first list has not come yet; see wait_ready()")
        return self._services

    def _not_ready(self, text: str) -> NotReady:
        status = self._provider.status()
        reason = f": {status.last_error}" if status.last_error else ""
        return NotReady(f"registry ({status.provider}): {text}{reason}")

    async def _watch(self) -> None:
        """Follow the provider. One that fails by a fault of its own is built anew, if we built
        it; if not, what is known stays."""
        while True:
            try:
                async for membership in self._provider.watch():
                    self._apply(membership)
                return  # A provider whose membership is final has said it.
            except Exception:
                log.exception("provider_failed", provider=self._provider.name)
            if self._settings is None:
                return
            await self._provider.close()
            await asyncio.sleep(PROVIDER_PAUSE)
            self._provider = self._build()

    def _apply(self, membership: Membership) -> None:
        old, services = self._services, dict(membership.services)
        changed = set()
        for service, instances in services.items():
            before = old.get(service, ())
            if instances is before:
                continue
            if instances == before:
                services[service] = before  # Readers compare by identity.
            else:
                changed.add(service)
        changed |= old.keys() - services.keys()
        first = not self.ready
        self._services = MappingProxyType(services)
        for service in sorted(changed):
            self.metrics.learnt(service, services.get(service, ()))
        if changed and not first:
            log.debug("services_changed", services=len(changed), revision=membership.revision)
        self._known.set()
        for watcher in self._watchers:
            if first or watcher.service in changed:
                watcher.news.set()

    def _start_callback(self, subscription: _Subscription) -> None:
        self._callbacks[subscription] = asyncio.create_task(
            self._run_callback(subscription), name=f"discovery callback {subscription.service}"
        )

    async def _run_callback(self, subscription: _Subscription) -> None:
        service, last = subscription.service, subscription.seen
        async with aclosing(self.watch(service)) as changes:
            async for instances in changes:
                if instances is last:
                    continue
                last = instances
                try:
                    result = subscription.callback(service, instances)
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    log.exception("discovery_callback_failed", service=service)
                if subscription.over:
                    return

    def _unregister(self, subscription: _Subscription) -> None:
        subscription.over = True
        task = self._callbacks.pop(subscription, None)
        # One that unregisters itself finishes what it does.
        if task is not None and task is not asyncio.current_task():
            task.cancel()
