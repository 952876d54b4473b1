"""What happens to registries, and what a pool owes its clients meanwhile: the same for all kinds.
No request fails.

An outage, lost rights, an answer that is empty, partial, out of date or no answer at all, and a
store that was wiped take nothing away by themselves; what is said on purpose is obeyed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from proxy.catalog import PROVIDERS, load, registry_options
from proxy.registry.decorators.mass_loss_provider import MassLossProvider
from proxy.settings.registry import MassLossSettings
from tests.e2e.drill_traffic import Instances, Served
from tests.e2e.drilled import LIES, TIMING, Drilled, Owner
from tests.e2e.etcd_server import EtcdClient, EtcdCluster, EtcdFailed, EtcdServer
from tests.e2e.every_registry import DRILLED
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.drill

ALL = ("a", "b", "c")


drilled = {*LIES, "leader"}
"""Rows that are drilled: these here below."""


def drill(row: str) -> pytest.MarkDecorator:
    """Of this row, for each registry that does not say why it lacks it."""
    drilled.add(row)
    names = sorted(name for name, kind in DRILLED.items() if row not in kind.lacks)
    return pytest.mark.parametrize("registry", names, indirect=True)


@pytest.fixture
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Drilled]:
    """Up, with three instances that answer."""
    if DRILLED[request.param].missing:
        pytest.skip(f"there is no {DRILLED[request.param].missing} on this machine")
    async with Instances() as instances, DRILLED[request.param]() as registry:
        registry.address = "127.0.0.1"
        registry.port, registry.other_port = instances.ports
        await registry.register(*ALL)
        yield registry


def watched(registry: Drilled) -> Served:
    """With clients, who ask meanwhile."""
    return Served(registry.provider())


@drill("down")
async def test_a_registry_that_is_down_at_the_start_is_waited_for(registry: Drilled) -> None:
    await registry.kill()
    async with watched(registry) as seen:
        await seen.loses_it()
        assert seen.memberships == []
        await registry.start()
        await seen.has(*ALL)
        assert not registry.at_once or seen.memberships[0] is seen.memberships[-1]


@drill("restart")
async def test_a_restart_with_the_data_changes_nothing(registry: Drilled) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        before = seen.pool
        await registry.kill()
        await seen.loses_it()
        await registry.start()
        await seen.connects()
        await registry.register("d")
        await seen.has(*ALL, "d")
        assert len(seen.memberships) == 2
        assert [one for one in seen.pool if one in before] == list(before)


@drill("owners")
async def test_bound_registrations_outlive_an_outage_and_go_with_their_owners(
    registry: Drilled,
) -> None:
    here, gone = await registry.register_bound("x"), await registry.register_bound("y")
    async with watched(registry) as seen:
        await seen.has(*ALL, "x", "y")
        await registry.kill()
        down = time.monotonic()
        await seen.loses_it()
        await eventually(lambda: time.monotonic() - down > 3 * registry.ttl, within=15.0)
        assert len(seen.memberships) == 1
        await gone.leave()
        await registry.start()
        await here.renew()
        await seen.connects()
        renewing = asyncio.create_task(_renew(here, registry.ttl / 3))
        try:
            await seen.has(*ALL, "x")
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await here.leave()
        assert all({*ALL, "x"} <= ids for ids in seen.since(0))


@drill("expiry")
async def test_a_mass_expiry_is_not_believed_while_the_instances_answer(registry: Drilled) -> None:
    """But of those that do not answer, and a deletion on purpose is."""
    async with Instances() as others:
        port = others.ports[0]
        owners = {
            id_: await registry.register_bound(id_, port if id_ != "x4" else free_port())
            for id_ in ("x1", "x2", "x3", "x4")
        }
        async with Served(MassLossProvider(registry.provider(), MassLossSettings())) as seen:
            await seen.has(*ALL, *owners)
            for owner in owners.values():
                await owner.leave()
            here = {"x1", "x2", "x3"}
            await eventually(
                lambda: {one.id.rpartition("#")[2] for one in seen.status.retained} == here,
                15.0,
                lambda: seen.status,
            )
            await seen.has(*ALL, *here)
            left = [*ALL]
            if registry.tells_purpose:
                await registry.deregister("a")
                left.remove("a")
                await seen.has(*left, *here)
            await seen.quiet()
            await others.stop(port)
            await seen.has(*left)


async def _renew(owner: Owner, every: float) -> None:
    while True:
        await owner.renew()
        await asyncio.sleep(every)


@drill("wiped")
async def test_a_wiped_store_takes_nothing_until_the_hold_is_over(registry: Drilled) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        await registry.kill()
        registry.wipe()
        await seen.loses_it()
        await registry.start()
        await registry.register("a", "d")
        await seen.has(*ALL, "d")
        await seen.has("a", "d")
        assert all(set(ALL) <= ids or ids == {"a", "d"} for ids in seen.since(0))
        # A relay has done it for its followers.
        assert registry.type == "relay" or sum(seen.status.resyncs.values()) >= 1


@drill("rights")
async def test_lost_rights_are_an_outage_with_a_reason(registry: Drilled) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        await registry.take_rights()
        assert await seen.loses_it()
        await registry.register("d")
        assert seen.ids() == set(ALL)
        await registry.give_rights()
        await seen.has(*ALL, "d")
        assert len(seen.memberships) == 2


@pytest.mark.parametrize(
    ("registry", "kind"),
    [(name, lie) for lie in LIES for name in sorted(DRILLED) if lie not in DRILLED[name].lacks],
    indirect=["registry"],
)
async def test_an_answer_that_is_not_the_truth_takes_nothing(registry: Drilled, kind: str) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        await seen.connects()
        await registry.lie(kind)
        lacks = kind in ("empty", "partial")
        await (seen.doubts_it() if registry.asked or lacks else seen.loses_it())
        assert seen.ids() == set(ALL)
        await registry.lie("")
        await registry.register("d")
        await seen.has(*ALL, "d")
        assert all(set(ALL) <= ids for ids in seen.since(0))


@drill("lag")
async def test_a_member_that_lags_takes_nothing_back(registry: Drilled) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        await registry.register("d")
        await seen.has(*ALL, "d")
        await registry.go_back()
        await registry.deregister("a")
        await seen.has("b", "c", "d")
        assert [ids for ids in seen.since(1) if "d" not in ids] == []


@drill("purpose")
async def test_statements_made_on_purpose_are_obeyed(registry: Drilled) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        if registry.drained:
            await registry.register("a", status="draining")
            await eventually(
                lambda: seen.by_id()["a"].health == registry.drained, what=lambda: seen.pool
            )
        port = registry.other_port
        await registry.register("b", port=port)
        await eventually(lambda: seen.by_id()["b"].port == port, 15.0, lambda: seen.pool)
        await seen.answers()
        await registry.deregister("c")
        await seen.has("a", "b")
        await registry.deregister("a")
        await seen.has("b")
        await seen.quiet()
        await registry.deregister("b")
        await seen.has()


@drill("silence")
async def test_a_silent_registry_is_lost_and_found_again(registry: Drilled) -> None:
    async with watched(registry) as seen:
        await seen.has(*ALL)
        await seen.connects()
        registry.pause()
        assert await seen.loses_it()
        registry.resume()
        await seen.connects()
        await registry.register("d")
        await seen.has(*ALL, "d")
        assert len(seen.memberships) == 2


@drill("burst")
async def test_a_burst_becomes_a_few_memberships(registry: Drilled) -> None:
    ids = [f"i{number}" for number in range(300)]
    async with watched(registry) as seen:
        await seen.has(*ALL)
        began = time.monotonic()
        await registry.register(*ids)
        await seen.has(*ALL, *ids)
        await eventually(lambda: seen.status.connected)
        # One that takes a busy machine many seconds is none.
        assert len(seen.memberships) < max(100, 20 * (time.monotonic() - began))


async def test_members_of_etcd_that_lose_their_leader_and_their_quorum_fail_no_request() -> None:
    async with AsyncExitStack() as stack:
        instances = await stack.enter_async_context(Instances())
        cluster = await stack.enter_async_context(EtcdCluster())
        record = json.dumps({"address": "127.0.0.1", "port": instances.ports[0]})

        async def write(member: EtcdServer, id_: str) -> None:
            async def written() -> bool:
                try:
                    async with asyncio.timeout(1.0), EtcdClient(member.url) as client:
                        await client.put(f"/services/users/{id_}", record)
                except (EtcdFailed, TimeoutError):
                    return False
                return True

            await eventually(written, 20.0, "another leader")

        leader, one, two = cluster.members.values()
        for member in cluster.members.values():
            async with EtcdClient(member.url) as client:
                told = await client.call("/maintenance/status")
            if told["leader"] == told["header"]["member_id"]:
                leader, (one, two) = member, cluster.others(member)
        await write(one, "a")
        await write(one, "b")
        options = registry_options("etcd")(endpoints=cluster.urls)
        provider = load(PROVIDERS, "etcd")(options, timing=TIMING)
        seen = await stack.enter_async_context(Served(provider))
        await seen.has("a", "b")
        await leader.kill()
        await write(one, "c")
        await seen.connects()
        await seen.has("a", "b", "c")
        await two.kill()
        await seen.loses_it()
        await two.start()
        await seen.connects()
        await write(one, "d")
        await seen.has("a", "b", "c", "d")
        assert seen.status.resyncs == {}
        assert all({"a", "b"} <= ids for ids in seen.since(0))
