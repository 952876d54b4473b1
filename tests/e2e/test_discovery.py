"""From etcd to traffic: every kind of change, measured from etcd's answer to the write until all
requests, in both workers, go by it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.e2e.discovering import DiscoveringProxy
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.traffic import Fleet, Sample, Traffic
from tests.support.processes import Slowdown, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

VISIBLE = 1.0
"""Seconds within which a change must show in all requests, on a machine that has time for it."""

Note = Callable[[str, object], None]
"""pytest's `record_property`: what was measured goes into the JUnit report."""


class Site(NamedTuple):
    etcd: EtcdServer
    client: EtcdClient
    fleet: Fleet
    proxy: DiscoveringProxy

    def watched(self) -> Slowdown:
        """How busy the machine is, from now on."""
        etcd = self.etcd.process
        assert etcd is not None
        return Slowdown((os.getpid(), etcd.pid, self.proxy.control, *self.proxy.children()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One etcd and one proxy for all tests: each has services of its own."""
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        client = await stack.enter_async_context(EtcdClient(etcd.url))
        fleet = await stack.enter_async_context(Fleet())
        await fleet.add("in-file", "in-registry")
        file_instance = {"id": "in-file", "address": "127.0.0.1", "port": fleet.ports["in-file"]}
        proxy = DiscoveringProxy(
            tmp_path_factory.mktemp("proxy"),
            etcd.url,
            services={
                "legacy": {"instances": [file_instance]},
                # Every instance of the burst is met about once: nothing to keep alive.
                "burst": {"keepalive": {"max_requests": 1}},
            },
        )
        await stack.enter_async_context(proxy)
        yield Site(etcd, client, fleet, proxy)


async def answered(write: Awaitable[Any]) -> float:
    """Do the write. The moment of etcd's answer."""
    await write
    return monotonic()


def heaviest(samples: list[Sample], worker: str, instance: str, window: int = 12) -> float | None:
    """When `instance` had more than half of `window` successive requests of the worker."""
    row = [sample for sample in samples if sample.worker == worker]
    for end in range(window, len(row) + 1):
        part = row[end - window : end]
        if sum(sample.instance == instance for sample in part) > window // 2:
            return part[-1].ended
    return None


async def test_each_kind_of_change_shows_within_a_second(site: Site, record_property: Note) -> None:
    _, client, fleet, proxy = site
    fixed = ("a", "b", "c")
    await fleet.add(*fixed, "guest", "leased", "d", "d-moved")

    def key(instance: str) -> str:
        return f"/services/users/{instance}"

    def health(status: str) -> str:
        return fleet.record("d", health={"status": status})

    def weight(number: int) -> str:
        return fleet.record("d", metadata={"weight": str(number)})

    await client.put_all(fleet.records("users", fixed))
    await eventually(lambda: _serves(proxy, "/users/"), 5, "users served")
    delays: dict[str, float] = {}
    slowdown = site.watched()

    async with Traffic(proxy.port, "/users/1", pace=0.01) as traffic:
        # A lease that nobody keeps alive; it runs out while the rest happens. Two seconds is the
        # shortest that etcd grants.
        lease = await client.grant(2)
        since = await answered(client.put(key("leased"), fleet.record("leased"), lease))
        delays["registered with a lease"] = await traffic.shows("leased", since=since)
        expiring = asyncio.create_task(_expiry(client, key("leased")))

        since = await answered(client.put(key("d"), fleet.record("d")))
        delays["registered"] = await traffic.shows("d", since=since)

        # The same id on another endpoint, and back.
        since = await answered(client.put(key("d"), fleet.record("d-moved")))
        delays["address changed: new"] = await traffic.shows("d-moved", since=since)
        delays["address changed: old"] = await traffic.loses("d", since=since)
        since = await answered(client.put(key("d"), fleet.record("d")))
        delays["address changed back: new"] = await traffic.shows("d", since=since)
        delays["address changed back: old"] = await traffic.loses("d-moved", since=since)

        for status, statement in (("unhealthy", "unhealthy"), ("draining", "draining")):
            since = await answered(client.put(key("d"), health(statement)))
            delays[f"healthy to {status}"] = await traffic.loses("d", since=since)
            assert await proxy.metric("service_instances", "users", status) == 1
            since = await answered(client.put(key("d"), health("healthy")))
            delays[f"{status} to healthy"] = await traffic.shows("d", since=since)
            assert await proxy.metric("service_instances", "users", status) == 0

        since = await answered(client.put(key("d"), weight(0)))
        delays["weight 1 to 0"] = await traffic.loses("d", since=since)
        since = await answered(client.put(key("d"), weight(1)))
        delays["weight 0 to 1"] = await traffic.shows("d", since=since)
        since = await answered(client.put(key("d"), weight(20)))
        heavy: dict[str, float] = {}

        def shifted() -> bool:
            for worker in traffic.workers - heavy.keys():
                moment = heaviest(traffic.since(since), worker, "d")
                if moment is not None:
                    heavy[worker] = moment
            return len(heavy) == 2

        await traffic.until(shifted, "most requests go to the heavy instance")
        delays["weight 1 to 20"] = max(heavy.values()) - since

        since = await answered(client.delete(key("d")))
        delays["deleted"] = await traffic.loses("d", since=since)

        since = await expiring
        delays["lease expired"] = await traffic.loses("leased", since=since)

        # All of it at once, in one transaction.
        since = await answered(
            client.put_all({key("guest"): fleet.record("guest"), key("d"): weight(1)})
        )
        delays["two in one transaction"] = await traffic.shows("guest", "d", since=since)

        def both() -> bool:
            return traffic.workers == {sample.worker for sample in traffic.since(since)}

        await traffic.until(both, "requests that began after it in both workers")
    traffic.flows(within=4.0)

    for what, seconds in delays.items():
        record_property(what, f"{seconds * 1000:.0f} ms")
    record_property("requests", len(traffic.samples))
    assert max(delays.values()) < VISIBLE * slowdown.factor, delays
    await proxy.follows(client)
    metrics = await proxy.metrics()
    assert metrics["service_instances", "users", "ready"] == 5
    # a, b, c, leased, d, then d and guest; d twice over its address, four times over its health,
    # three times over its weight; d and leased went.
    assert metrics["service_registrations_total", "users", "registered"] == 7
    assert metrics["service_registrations_total", "users", "updated"] == 9
    assert metrics["service_registrations_total", "users", "deregistered"] == 2
    assert metrics["health_checks_total", "users", "unhealthy"] == 1
    assert metrics["health_checks_total", "users", "draining"] == 1


async def _expiry(client: EtcdClient, key: str) -> float:
    """The last moment at which the key was still in the store."""
    seen = asked = monotonic()
    while await client.get_all(key):
        seen, asked = asked, monotonic()
    return seen


@pytest.mark.drill
async def test_bursts_of_five_hundred_show_within_a_second(
    site: Site, record_property: Note
) -> None:
    _, client, fleet, proxy = site
    names = [f"burst-{n:03}" for n in range(500)]
    await fleet.add("always", *names)
    await client.put_all(fleet.records("burst", ["always"]))
    await eventually(lambda: _serves(proxy, "/burst/"), 5, "burst served")
    batches = [names[at : at + 100] for at in range(0, len(names), 100)]
    delays: dict[str, float] = {}
    slowdown = site.watched()

    def unhealthy(batch: list[str]) -> dict[str, str]:
        status = {"status": "unhealthy"}
        return {f"/services/burst/{n}": fleet.record(n, health=status) for n in batch}

    async with Traffic(proxy.port, "/burst/1", pace=0.0) as traffic:
        began = monotonic()
        moments = [await answered(client.put_all(fleet.records("burst", b))) for b in batches]
        record_property("seconds to write 500", f"{moments[-1] - began:.3f}")
        # When an instance is met depends on how fast the clients go round among 500; but from a
        # second after the answer on, each round must meet all of them.
        assert (
            await traffic.round_robin(501, since=moments[-1] + VISIBLE * slowdown.factor)
            == [{"always", *names}] * 2
        )
        everyone = await traffic.shows(*names, since=moments[-1])
        record_property("registered: all 500 seen in both workers", f"{everyone * 1000:.0f} ms")
        rate = len(traffic.since(began)) / (monotonic() - began)
        record_property("requests per second", f"{rate:.0f}")

        # Now one after the other: as many revisions as keys.
        puts = [record for batch in batches[:2] for record in unhealthy(batch).items()]
        await asyncio.gather(*(client.put(*put) for put in puts))
        since = monotonic()
        failing = [*batches[0], *batches[1]]
        delays["200 unhealthy"] = await traffic.loses(*failing, since=since, rounds=300)
        assert await proxy.metric("service_instances", "burst", "unhealthy") == 200

        since = await answered(client.put_all(fleet.records("burst", failing)))
        told = since + VISIBLE * slowdown.factor
        assert await traffic.round_robin(501, since=told) == [{"always", *names}] * 2
        everyone = await traffic.shows(*failing, since=since)
        record_property("healthy: all 200 seen in both workers", f"{everyone * 1000:.0f} ms")

        since = await answered(client.delete("/services/burst/burst-", prefix=True))
        delays["500 deleted"] = await traffic.loses(*names, since=since, rounds=300)
    traffic.flows(within=4.0 * slowdown.factor)

    for what, seconds in delays.items():
        record_property(what, f"{seconds * 1000:.0f} ms")
    record_property("requests", len(traffic.samples))
    assert max(delays.values()) < VISIBLE * slowdown.factor, delays
    await proxy.follows(client)
    assert await proxy.metric("service_instances", "burst", "ready") == 1
    assert proxy.events("registry_resync") == []


async def test_a_bad_value_harms_no_other_key(site: Site) -> None:
    _, client, fleet, proxy = site
    await fleet.add("good", "spoilt", "after")
    spoilt = "/services/orders/spoilt"
    await client.put_all(fleet.records("orders", ["good", "spoilt"]))
    await eventually(lambda: _serves(proxy, "/orders/"), 5, "orders served")
    async with Traffic(proxy.port, "/orders/1", clients=16) as traffic:
        assert await proxy.metric("fairlead_registry_invalid_records") == 0

        await client.put(spoilt, '{"address": "10.0.0.1", "port": ')
        await client.put("/services/orders/never-good", '{"address": "10.0.0.1", "port": "http"}')
        await client.put("/services/orders/too/deep", fleet.record("good"))
        # What was written after them is there, so they were read.
        since = await answered(client.put_all(fleet.records("orders", ["after"])))
        await traffic.shows("after", since=since)
        # The key with the bad value keeps its last good one: its instance still gets requests.
        await traffic.shows("spoilt", "good", since=monotonic())

        invalid = (await proxy.registry())["invalid"]
        assert {bad["key"]: bad["kept"] for bad in invalid} == {
            spoilt: True,
            "/services/orders/never-good": False,
            "/services/orders/too/deep": False,
        }
        assert all(bad["reason"] for bad in invalid)
        assert await proxy.metric("fairlead_registry_invalid_records") == 3
        assert await proxy.metric("service_instances", "orders", "ready") == 3

        # A bad value that goes takes its last good one along; good ones mend the rest.
        since = await answered(client.delete(spoilt))
        await traffic.loses("spoilt", since=since)
        await client.delete("/services/orders/too/deep")
        since = await answered(client.put("/services/orders/never-good", fleet.record("spoilt")))
        await traffic.shows("spoilt", since=since)
        assert (await proxy.registry())["invalid"] == []
        assert await proxy.metric("fairlead_registry_invalid_records") == 0
    traffic.flows(within=4.0)
    await proxy.follows(client, within=1)


async def test_services_of_the_file_stand_beside_those_of_the_registry(site: Site) -> None:
    _, client, fleet, proxy = site
    # Somebody registers under the name of a service of the file, and beside it.
    await client.put_all(fleet.records("legacy", ["in-registry"]))
    await client.put_all(fleet.records("modern", ["in-registry"]))
    await eventually(lambda: _serves(proxy, "/modern/"), 5, "modern served")
    async with (
        Traffic(proxy.port, "/legacy/1") as legacy,
        Traffic(proxy.port, "/modern/1") as modern,
    ):
        for traffic in (legacy, modern):
            await traffic.until(lambda t=traffic: len(t.samples) > 100, "a hundred requests")
    assert Counter(sample.instance for sample in legacy.samples).keys() == {"in-file"}
    assert Counter(sample.instance for sample in modern.samples).keys() == {"in-registry"}
    rows = {row["name"]: row for row in (await proxy.document("/api/v1/services"))["services"]}
    assert (rows["legacy"]["source"], rows["modern"]["source"]) == ("file", "registry")
    assert rows["legacy"]["ready"] == rows["modern"]["ready"] == 1
    await client.delete("/services/legacy/", prefix=True)


async def _serves(proxy: DiscoveringProxy, path: str) -> bool:
    status, _, _ = await proxy.ask(path)
    return status == 200
