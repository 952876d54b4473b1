"""Who is chosen in two workers, from `proxy.yaml` and a file of instances to who answers:
balancers, zones, tiers, subsets and slow start, each in a service with the instances of `users`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from balancers.base import hash_key
from balancers.maglev import Maglev
from proxy.testing.nodes import Instance
from tests.e2e.origin import Call, Gate, Origin, origins
from tests.e2e.raw_http import Client, ask
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

METADATA = {
    "a1": {"zone": "a", "version": "v1", "priority": "0"},
    "a2": {"zone": "a", "version": "v2", "priority": "0"},
    "b1": {"zone": "b", "version": "v1", "priority": "1"},
    "b2": {"zone": "b", "version": "v2", "priority": "1"},
}
SERVICES: dict[str, dict[str, Any]] = {
    "p2c": {"balancer": "p2c"},
    "least": {"balancer": "least_connections"},
    "quick": {"balancer": "peak_ewma"},
    "keyed": {"balancer": {"type": "maglev", "key": "header:X-Key"}},
    "zone": {"zone": {"prefer": "${ZONE}", "min_ready": 1}},
    "tiers": {"priority_key": "priority"},
    "v2": {"subset": {"select": {"version": "v2"}}},
    "v3": {"subset": {"select": {"version": "v3"}, "otherwise": "none"}},
    "v3-or-any": {"subset": {"select": {"version": "v3"}}},
}
ALL = frozenset(METADATA)


@dataclass
class Site:
    """A proxy, its instances and their file, and a client of each worker."""

    proxy: RunningProxy
    origins: dict[str, Origin]
    file: Path
    clients: list[Client] = field(default_factory=list)

    def tell(self, unwell: Iterable[str] = (), late: Iterable[str] = ("a1",)) -> None:
        """Write who is there: all as `users`, of which some are unwell, and these as `late`."""
        users = [
            {**self.origins[id].instance, "metadata": metadata,
             "health": "DOWN" if id in unwell else "UP"}
            for id, metadata in METADATA.items()
        ]  # fmt: skip
        records = {"users": users, "late": [self.origins[id].instance for id in late]}
        beside = self.file.with_suffix(".next")
        beside.write_text(json.dumps(records))
        beside.rename(self.file)

    async def meet_the_workers(self) -> None:
        """Have a connection to either."""
        met: dict[str, Client] = {}
        others = []
        while len(met) < 2:
            assert len(others) < 100, "one worker has all connections"
            client = await Client.connect(self.proxy.port)
            worker = ((await client.ask("GET", "/users"))["X-Request-ID"] or "").partition("-")[0]
            if met.setdefault(worker, client) is not client:
                others.append(client)
        self.clients = list(met.values())
        for client in others:
            await client.close()

    async def chosen(self, service: str, key: str = "", at: Collection[int] = (0, 1)) -> list[str]:
        """Who answers a request in each of these workers; the fault if it is nobody."""
        fields = [("X-Key", key)] if key else []
        answers = [await self.clients[one].ask("GET", f"/{service}", fields) for one in at]
        return [one["X-Origin"] or json.loads(one.body)["code"] for one in answers]

    async def answers(self, service: str, rounds: int = 20) -> Counter[str]:
        """Who answers so many requests in each worker."""
        return Counter([who for _ in range(rounds) for who in await self.chosen(service)])

    async def comes_to(self, service: str, law: Callable[[Counter[str]], bool]) -> None:
        """Wait until the answers are so, in both workers, and see that they stay so."""
        seen: Counter[str] = Counter()

        async def fits() -> bool:
            nonlocal seen
            seen = await self.answers(service)
            return law(seen)

        await eventually(fits, 20, lambda: f"{service}: {seen}\n{self.proxy.log()}")
        assert await fits(), (service, seen)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("choice")
    services = {service: {"from": "users", **keys} for service, keys in SERVICES.items()}
    config = {
        "workers": 2,
        "registry": {"type": "file", "path": "instances.json", "interval": "100ms"},
        "services": {**services, "late": {"slow_start": "10m"}},
        "routes": [{"path_prefix": "/{service}"}],
    }
    async with origins(*METADATA, script=name) as found, AsyncExitStack() as stack:
        proxy = RunningProxy(config, directory, environ={"ZONE": "a"})
        site = Site(proxy, {one.name: one for one in found}, directory / "instances.json")
        site.tell()
        await stack.enter_async_context(proxy)
        await site.meet_the_workers()
        yield site
        for client in site.clients:
            await client.close()


@pytest.fixture
def site(running: Site) -> Site:
    for origin in running.origins.values():
        origin.script = name
    running.tell()
    return running


@pytest.mark.parametrize(
    ("service", "unwell", "chosen"),
    [
        ("users", (), ALL),
        ("users", ("a1", "b2"), {"a2", "b1"}),
        ("zone", (), {"a1", "a2"}),
        ("zone", ("a1",), {"a2", "b1", "b2"}),
        ("zone", ("a1", "a2"), {"b1", "b2"}),
        ("tiers", (), {"a1", "a2"}),
        ("tiers", ("a1",), {"a2", "b1", "b2"}),
        ("tiers", ("a1", "a2"), {"b1", "b2"}),
        ("v2", (), {"a2", "b2"}),
        ("v2", ("a2",), {"b2"}),
        ("v3", (), {"no_instance"}),
        ("v3-or-any", (), ALL),
    ],
)
async def test_instances_are_chosen_among_by_what_they_say(
    site: Site, service: str, unwell: tuple[str, ...], chosen: set[str]
) -> None:
    site.tell(unwell)
    await site.comes_to(service, lambda seen: seen.keys() == chosen)


async def test_a_zone_has_its_share_while_too_few_of_it_are_ready(site: Site) -> None:
    site.tell(["a1"])
    await site.comes_to("zone", lambda seen: seen.keys() == {"a2", "b1", "b2"})
    seen = await site.answers("zone", 40)
    # Half of it is ready. Turns are taken by weight, so each worker is at most one off.
    assert abs(seen["a2"] - 40) <= 2
    assert abs(seen["b1"] - seen["b2"]) <= 4


@pytest.mark.parametrize("service", ["p2c", "least"])
async def test_an_instance_with_a_request_in_any_worker_is_spared(site: Site, service: str) -> None:
    await site.comes_to(service, lambda seen: seen.keys() == ALL)
    gate = Gate()
    for origin in site.origins.values():
        origin.script = gate
    held = asyncio.create_task(ask(site.proxy.port, "GET", f"/{service}"))
    try:
        await eventually(lambda: any(one.in_flight for one in site.origins.values()))
        [busy] = [one.name for one in site.origins.values() if one.in_flight]
        for origin in site.origins.values():
            origin.script = name
        assert (await site.answers(service, 40)).keys() == ALL - {busy}
    finally:
        gate.open()
        assert (await held).status == 200
    await site.comes_to(service, lambda seen: seen.keys() == ALL)


async def test_a_slow_instance_gets_less_than_a_fifth_of_its_share(site: Site) -> None:
    slowest = 0.0
    """Of the others' answers, so that however busy this machine is, it takes ten times as long."""

    async def slow(call: Call) -> None:
        await asyncio.sleep(max(0.3, 10 * slowest))
        await name(call)

    site.origins["b2"].script = slow
    seen: Counter[str] = Counter()
    for number in range(200):
        began = monotonic()
        [who] = await site.chosen("quick", at=(number % 2,))
        seen[who] += 1
        if who != "b2":
            slowest = max(slowest, monotonic() - began)
    assert seen.keys() == ALL  # It is found out by asking it.
    assert seen["b2"] < 200 / len(ALL) / 5, seen


