"""Services in the DNS, at a scripted name server: what is asked, outages, and names that vanish."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.registry.dns.options import Options
from proxy.registry.dns.provider import DnsProvider
from proxy.registry.followed import Timing
from tests.e2e.drilled import Watched
from tests.support.processes import eventually
from tests.support.scripted_names import CNAME, SRV, A, ScriptedNames

NAME = "_users._tcp.svc.local"
USERS = {"users": NAME}


def watched(*servers: ScriptedNames, **keys: Any) -> Watched:
    timing = Timing(probe=0.02, hold=0.3, backoff_limit=0.02)
    addresses = tuple(one.address for one in servers)
    options = Options(servers=addresses, **{"services": USERS, **keys})
    return Watched(DnsProvider(options, timing=timing, rng=random.Random(1)))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedNames]:
    async with ScriptedNames() as one:
        one.records[NAME] = [(SRV, (0, 0, 80, "n1.svc.local")), (SRV, (0, 0, 81, "n2.svc.local"))]
        one.records["n1.svc.local"] = [(A, "10.0.0.1")]
        one.records["n2.svc.local"] = [(A, "10.0.0.2")]
        yield one


async def test_targets_of_srv_records_are_asked_for_unless_their_addresses_come_along(
    server: ScriptedNames,
) -> None:
    server.extra = [("n1.svc.local", A, "10.0.0.1")]
    async with watched(server) as seen:
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
    assert {name for name, _ in server.asked} == {NAME, "n2.svc.local"}


async def test_thousands_of_records_come_whole(server: ScriptedNames) -> None:
    many = [f"10.1.{n // 250}.{n % 250}" for n in range(1500)]
    server.records["web.internal"] = [(CNAME, "real.internal"), *((A, one) for one in many)]
    async with watched(server, services={"users": "web.internal:8080"}) as seen:
        await seen.has(*(f"{one}:8080" for one in many))
    assert len(seen.memberships) == 1


async def test_a_name_in_trouble_keeps_what_was_said_and_harms_no_other(
    server: ScriptedNames,
) -> None:
    server.records["web.internal"] = [(A, "10.0.0.9")]
    async with watched(server, services={**USERS, "web": "web.internal:80"}) as seen:
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
        server.codes[NAME] = 2
        server.records["web.internal"].append((A, "10.0.0.8"))
        await eventually(lambda: len(seen.memberships[-1].services["web"]) == 2)
        [told] = seen.status.invalid
        assert told.reason == f"{NAME}: SERVFAIL; what it said before is used"
        assert seen.ids() == {"10.0.0.1:80", "10.0.0.2:81"}
        del server.codes[NAME]
        server.codes["n2.svc.local"] = 2
        await eventually(lambda: len(seen.status.invalid) == 1)
        assert seen.ids() == {"10.0.0.1:80", "10.0.0.2:81"}
        assert seen.status.connected


async def test_a_name_that_vanishes_is_doubted_for_the_hold(server: ScriptedNames) -> None:
    async with watched(server) as seen:
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
        del server.records[NAME]
        await eventually(lambda: seen.status.resyncs == {"empty": 1})
        assert seen.ids() == {"10.0.0.1:80", "10.0.0.2:81"}
        await seen.has()


async def test_an_outage_changes_nothing_and_another_server_is_asked(
    server: ScriptedNames,
) -> None:
    async with ScriptedNames() as other, watched(server, other) as seen:
        other.records = dict(server.records)
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
        for one in (server, other):
            await one.kill()
        assert "over TCP" in await seen.loses_it()
        assert seen.ids() == {"10.0.0.1:80", "10.0.0.2:81"}
        await other.start()
        await seen.connects()
        assert len(seen.memberships) == 1
