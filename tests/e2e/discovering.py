"""`DiscoveringProxy`: the real `fairlead run` with two workers on an etcd registry, and what it
says of that registry next to what the registry says itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.etcd_server import EtcdClient
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

Known = dict[tuple[str, str], tuple[str, int, str]]
"""Service and id → address, port, weight."""


class DiscoveringProxy(RunningProxy):
    """Owns a proxy that finds its instances in etcd. `/NAME/…` goes to service NAME."""

    START = 60.0
    """Seconds that several of them, started at once on a busy machine, may take. How long a start
    takes is not what these tests are about."""

    def __init__(
        self,
        directory: Path,
        *endpoints: str,
        registry: Mapping[str, Any] | None = None,
        services: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            {
                "workers": 2,
                "registry": {"type": "etcd", "endpoints": list(endpoints), **(registry or {})},
                "services": dict(services or {}),
                "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
            },
            directory,
        )

    async def start(self, within: float = START) -> Self:
        """As `RunningProxy`, with more patience."""
        return await super().start(within)

    async def document(self, path: str) -> dict[str, Any]:
        """GET of a document of the admin API."""
        status, body = await self.get(path)
        assert status == 200, (path, status, body)
        assert isinstance(body, dict)
        return body

    async def registry(self) -> dict[str, Any]:
        """/api/v1/registry."""
        return await self.document("/api/v1/registry")

    async def connected(self) -> bool:
        """Is the registry known to answer?"""
        return bool((await self.registry())["connected"])

    async def view(self) -> Known:
        """The instances of the registry as the admin API lists them."""
        known: Known = {}
        for row in (await self.document("/api/v1/services"))["services"]:
            if row["source"] != "registry":
                continue
            pool = await self.document(f"/api/v1/services/{row['name']}")
            for each in pool["instances"]:
                known[row["name"], each["id"]] = (
                    each["address"],
                    each["port"],
                    str(each["weight"]),
                )
        return known

    async def follows(self, client: EtcdClient, within: float = 10.0) -> float:
        """Wait until the view equals the store, read through `client`. Seconds it took."""
        began = monotonic()

        async def equal() -> bool:
            return await self.view() == await stored(client)

        await eventually(equal, within, "the view equals the store", every=0.05)
        return monotonic() - began

    async def metrics(self) -> dict[tuple[str, ...], float]:
        """All samples: name and label values in the order of their names → value."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def metric(self, *name: str) -> float | None:
        """One sample; None when there is no such series."""
        return (await self.metrics()).get(name)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log that report this event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    async def ask(self, path: str) -> tuple[int, str, dict[str, Any]]:
        """One request on a connection of its own: status, content type, decoded body."""
        timeout = aiohttp.ClientTimeout(total=15)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self.url + path) as answer,
        ):
            text = await answer.text()
            body = json.loads(text) if answer.content_type.endswith("json") else {"text": text}
            return answer.status, answer.content_type, body


async def stored(client: EtcdClient) -> Known:
    """The instances in the store."""
    known: Known = {}
    for key, value in (await client.get_all("/services/")).items():
        _, _, service, instance = key.split("/")
        record = json.loads(value)
        weight = record.get("metadata", {}).get("weight", "1")
        known[service, instance] = (record["address"], record["port"], weight)
    return known
