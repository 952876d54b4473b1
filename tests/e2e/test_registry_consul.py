"""The Consul provider against a scripted agent: what is its own. What it shares with other
registries is in `test_registry_drills.py`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from proxy.membership import Departure
from proxy.registry.consul.options import Options
from proxy.registry.consul.provider import ConsulProvider
from tests.e2e.drilled import SERVICE, TIMING, Watched
from tests.support.processes import eventually
from tests.support.scripted_consul import ScriptedConsul, check, entry


def watched(server: ScriptedConsul, **options: Any) -> Watched:
    known = msgspec.structs.replace(Options(endpoints=(server.url,)), **options)
    return Watched(ConsulProvider(known, timing=TIMING))


async def test_services_come_and_go_with_the_catalogue() -> None:
    async with ScriptedConsul() as server, watched(server) as seen:
        await seen.connects()
        assert seen.memberships[-1].services == {}
        await server.put("orders", entry("orders", "o"))
        await server.put(SERVICE, entry(SERVICE, "a"))
        await seen.has("a")
        orders = seen.memberships[-1].services["orders"]
        await server.delete(SERVICE, "a")
        await seen.has()
        assert seen.memberships[-1].services == {"orders": orders}
        assert seen.memberships[-1].services["orders"] is orders


async def test_a_service_is_asked_for_by_one_held_request() -> None:
    """And a name that the catalogue does not have by none, which every change would wake."""
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"))
        async with watched(server) as seen:
            await seen.has("a")
            path = f"/v1/health/service/{SERVICE}"
            await eventually(lambda: any("index=" in one for one in server.asked if path in one))
            number = sum(path in one for one in server.asked)
            await server.put("orders", entry("orders", "o"))
            await eventually(lambda: "orders" in seen.memberships[-1].services)
            assert sum(path in one for one in server.asked) == number
            assert all("stale" in one for one in server.asked)


async def test_an_agent_that_holds_no_request_is_not_asked_without_end() -> None:
    """As where something in front of it does not pass on the query, or its index."""
    async with ScriptedConsul() as server:
        server.holds = False
        await server.put(SERVICE, entry(SERVICE, "a"))
        async with watched(server) as seen:
            await seen.has("a")
            begun = len(server.asked)
            # A probe comes each 0.4 s.
            await eventually(lambda: sum("/v1/catalog/" in one for one in server.asked[begun:]) > 4)
            assert sum("/v1/health/service/" in one for one in server.asked[begun:]) < 9
            await server.put(SERVICE, entry(SERVICE, "b"))
            await seen.has("a", "b")
            assert seen.status.resyncs == {}


async def test_services_beyond_the_streams_are_asked_in_turn() -> None:
    async with ScriptedConsul() as server:
        for service in ("a1", "a2", SERVICE):
            await server.put(service, entry(service, "a"))
        async with watched(server, streams=1) as seen:
            await seen.has("a")
            await server.put(SERVICE, entry(SERVICE, "b"))
            await seen.has("a", "b")
            held = {one.partition("?")[0] for one in server.asked if "index=" in one}
            assert held == {"/v1/catalog/services", "/v1/health/service/a1"}


async def test_an_agent_without_room_for_all_streams_is_followed_by_fewer() -> None:
    services = [f"a{number}" for number in range(40)]
    async with ScriptedConsul() as server:
        for service in (*services, SERVICE):
            await server.put(service, entry(service, "a"))
        server.room = 30
        with capture_logs() as logs:
            async with watched(server, streams=60) as seen:
                await eventually(
                    lambda: [one["streams"] for one in logs if "streams" in one] == [30, 16], 15.0
                )
                await seen.connects()
                await server.put(SERVICE, entry(SERVICE, "b"))
                await seen.has("a", "b")
                await eventually(lambda: server.waiting == 17)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"X-Consul-Knownleader": "false"}, "No cluster leader"),
        ({"X-Consul-Lastcontact": "9320"}, "last heard of its leader 9320 ms ago"),
    ],
)
async def test_a_server_that_is_cut_off_is_an_outage(fields: dict[str, str], words: str) -> None:
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"))
        async with watched(server) as seen:
            await seen.has("a")
            server.fields = fields
            assert words in await seen.loses_it()
            assert seen.ids() == {"a"}
            server.fields = {}
            await seen.connects()


@pytest.mark.parametrize("status", [403, 429, 500])
async def test_a_status_other_than_200_is_an_outage_that_names_it(status: int) -> None:
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"))
        async with watched(server) as seen:
            await seen.has("a")
            server.statuses = {"/v1/catalog": status}
            assert f"status {status}: ACL not found" in await seen.loses_it()
            assert seen.ids() == {"a"}


async def test_rights_to_one_service_that_are_lost_take_nothing() -> None:
    """Nobody is woken when rights change, so the first to see it is the full comparison."""
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"))
        options = Options(endpoints=(server.url,))
        timing = msgspec.structs.replace(TIMING, reconcile=0.5, hold=0.1)
        async with Watched(ConsulProvider(options, timing=timing)) as seen:
            await seen.has("a")
            server.lies = {f"/v1/health/service/{SERVICE}": b"[]"}
            assert "may not see them any more" in await seen.loses_it()
            await eventually(lambda: server.asked.count("/v1/health/service/consul?stale=") > 5)
            assert seen.ids() == {"a"}
            assert seen.status.resyncs == {}
            server.lies = {}
            await seen.connects()


async def test_an_answer_that_says_what_it_hides_takes_nothing() -> None:
    """Although the index is another one, and so something has changed."""
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"), entry(SERVICE, "b"))
        async with watched(server) as seen:
            await seen.has("a", "b")
            server.fields = {"X-Consul-Results-Filtered-By-ACLs": "true"}
            await server.delete(SERVICE, "a")
            assert "may not see" in await seen.loses_it()
            assert seen.ids() == {"a", "b"}
            server.fields = {}
            await seen.has("b")


async def test_a_node_that_is_dead_takes_no_traffic_and_stays_in_the_pool() -> None:
    dead = [check("serfHealth", "critical")]
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"), entry(SERVICE, "b"))
        async with watched(server) as seen:
            await seen.has("a", "b")
            await server.put(SERVICE, entry(SERVICE, "a", Checks=dead))
            await eventually(lambda: seen.pool[0].health == "critical")
            assert seen.pool[0].health_message == "the agent of its node does not answer"


async def test_instances_without_the_tag_are_left_out() -> None:
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a", Tags=["blue"]), entry(SERVICE, "b"))
        async with watched(server, tag="blue") as seen:
            await seen.has("a")
            await server.put(SERVICE, entry(SERVICE, "a"))
            await seen.has()


async def test_a_service_that_a_well_agent_forgot_was_deregistered() -> None:
    async with ScriptedConsul() as server:
        await server.put(SERVICE, entry(SERVICE, "a"))
        async with watched(server) as seen:
            await seen.has("a")
            await server.delete(SERVICE, "a")
            await seen.has()
            [departure] = seen.memberships[-1].departures
            assert await seen.provider.expired(departure) is False
            server.rights = False
            assert await seen.provider.expired(departure) is None
            nobody = Departure(service=SERVICE, id="a", lease=1)
            assert await seen.provider.expired(nobody) is None
