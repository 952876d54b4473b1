"""A relay in the process of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Self

from proxy.catalog import PROVIDERS, load, registry_options
from proxy.control.relay import Relay
from proxy.registry.base import Provider
from proxy.settings.file import Settings
from proxy.settings.registry import Registry, RegistryOptions
from proxy.settings.relay import RelaySettings
from tests.e2e.drilled import TIMING
from tests.support.processes import free_port


class RelayInFront:
    """Owns a relay of an etcd in this process, on a port that stays the same."""

    def __init__(
        self,
        etcd: str,
        token: str = "",
        write_limit: float = 10.0,
        port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        registry = registry_options("etcd")(endpoints=(etcd,))
        self._settings = Settings(
            relay=RelaySettings(bind=f"127.0.0.1:{self.port}", token=token),
            registry=Registry(type="etcd", options=registry),
        )
        self._write_limit = write_limit
        self._relay: Relay | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work, name=name))
        return self._tasks[-1]

    def start(self) -> None:
        if self._relay is not None:
            return

        def build(options: RegistryOptions) -> Provider:
            built: Provider = load(PROVIDERS, "etcd")(options, timing=TIMING)
            return built

        relay = Relay(self._own, lambda: None, build, stale=1.5, write_limit=self._write_limit)
        relay.follow(self._settings)
        self._relay = relay

    async def kill(self) -> None:
        if self._relay is not None:
            self._relay.leave()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._relay = None

    def samples(self) -> list[Any]:
        return [] if self._relay is None else [*self._relay.samples()]

    def cut(self, reason: str) -> float:
        """Followers that were sent away for this reason."""
        return sum(value for _, labels, value in self.samples() if labels == {"reason": reason})

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()
