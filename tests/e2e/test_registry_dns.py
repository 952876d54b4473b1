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
from tests.support.scripted_names import AAAA, CNAME, SRV, A, ScriptedNames

NAME = "_users._tcp.svc.local"
USERS = {"users": NAME}


def watched(*servers: ScriptedNames, probe: float = 0.02, **keys: Any) -> Watched:
    """`probe`: as `interval`."""
    timing = Timing(probe=probe, hold=0.3, backoff_limit=0.02)
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


async def test_a_name_is_asked_for_again_when_its_records_run_out(server: ScriptedNames) -> None:
    server.records["web.internal"] = [(A, "10.0.0.9")]
    server.ttls |= {NAME: 1, "web.internal": 60, "late.internal": 0}
    services = {**USERS, "web": "web.internal:80", "late": "late.internal:80"}
    async with watched(server, probe=60.0, services=services) as seen:
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
        asked = [("late.internal", A), (NAME, SRV)]
        await eventually(lambda: all(server.asked.count(one) > 2 for one in asked), 15.0)
        server.records["late.internal"] = [(A, "10.0.0.7")]
        await eventually(lambda: "late" in seen.memberships[-1].services, 15.0)
        server.codes["late.internal"] = 2
        await eventually(lambda: len(seen.status.invalid) == 1, 15.0)
        assert seen.status.connected
        assert server.asked.count(("web.internal", A)) == 1


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


async def test_a_server_without_a_word_for_ipv6_is_believed_of_ipv4(server: ScriptedNames) -> None:
    server.records["web.internal"] = [(A, "10.0.0.9")]
    server.codes |= {("web.internal", AAAA): 2, ("n1.svc.local", AAAA): 4}
    async with watched(server, services={**USERS, "web": "web.internal:80"}) as seen:
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
        assert [one.id for one in seen.memberships[-1].services["web"]] == ["10.0.0.9:80"]
        assert seen.status.invalid == ()
        # Of nobody at all it says nothing.
        server.records["web.internal"] = []
        await eventually(lambda: len(seen.status.invalid) == 1)
        assert [one.id for one in seen.memberships[-1].services["web"]] == ["10.0.0.9:80"]


@pytest.mark.parametrize("target", ["gr\u00f6\u00dfe.local", ".".join(["a" * 60] * 5)])
async def test_a_target_that_cannot_be_asked_for_harms_no_other(
    server: ScriptedNames, target: str
) -> None:
    server.records["web.internal"] = [(A, "10.0.0.9")]
    async with watched(server, services={**USERS, "web": "web.internal:80"}) as seen:
        await seen.has("10.0.0.1:80", "10.0.0.2:81")
        server.records[NAME] = [(SRV, (0, 0, 80, target)), (SRV, (0, 0, 82, "n2.svc.local"))]
        server.records["web.internal"].append((A, "10.0.0.8"))
        await eventually(lambda: len(seen.memberships[-1].services["web"]) == 2)
        assert seen.status.connected
        [told] = seen.status.invalid
        assert told.service == "users"
        assert "no name of the DNS" in told.reason


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
