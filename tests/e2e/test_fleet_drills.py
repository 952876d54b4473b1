"""Three proxies under traffic, and all that can happen to what they share."""

from __future__ import annotations

import asyncio
import json
import os
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
from tests.support.processes import eventually, waited_for_cpu

WITHIN = 40.0
OUTAGE = float(os.environ.get("FAIRLEAD_TEST_OUTAGE", "20"))
"""Seconds of the long one: the pauses between attempts are as long as they get after two, and
hours of them are stepped through in `unit/test_rotation.py`, `test_followed.py`."""
IDS = ("a", "b", "c")
MARKS = "/fairlead/marks/"
pytestmark = [pytest.mark.drill, pytest.mark.timeout(400 + OUTAGE)]


class Fleet:
    """Owns three proxies, which reach etcd each by a way of its own, and a load on each."""

    def __init__(self, etcd: EtcdServer, directory: Path, note: Callable[[str, str], None]) -> None:
        self.etcd = etcd
        self.proxies: dict[str, RunningProxy] = {}
        self.loads: dict[str, CountingLoad] = {}
        self.ways: dict[str, TcpFault] = {}
        self.failures: list[str] = []
        self._total = 0
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
        self._note("drill", f"{len(self.failures)} of {self._total} requests failed")

    async def start(self, id_: str) -> None:
        await self.proxies[id_].start()
        self.loads[id_] = CountingLoad(self.proxies[id_].port, clients=2, pace=0.005)
        await self.loads[id_].__aenter__()

    async def stop(self, id_: str) -> None:
        load = self.loads.pop(id_)
        await load.__aexit__(None, None, None)
        self.failures += load.failures
        self._total += load.total
        await self.proxies[id_].stop()

    async def served(self, by: str, since: float, what: str, ids: tuple[str, ...] = IDS) -> None:
        """Wait until this instance alone answers at each of the proxies, and note how long others
        did after what was done."""
        await self.only(by, ids)
        others = [at for id_ in ids for one, at in self.loads[id_].last.items() if one != by]
        self.note(what, max([since, *others]) - since)

    def note(self, what: str, seconds: float) -> None:
        self._note("drill", f"fleet: {what}: everywhere after {seconds:.3f} s")

    async def only(self, by: str, ids: tuple[str, ...] = IDS) -> None:
        """Wait until a hundred answers in a row are this instance's."""

        def row(load: CountingLoad) -> tuple[int, int]:
            return load.total, load.total - load.answers[by]

        for id_ in ids:
            load = self.loads[id_]
            seen = row(load)

            def settled(load: CountingLoad = load) -> bool:
                nonlocal seen
                now = row(load)
                if now[1] != seen[1]:
                    seen = now
                return now[0] - seen[0] > 100

            await eventually(settled, WITHIN, f"{by} alone at {id_}")

    async def command(self, *arguments: str, code: int = 0) -> str:
        """`fairlead …` with the file of the first proxy."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", *arguments, "-c", str(self.proxies["a"].file),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == code, said.decode()
        return said.decode()

    async def written(self, *arguments: str, under: str = KEY) -> float:
        """When a command had written, as etcd shows it."""
        async with EtcdClient(self.etcd.url) as client:
            before = await client.get_all(under)
            running = asyncio.create_task(self.command(*arguments))

            async def there() -> bool:
                return running.done() or await client.get_all(under) != before

            await eventually(there, WITHIN, arguments, every=0.005)
            at = monotonic()
            await running
            assert await client.get_all(under) != before
            return at

    async def pushed(self, *instances: Origin, options: tuple[str, ...] = ()) -> float:
        """When a text with these instances was pushed."""
        return await self.written("config", "push", self.file(self.text(*instances)), *options)

    def text(self, *instances: Origin, **more: Any) -> str:
        """A configuration of these instances."""
        service = {"instances": [one.instance for one in instances]}
        routes = [{"path_prefix": "/", "service": "users"}]
        return json.dumps({"services": {"users": service}, "routes": routes} | more)

    def file(self, text: str) -> str:
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
            await fleet.served("two", await fleet.pushed(two), "push")

            bad = fleet.text(one, admin={"bind": "0.0.0.0:1"})
            said = await fleet.command("config", "push", fleet.file(bad), code=2)
            assert ": admin: " in said
            await fleet.only("two")

            revision = await client.put(KEY, bad)
            since = monotonic()

            async def refused() -> bool:
                told = [await config_of(proxy) for proxy in fleet.proxies.values()]
                return all(
                    one["newest"]["revision"] == revision and one["complaints"] for one in told
                )

            await eventually(refused, WITHIN, "a complaint of each")
            fleet.note("complaint about a bad text written by hand", monotonic() - since)
            assert "was not pushed" in await fleet.command("config", "history")
            await fleet.only("two")
            told = json.loads(await fleet.command("config", "rollback", "--json"))
            assert told["revision"] > revision
            assert await fleet.command("config", "pull") == fleet.text(two)
            assert json.loads(await fleet.command("config", "pull", "--json")) == {
                "text": fleet.text(two)
            }
            told = json.loads(
                await fleet.command("config", "diff", fleet.file(bad), "--json", code=1)
            )
            assert told["differs"]
            assert any(line.startswith("+") for line in told["lines"])

            since = await fleet.pushed(one, options=("--to", "b"))
            await fleet.served("one", since, "canary for one", ("b",))
            await fleet.only("two", ("a", "c"))
            assert "canary" in await fleet.command("config", "history")
            told = json.loads(await fleet.command("config", "history", "--json"))
            assert told["canary"]["digest"] != told["in_force"]
            assert (await config_of(fleet.proxies["b"]))["canary"]
            await fleet.command("config", "push", fleet.file(fleet.text(two)), code=1)
            await fleet.served("one", await fleet.written("config", "promote"), "promote")
            await fleet.served("two", await fleet.written("config", "rollback"), "rollback")
            versions = json.loads(await fleet.command("config", "history", "--json"))["history"]
            assert sum(told["digest"] == versions[0]["digest"] for told in versions) > 1
            assert [told["in_force"] for told in versions] == [True, *[False] * len(versions[1:])]

            async def listed() -> bool:
                found = json.loads(await fleet.command("fleet", "--json"))["proxies"]
                assert [one["id"] for one in found] == list(IDS)
                return len({one["config"]["hash"] for one in found}) == 1

            await eventually(listed, WITHIN, "one hash of all")

            await fleet.pushed(one, two)
            for load in fleet.loads.values():
                await load.shows("one", more_than=load.answers["one"], within=WITHIN)
            two_id = f"{two.instance['address']}:{two.instance['port']}"
            two_id = two.instance.get("id", two_id)
            since = await fleet.written("drain", f"users/{two_id}", "--everywhere", under=MARKS)
            await fleet.served("one", since, "drain --everywhere")
            _, service = await fleet.proxies["c"].get("/api/v1/services/users")
            assert {row["status"] for row in service["instances"]} == {"ready", "draining"}
            assert f"users/{two_id}" in await fleet.command("fleet")
            await fleet.command("undrain", f"users/{two_id}", "--everywhere")
            for load in fleet.loads.values():
                await load.shows("two", more_than=load.answers["two"], within=WITHIN)
            await fleet.served("two", await fleet.pushed(two), "push of one")

            await client.put(KEY, fleet.text(one))
            await fleet.served("one", monotonic(), "good text written by hand")
            await fleet.served("two", await fleet.pushed(two), "push over it")

            way = fleet.ways["c"]
            way.freeze()
            await fleet.served("one", await fleet.pushed(one), "push, one cut off", ("a", "b"))
            await fleet.only("two", ("c",))
            way.thaw()
            await fleet.served("one", monotonic(), "the one that heard nothing is back", ("c",))
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
            # One is refused by etcd's machine, one hears nothing, one is told that it is gone.
            await fleet.ways["a"].refuse()
            fleet.ways["b"].freeze()
            for id_ in IDS:
                await fleet.stop(id_)
                since = monotonic()
                await fleet.start(id_)
                took, proxy = monotonic() - since, fleet.proxies[id_]
                waited = waited_for_cpu([proxy.pid]) + waited_for_cpu([proxy.control])
                record_property(
                    "drill",
                    f"fleet: restart of {id_} without etcd: {took:.3f} s to ready,"
                    f" of which it waited {waited:.3f} s for a CPU",
                )
                assert not (await config_of(fleet.proxies[id_]))["followed"]
                await fleet.only("one", (id_,))
            await fleet.ways["a"].accept()
            fleet.ways["b"].thaw()

            async def over() -> bool:
                return monotonic() - began > OUTAGE

            await eventually(over, OUTAGE + WITHIN, "the end of the outage")
            await fleet.only("one")
            await etcd.start()
            since = monotonic()
            async with EtcdClient(etcd.url) as client:
                await client.put("/services/users/u", json.dumps(two.instance))
                what = f"{OUTAGE:g} s without etcd"
                await fleet.served("two", since, f"registration after {what}")
                await fleet.served("one", await fleet.pushed(one), f"push after {what}")

                way = fleet.ways["b"]
                await way.refuse()
                back = {"routes": [{"path_prefix": "/", "service": "users"}]}
                await client.put(KEY, json.dumps(back))
                since = monotonic()
                await fleet.served("two", since, "push, one refused", ("a", "c"))
                await fleet.only("one", ("b",))
                await way.accept()
                await fleet.served("two", monotonic(), "the one that was refused is back", ("b",))
        assert fleet.failures == []