async def test_a_key_has_one_instance_in_all_workers_and_in_the_library(site: Site) -> None:
    keys = [f"user-{number}" for number in range(60)]

    def owners(unwell: Collection[str] = ()) -> dict[str, str]:
        table = Maglev([Instance(id, usable=id not in unwell) for id in METADATA], Random(1))
        picked = {key: table.pick(hash_key(key.encode()), ()) for key in keys}
        return {key: node.id for key, node in picked.items() if node is not None}

    async def are(expected: dict[str, str]) -> bool:
        return all([{*await site.chosen("keyed", key)} == {id} for key, id in expected.items()])

    whole, without = owners(), owners(["a1"])
    assert {*whole.values()} == ALL
    assert {key for key in keys if without[key] != whole[key]} == {
        key for key in keys if whole[key] == "a1"
    }
    for unwell, expected in ((), whole), (("a1",), without), ((), whole):
        site.tell(unwell)
        await eventually(lambda expected=expected: are(expected), 20, "keys where they belong")
        assert await are(expected)


async def test_a_newcomer_begins_with_a_tenth_of_its_weight(site: Site) -> None:
    await site.comes_to("late", lambda seen: seen.keys() == {"a1"})
    site.tell(late=("a1", "b1"))
    await eventually(lambda: _is_chosen(site, "late", "b1"), 20, "the newcomer")
    # Ten turns for one, in each worker; more only after a minute, a tenth of the time it has.
    assert abs((await site.answers("late", 110))["b1"] - 20) <= 2
    _, told = await site.proxy.get("/api/v1/services/late")
    assert told["slow_start"] == 1
    assert {one["id"]: one["effective_weight"] for one in told["instances"]} == {"a1": 1, "b1": 0.1}


async def _is_chosen(site: Site, service: str, who: str) -> bool:
    """In both workers, among as many as there are in a turn of all."""
    rounds = [await site.chosen(service) for _ in range(11)]
    return all(who in of_worker for of_worker in zip(*rounds, strict=True))
