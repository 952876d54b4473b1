"""Three proxies under traffic, and all that can happen to what they share."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any, Self

import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin, origins
from tests.e2e.redeploying import CountingLoad
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.e2e.tcp_fault import TcpFault
from tests.e2e.test_fleet import KEY, config_of, local
from tests.support.processes import eventually

pytestmark = [pytest.mark.drill, pytest.mark.timeout(400)]
WITHIN = 40.0
OUTAGE = 10.0
LONG_OUTAGE = 60.0
IDS = ("a", "b", "c")


class Fleet:
    """Owns three proxies, which reach etcd each by a way of its own, and a load on each."""

    def __init__(self, etcd: EtcdServer, directory: Path, note: Callable[[str, str], None]) -> None:
        self.etcd = etcd
        self.proxies: dict[str, RunningProxy] = {}
        self.loads: dict[str, CountingLoad] = {}
        self.ways: dict[str, TcpFault] = {}
        self.failures: list[str] = []
        self._directory = directory
        self._note = note
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for id_ in IDS:
            way = self.ways[id_] = await self._stack.enter_async_context(
                TcpFault(self.etcd.client_port)
            )
            own = self._directory / id_
            own.mkdir()
            config = local(self.etcd, own, fleet={"id": id_})
            config["registry"]["endpoints"] = [way.url]
            self.proxies[id_] = RunningProxy(config, own)
            await self.start(id_)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for id_ in list(self.loads):
            await self.stop(id_)
        for proxy in self.proxies.values():
            await proxy.kill()
        await self._stack.aclose()

    async def start(self, id_: str) -> None:
        await self.proxies[id_].start()
        self.loads[id_] = CountingLoad(self.proxies[id_].port, clients=2, pace=0.005)
        await self.loads[id_].__aenter__()

    async def stop(self, id_: str) -> None:
        load = self.loads.pop(id_)
        await load.__aexit__(None, None, None)
        self.failures += load.failures
        await self.proxies[id_].stop()

    async def served(
        self, by: str, since: float, what: str, ids: tuple[str, ...] = IDS, *, alone: bool = True
    ) -> None:
        """Wait until this instance alone answers at each of the proxies; note how long it took for
        the first answer everywhere."""
        before = {id_: self.loads[id_].answers[by] for id_ in ids}
        for id_ in ids:
            await self.loads[id_].shows(by, more_than=before[id_], within=WITHIN)
        self._note("drill", f"{what}: everywhere {monotonic() - since:.3f} s after it was done")
        if alone:
            await self.only(by, ids)

    async def only(self, by: str, ids: tuple[str, ...] = IDS) -> None:
        """Wait until a hundred answers in a row are this instance's."""
        for id_ in ids:
            load = self.loads[id_]

            def settled(load: CountingLoad = load) -> bool:
                now = load.total, load.answers[by]
                last = getattr(load, "seen", now)
                if now[0] - last[0] != now[1] - last[1] or not hasattr(load, "seen"):
                    load.seen = now  # type: ignore[attr-defined]
                    return False
                return now[0] - last[0] > 100

            await eventually(settled, WITHIN, f"{by} alone at {id_}")
            del load.seen  # type: ignore[attr-defined]

    async def command(self, *arguments: str, code: int = 0) -> str:
        """`fairlead …` with the file of the first proxy."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", *arguments, "-c", str(self.proxies["a"].file),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == code, said.decode()
        return said.decode()

    def text(self, *instances: Origin, **more: Any) -> str:
        """A configuration of these instances."""
        service = {"instances": [one.instance for one in instances]}
        routes = [{"path_prefix": "/", "service": "users"}]
        return json.dumps({"services": {"users": service}, "routes": routes} | more)

    def write(self, text: str) -> str:
        """A file with this text."""
        file = self._directory / "shared.yaml"
        file.write_text(text)
        return str(file)


async def test_a_fleet_shares_a_configuration_whatever_happens(
    tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
    ):
        seed = Fleet(etcd, tmp_path, record_property)
        await client.put(KEY, seed.text(one))
        async with seed as fleet:

            async def pushed(*instances: Origin, options: tuple[str, ...] = ()) -> float:
                file = fleet.write(fleet.text(*instances))
                await fleet.command("config", "push", file, *options)
                return monotonic()

            await fleet.served("two", await pushed(two), "push")

            bad = fleet.text(one, admin={"bind": "0.0.0.0:1"})
            said = await fleet.command("config", "push", fleet.write(bad), code=2)
            assert ": admin: " in said

            revision = await client.put(KEY, bad)

            async def refused() -> bool:
                told = [await config_of(proxy) for proxy in fleet.proxies.values()]
                return all(
                    one["newest"]["revision"] == revision and one["complaints"] for one in told
                )

            began = monotonic()
            await eventually(refused, WITHIN, "a complaint of each")
            record_property("drill", f"written by hand: all complain {monotonic() - began:.3f} s")
            assert "was not pushed" in await fleet.command("config", "history")
            await fleet.only("two")
            await fleet.command("config", "rollback")
            assert await fleet.command("config", "pull") == fleet.text(two)

            since = await pushed(one, options=("--to", "b"))
            await fleet.served("one", since, "canary", ("b",))
            await fleet.only("two", ("a", "c"))
            assert "canary" in await fleet.command("config", "history")
            told = json.loads(await fleet.command("config", "history", "--json"))
            assert told["canary"]["digest"] != told["in_force"]
            assert (await config_of(fleet.proxies["b"]))["canary"]
            await fleet.command("config", "push", fleet.write(fleet.text(two)), code=1)
            await fleet.command("config", "promote")
            await fleet.served("one", monotonic(), "promote")
            await fleet.command("config", "rollback")
            await fleet.served("two", monotonic(), "rollback")

            async def listed() -> bool:
                found = json.loads(await fleet.command("fleet", "--json"))["proxies"]
                assert [one["id"] for one in found] == list(IDS)
                return len({one["config"]["hash"] for one in found}) == 1

            await eventually(listed, WITHIN, "one hash of all")

            await fleet.served("two", await pushed(one, two), "push of two instances", alone=False)
            two_id = f"{two.instance['address']}:{two.instance['port']}"
            two_id = two.instance.get("id", two_id)
            await fleet.command("drain", f"users/{two_id}", "--everywhere")
            began = monotonic()
            await fleet.only("one")
            record_property("drill", f"drain: {monotonic() - began:.3f} s, a hundred answers later")
            _, service = await fleet.proxies["c"].get("/api/v1/services/users")
            assert {row["status"] for row in service["instances"]} == {"ready", "draining"}
            assert f"users/{two_id}" in await fleet.command("fleet")
            await fleet.command("undrain", f"users/{two_id}", "--everywhere")
            for load in fleet.loads.values():
                await load.shows("two", more_than=load.answers["two"], within=WITHIN)
            await fleet.served("two", await pushed(two), "push of one")

            await etcd.kill()
            before = {id_: load.total for id_, load in fleet.loads.items()}
            await fleet.stop("a")
            await fleet.start("a")
            assert not (await config_of(fleet.proxies["a"]))["followed"]
            await asyncio.sleep(OUTAGE)
            await fleet.only("two")
            assert all(fleet.loads[id_].total > before[id_] for id_ in ("b", "c"))
            await etcd.start()
            await fleet.served("one", await pushed(one), "push after an outage")

            await client.put(KEY, fleet.text(two))
            await fleet.served("two", monotonic(), "good, and written by hand")
            await fleet.served("one", await pushed(one), "push over it")

            way = fleet.ways["c"]
            way.freeze()
            await fleet.served("two", await pushed(two), "push, one cut off", ("a", "b"))
            await fleet.only("one", ("c",))
            way.thaw()
            await fleet.served("two", monotonic(), "the one that was cut off", ("c",))
        assert fleet.failures == []


async def test_a_fleet_outlives_a_long_outage_and_its_own_restarts(
    tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    """Instances are in etcd, too; every proxy is restarted while that is gone."""
    routes = json.dumps({"routes": [{"path_prefix": "/", "service": "users"}]})
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdServer() as etcd,
    ):
        async with EtcdClient(etcd.url) as client:
            await client.put(KEY, routes)
            await client.put("/services/users/u", json.dumps(one.instance))
        async with Fleet(etcd, tmp_path, record_property) as fleet:
            await fleet.only("one")
            # Both snapshots have to be on the disk: they are written half a second after a change.
            for id_ in IDS:
                for kept in ("pools.json", "pools.json.config"):
                    file = tmp_path / id_ / kept
                    await eventually(file.exists, WITHIN, f"{kept} of {id_}")
            await etcd.kill()
            began = monotonic()
            for id_ in IDS:
                await fleet.stop(id_)
                since = monotonic()
                await fleet.start(id_)
                await fleet.served("one", since, f"restart of {id_} without etcd", (id_,))

            async def over() -> bool:
                return monotonic() - began > LONG_OUTAGE

            await eventually(over, LONG_OUTAGE + WITHIN, "the end of the outage")
            await fleet.only("one")
            await etcd.start()
            since = monotonic()
            async with EtcdClient(etcd.url) as client:
                await client.put("/services/users/u", json.dumps(two.instance))
                await fleet.served("two", since, "a registration after a minute without etcd")
                pushed = fleet.write(fleet.text(one))
                await fleet.command("config", "push", pushed)
                await fleet.served("one", monotonic(), "push after a minute without etcd")

                way = fleet.ways["b"]
                await way.refuse()
                back = {"routes": [{"path_prefix": "/", "service": "users"}]}
                await client.put(KEY, json.dumps(back))
                await fleet.served("two", monotonic(), "the others, with one cut off", ("a", "c"))
                await fleet.only("one", ("b",))
                await way.accept()
                await fleet.served("two", monotonic(), "the one that was cut off", ("b",))
        assert fleet.failures == []
