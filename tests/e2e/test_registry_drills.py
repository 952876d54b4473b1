"""What happens to registries, and what a pool owes its clients meanwhile: the same for all kinds.

An outage, lost rights, an answer that is empty, partial, out of date or no answer at all, and a
store that was wiped take nothing away by themselves; what is said on purpose is obeyed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.registry.decorators.mass_loss_provider import MassLossProvider
from proxy.settings.registry import MassLossSettings
from tests.e2e.drilled import DRILLED, Drilled, Owner, Watched
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.drill

ALL = ("a", "b", "c")


def those(chosen: Callable[[type[Drilled]], object]) -> pytest.MarkDecorator:
    """For the registries that can be harmed like that."""
    names = [name for name, kind in DRILLED.items() if chosen(kind)]
    return pytest.mark.parametrize("registry", names, indirect=True)


LIES = [(name, lie) for name, kind in DRILLED.items() for lie in kind.lies]


@pytest.fixture(params=sorted(DRILLED))
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Drilled]:
    """Up, with three instances."""
    if DRILLED[request.param].missing:
        pytest.skip(f"there is no {DRILLED[request.param].missing} on this machine")
    async with DRILLED[request.param]() as registry:
        await registry.register(*ALL)
        yield registry


async def test_a_registry_that_is_down_at_the_start_is_waited_for(registry: Drilled) -> None:
    await registry.kill()
    async with registry.watched() as seen:
        await seen.loses_it()
        assert seen.memberships == []
        await registry.start()
        await seen.has(*ALL)
        assert not registry.at_once or seen.memberships[0] is seen.memberships[-1]


async def test_a_restart_with_the_data_changes_nothing(registry: Drilled) -> None:
    async with registry.watched() as seen:
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


@those(lambda kind: kind.ttl)
async def test_bound_registrations_outlive_an_outage_and_go_with_their_owners(
    registry: Drilled,
) -> None:
    here, gone = await registry.register_bound("x"), await registry.register_bound("y")
    async with registry.watched() as seen:
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


@those(lambda kind: kind.ttl)
async def test_a_mass_expiry_is_not_believed_while_the_instances_answer(registry: Drilled) -> None:
    """But of those that do not answer, and a deletion on purpose is."""
    answering = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = answering.sockets[0].getsockname()[1]
    owners = {
        id_: await registry.register_bound(id_, "127.0.0.1", port if id_ != "x4" else free_port())
        for id_ in ("x1", "x2", "x3", "x4")
    }
    provider = MassLossProvider(registry.provider(), MassLossSettings())
    async with Watched(provider) as seen, answering:
        await seen.has(*ALL, *owners)
        for owner in owners.values():
            await owner.leave()
        await eventually(lambda: len(seen.status.retained) == 3, 15.0, lambda: seen.status)
        await seen.has(*ALL, "x1", "x2", "x3")
        await registry.deregister("a")
        await seen.has("b", "c", "x1", "x2", "x3")
        answering.close()
        await seen.has("b", "c")


async def _renew(owner: Owner, every: float) -> None:
    while True:
        await owner.renew()
        await asyncio.sleep(every)


async def test_a_wiped_store_takes_nothing_until_the_hold_is_over(registry: Drilled) -> None:
    async with registry.watched() as seen:
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


@those(lambda kind: kind.rights)
async def test_lost_rights_are_an_outage_with_a_reason(registry: Drilled) -> None:
    async with registry.watched() as seen:
        await seen.has(*ALL)
        await registry.take_rights()
        assert await seen.loses_it()
        await registry.register("d")
        assert seen.ids() == set(ALL)
        await registry.give_rights()
        await seen.has(*ALL, "d")
        assert len(seen.memberships) == 2


@pytest.mark.parametrize(("registry", "kind"), LIES, indirect=["registry"])
async def test_an_answer_that_is_not_the_truth_takes_nothing(registry: Drilled, kind: str) -> None:
    async with registry.watched() as seen:
        await seen.has(*ALL)
        await seen.connects()
        await registry.lie(kind)
        await (seen.doubts_it() if registry.asked else seen.loses_it())
        assert seen.ids() == set(ALL)
        await registry.lie("")
        await registry.register("d")
        await seen.has(*ALL, "d")
        assert all(set(ALL) <= ids for ids in seen.since(0))


@those(lambda kind: kind.lags)
async def test_a_member_that_lags_takes_nothing_back(registry: Drilled) -> None:
    async with registry.watched() as seen:
        await seen.has(*ALL)
        await registry.register("d")
        await seen.has(*ALL, "d")
        await registry.go_back()
        await registry.deregister("a")
        await seen.has("b", "c", "d")
        assert [ids for ids in seen.since(1) if "d" not in ids] == []


async def test_statements_made_on_purpose_are_obeyed(registry: Drilled) -> None:
    async with registry.watched() as seen:
        await seen.has(*ALL)
        await registry.register("a", status="draining")
        await eventually(
            lambda: seen.by_id()["a"].health == registry.drained, what=lambda: seen.pool
        )
        await registry.register("b", port=9090)
        await eventually(lambda: seen.by_id()["b"].port == 9090, what=lambda: seen.pool)
        await registry.deregister("c")
        await seen.has("a", "b")
        await registry.deregister("a")
        await registry.deregister("b")
        await seen.has()


async def test_a_silent_registry_is_lost_and_found_again(registry: Drilled) -> None:
    async with registry.watched() as seen:
        await seen.has(*ALL)
        await seen.connects()
        registry.pause()
        assert await seen.loses_it()
        registry.resume()
        await seen.connects()
        await registry.register("d")
        await seen.has(*ALL, "d")
        assert len(seen.memberships) == 2


async def test_a_burst_becomes_a_few_memberships(registry: Drilled) -> None:
    ids = [f"i{number}" for number in range(300)]
    async with registry.watched() as seen:
        await seen.has(*ALL)
        await registry.register(*ids)
        await seen.has(*ALL, *ids)
        await eventually(lambda: seen.status.connected)
        assert len(seen.memberships) < 100
