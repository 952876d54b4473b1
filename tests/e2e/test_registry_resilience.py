"""Registries that are down, wiped, replaced or lying, under traffic: real etcd, real proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.e2e.traffic import Fleet, Traffic
from tests.support.processes import eventually

pytestmark = pytest.mark.drill

NAMES = ("a", "b", "c", "d")
GUARD = {"share": 0.5, "window": "30s", "hold": "10m"}


def config(registry: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "registry": {"type": "etcd", **registry},
        "routes": [{"service": "users"}],
        "workers": 2,
        **more,
    }


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with Fleet() as instances:
        await instances.add(*NAMES)
        yield instances


async def register(etcd: EtcdServer, fleet: Fleet, ttl: int = 0) -> list[int]:
    """All of the fleet, each on a lease of its own that nobody renews; the leases."""
    leases = []
    async with EtcdClient(etcd.url) as client:
        for key, value in fleet.records("users", NAMES).items():
            lease = await client.grant(ttl) if ttl else 0
            leases.append(lease)
            await client.put(key, value, lease)
    return leases


async def registry(proxy: RunningProxy) -> dict[str, Any]:
    status, body = await proxy.get("/api/v1/registry")
    assert status == 200
    document: dict[str, Any] = body
    return document


async def members(proxy: RunningProxy) -> dict[str, bool]:
    """Id → is it held?"""
    status, body = await proxy.get("/api/v1/services/users")
    return {row["id"]: row["held"] for row in body["instances"]} if status == 200 else {}


async def has_members(proxy: RunningProxy, expected: dict[str, bool]) -> bool:
    return await members(proxy) == expected


async def keys(etcd: EtcdServer) -> int:
    async with EtcdClient(etcd.url) as client:
        return len(await client.get_all("/services/"))


async def no_keys(etcd: EtcdServer) -> bool:
    return await keys(etcd) == 0


class TestMassLoss:
    async def test_leases_that_all_expire_are_not_believed_while_the_instances_answer(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        settings = config({"endpoints": [etcd.url], "mass_loss_guard": GUARD})
        async with AsyncExitStack() as stack:
            # Leases last for two seconds at least, so they begin when everything else runs.
            proxy = await stack.enter_async_context(RunningProxy(settings, tmp_path))
            await register(etcd, fleet, ttl=2)
            await eventually(
                lambda: has_members(proxy, dict.fromkeys(NAMES, False)), 5, "all of them"
            )
            traffic = await stack.enter_async_context(Traffic(proxy.port, "/"))
            await eventually(lambda: no_keys(etcd), 15, "the leases' end")
            held = dict.fromkeys(NAMES, True)
            await eventually(lambda: has_members(proxy, held), 5, "all held")
            began = traffic.samples[-1].ended
            await traffic.shows(*NAMES, since=began)
            document = await registry(proxy)
            assert sorted(one["id"] for one in document["held"]) == list(NAMES)
            assert document["held_total"] == 4
            await proxy.logs("registry_mass_loss")
            # Whoever registers again is not held any more.
            async with EtcdClient(etcd.url) as client:
                await client.put("/services/users/a", fleet.record("a"))
            await eventually(
                lambda: has_members(proxy, {**held, "a": False}), 5, "a registered again"
            )
        assert not traffic.failed

    async def test_a_retained_instance_that_stops_answering_is_let_go(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        leases = await register(etcd, fleet, ttl=60)
        settings = config({"endpoints": [etcd.url], "mass_loss_guard": GUARD})
        async with RunningProxy(settings, tmp_path) as proxy, EtcdClient(etcd.url) as client:
            await fleet.remove("a")
            for lease in leases:
                await client.call("/lease/revoke", {"ID": lease})
            held = {"b": True, "c": True, "d": True}
            await eventually(lambda: has_members(proxy, held), 10, "those that answer are held")

    async def test_a_deletion_of_all_is_honoured_at_once(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        await register(etcd, fleet, ttl=60)
        settings = config({"endpoints": [etcd.url], "mass_loss_guard": GUARD})
        async with RunningProxy(settings, tmp_path) as proxy, EtcdClient(etcd.url) as client:
            assert await members(proxy) == dict.fromkeys(NAMES, False)
            await client.delete("/services/users/", prefix=True)
            await eventually(lambda: has_members(proxy, {}), 2, "an empty pool")
            assert (await registry(proxy))["held"] == []


class TestFailover:
    async def test_on_the_backup_while_the_primary_is_down_and_back_afterwards(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        async with AsyncExitStack() as stack:
            backup = await stack.enter_async_context(EtcdServer())
            await register(etcd, fleet)
            await register(backup, fleet)
            settings = config(
                {
                    "endpoints": [etcd.url],
                    "backups": [{"type": "etcd", "endpoints": [backup.url]}],
                    "check_interval": "1s",
                    "check_timeout": "500ms",
                }
            )
            proxy = await stack.enter_async_context(RunningProxy(settings, tmp_path))
            traffic = await stack.enter_async_context(Traffic(proxy.port, "/"))

            async def uses(server: EtcdServer) -> bool:
                document = await registry(proxy)
                return bool(document["connected"] and document["endpoint"] == server.url)

            assert await uses(etcd)
            await etcd.kill()
            await eventually(lambda: uses(backup), 1.0 + 0.5, "the backup within check_interval")
            # The backup is watched, not only listed once.
            await fleet.add("e")
            async with EtcdClient(backup.url) as client:
                await client.put("/services/users/e", fleet.record("e"))
            await traffic.shows("e", since=traffic.samples[-1].ended)
            await etcd.start()
            await eventually(lambda: uses(etcd), 10, "the primary again")
            document = await registry(proxy)
            assert document["switches"] == 2
            assert [(one["active"], one["alive"]) for one in document["sources"]] == [
                (True, True),
                (False, True),
            ]
            # The primary does not know it, but nothing is taken out in a hurry.
            assert "e" in await members(proxy)
            await proxy.logs("registry_switched", 2)
            assert proxy.log().count("registry_switched") == 2
        assert not traffic.failed

    async def test_an_empty_backup_empties_nothing(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        async with EtcdServer() as backup:
            await register(etcd, fleet)
            settings = config(
                {
                    "endpoints": [etcd.url],
                    "backups": [{"type": "etcd", "endpoints": [backup.url]}],
                    "check_interval": "1s",
                    "check_timeout": "500ms",
                }
            )
            async with (
                RunningProxy(settings, tmp_path) as proxy,
                Traffic(proxy.port, "/") as traffic,
            ):
                await etcd.kill()

                async def switched() -> bool:
                    return (await registry(proxy))["endpoint"] == backup.url

                await eventually(switched, 5, "the backup")
                await traffic.shows(*NAMES, since=traffic.samples[-1].ended)
            assert not traffic.failed

    async def test_a_start_while_the_primary_is_down(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        async with EtcdServer() as backup:
            await register(backup, fleet)
            await etcd.kill()
            settings = config(
                {
                    "endpoints": [etcd.url],
                    "backups": [{"type": "etcd", "endpoints": [backup.url]}],
                }
            )
            async with RunningProxy(settings, tmp_path) as proxy:
                assert (await registry(proxy))["endpoint"] == backup.url
                assert set(await members(proxy)) == set(NAMES)


class TestOutage:
    async def test_instances_are_redeployed_while_the_registry_is_away(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        """The registry's absence is as long as the redeployment takes: nothing in the proxy
        depends on how long it lasts, as the tests of the pools on stepped time show."""
        await register(etcd, fleet)
        # Who is gone is ejected; back at once, it is used again after that time.
        settings = config({"endpoints": [etcd.url]}, defaults={"ejection": {"base": "500ms"}})
        async with (
            RunningProxy(settings, tmp_path) as proxy,
            Traffic(proxy.port, "/") as traffic,
        ):
            await etcd.kill()
            for name in NAMES:
                port = fleet.ports[name]
                await fleet.remove(name)
                await traffic.shows(
                    *(one for one in NAMES if one != name), since=traffic.samples[-1].ended
                )
                await fleet.add(name, port=port)
                await traffic.shows(name, since=traffic.samples[-1].ended, limit=15)
            document = await registry(proxy)
            assert not document["connected"]
            assert document["age"] > 0
            assert set(await members(proxy)) == set(NAMES)
            await etcd.start()

            async def connected() -> bool:
                return bool((await registry(proxy))["connected"])

            await eventually(connected, 15, "the registry again")
        assert not traffic.failed


class TestSnapshot:
    async def test_a_start_without_any_registry(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        await register(etcd, fleet)
        file = tmp_path / "pools.json"
        settings = config({"endpoints": [etcd.url], "snapshot": str(file)})
        proxy = RunningProxy(settings, tmp_path)
        async with proxy:
            await eventually(file.exists, 5, "the snapshot")
            assert (await registry(proxy))["snapshot"]["in_use"] is False
        await etcd.kill()
        async with proxy, Traffic(proxy.port, "/") as traffic:
            await traffic.shows(*NAMES, since=0.0)
            document = await registry(proxy)
            assert document["snapshot"]["in_use"] is True
            assert document["age"] is not None
            await proxy.logs("snapshot_used")
            # The registry is back, with other instances: it is believed.
            await etcd.start()
            async with EtcdClient(etcd.url) as client:
                await client.delete("/services/users/a")

            async def replaced() -> bool:
                return not (await registry(proxy))["snapshot"]["in_use"]

            await eventually(replaced, 15, "the registry's word")
            await traffic.loses("a", since=traffic.samples[-1].ended)
        assert not traffic.failed

    async def test_a_damaged_file_is_ignored_and_the_log_says_so(
        self, etcd: EtcdServer, fleet: Fleet, tmp_path: Path
    ) -> None:
        await etcd.kill()
        file = tmp_path / "pools.json"
        file.write_text('{"format": 1, "saved_at": 1')
        settings = config({"endpoints": [etcd.url], "snapshot": str(file)})
        proxy = RunningProxy(settings, tmp_path)
        proxy.launch()
        try:
            await eventually(lambda: "snapshot_ignored" in proxy.log(), 15, "the log line")
            assert await proxy.readyz() in (None, 503)
            [ignored] = [line for line in proxy.log().splitlines() if "snapshot_ignored" in line]
            assert str(file) in ignored
            assert "Traceback" not in proxy.log()
            await proxy.stop()
        except AssertionError as failed:
            raise AssertionError(f"{failed}\n{proxy.log()}") from None
        finally:
            await proxy.kill()
