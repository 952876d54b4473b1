"""Questions to a scripted Eureka: everything, or what has changed. What becomes of outages and of
answers that are not the truth is drilled in `test_registry_drills.py`."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy.register.backend import Write
from proxy.register.eureka_backend import EurekaBackend
from proxy.registry.base import Refused
from proxy.registry.eureka.options import Options
from proxy.registry.eureka.provider import WHOLE, EurekaProvider
from proxy.registry.followed import Timing
from tests.e2e.drilled import Watched
from tests.support.processes import eventually
from tests.support.scripted_eureka import ScriptedEureka, registered


def watched(*servers: ScriptedEureka, clock: Callable[[], float] = time.monotonic) -> Watched:
    options = Options(endpoints=tuple(one.url for one in servers))
    timing = Timing(probe=0.02, hold=0.3, backoff_limit=0.02)
    return Watched(EurekaProvider(options, timing=timing, rng=random.Random(1), clock=clock))


async def test_everything_is_asked_for_once_and_then_what_has_changed() -> None:
    async with ScriptedEureka() as server:
        server.put(registered("users", "a"))
        async with watched(server) as seen:
            await seen.has("a")
            server.put(registered("users", "b"))
            await seen.has("a", "b")
            server.delete("b")
            await seen.has("a")
        assert server.asked.count("/eureka/apps") == 1
        assert seen.status.resyncs == {}


async def test_everything_is_asked_for_again_when_the_hash_does_not_fit() -> None:
    async with ScriptedEureka() as server:
        server.put(registered("users", "a"))
        async with watched(server) as seen:
            await seen.has("a")
            server.put(registered("users", "b"))
            server.changes.clear()  # It was too long ago.
            await seen.has("a", "b")
        assert server.asked.count("/eureka/apps") == 2


async def test_a_deleted_instance_is_gone_at_once_though_the_hash_does_not_fit() -> None:
    async with ScriptedEureka() as server:
        server.put(registered("users", "a"))
        async with watched(server) as seen:
            await seen.has("a")
            server.put(registered("orders", "b"))
            server.changes.clear()  # It was too long ago.
            server.delete("a")
            await seen.has()
            await eventually(lambda: "orders" in seen.memberships[-1].services)
            assert seen.status.resyncs == {}


async def test_a_deleted_instance_is_gone_at_once_when_everything_is_due() -> None:
    late = [0.0]
    async with ScriptedEureka() as server:
        server.put(registered("users", "a"))
        async with watched(server, clock=lambda: time.monotonic() + late[0]) as seen:
            await seen.has("a")
            late[0] = 2 * WHOLE
            server.delete("a")
            await seen.has()
            assert seen.status.resyncs == {}
        assert server.asked.count("/eureka/apps") == 2


async def test_metadata_that_are_none_harm_no_instance() -> None:
    async with ScriptedEureka() as server:
        server.put(registered("users", "a", metadata="none"))
        server.put(registered("users", "b", metadata=["x"]))
        async with watched(server) as seen:
            await seen.has("a", "b")


async def test_a_server_that_tells_no_changes_is_asked_for_everything() -> None:
    async with ScriptedEureka() as server:
        server.put(registered("users", "a"))
        server.no_delta = True
        async with watched(server) as seen:
            await seen.has("a")
            server.put(registered("users", "b"))
            await seen.has("a", "b")
            assert seen.status.connected
            assert await seen.provider.alive()
            server.status = 503
            assert not await seen.provider.alive()


async def test_a_peer_that_knows_fewer_takes_nobody_at_once() -> None:
    async with ScriptedEureka() as one, ScriptedEureka() as other:
        for server in (one, other):
            server.put(registered("users", "a"))
            server.put(registered("users", "b"))
        async with watched(one, other) as seen:
            await seen.has("a", "b")
            first, rest = (one, other) if one.asked else (other, one)
            rest.instances.pop("b")
            first.status = 503
            await eventually(lambda: seen.status.resyncs == {"moved": 1})
            assert seen.ids() == {"a", "b"}
            await seen.has("a")


async def test_instances_that_left_may_have_expired_for_all_that_eureka_says() -> None:
    async with ScriptedEureka() as server:
        for id_ in "abc":
            server.put(registered("users", id_))
        async with watched(server) as seen:
            await seen.has("a", "b", "c")
            server.delete("a")
            server.delete("b")
            await seen.has("c")
            gone = [one for told in seen.memberships for one in told.departures]
            assert {one.id for one in gone} == {"a", "b"}
            assert len({one.lease for one in gone} - {0}) == 2
            assert [await seen.provider.expired(one) for one in gone] == [None, None]


async def test_a_registration_takes_back_what_it_overrode_and_nothing_else() -> None:
    async with ScriptedEureka() as server:
        backend = EurekaBackend(Options(endpoints=(server.url,)), server.url, 5.0)
        lease = await backend.grant(10.0)
        record: dict[str, Any] = {"id": "a", "name": "users", "address": "10.0.0.1", "port": 8080}
        revision, words = 0, []
        for status in ("draining", "healthy", "failing", "healthy"):
            value = json.dumps({**record, "health": {"status": status}}).encode()
            [outcome] = await backend.write(lease, [Write(("users", "a"), value, revision)])
            assert outcome.done
            revision = outcome.revision
            words.append(server.instances["a"]["status"])
        assert words == ["OUT_OF_SERVICE", "UP", "DOWN", "UP"]
        # An operator's own override outlives what we state.
        server.instances["a"] |= {"status": "OUT_OF_SERVICE", "overriddenStatus": "OUT_OF_SERVICE"}
        [outcome] = await backend.write(lease, [Write(("users", "a"), value, revision)])
        assert (outcome.done, server.instances["a"]["status"]) == (True, "OUT_OF_SERVICE")
        with pytest.raises(Refused, match="would call it 'users'"):
            await backend.write(lease, [Write(("Users", "b"), value, 0)])
        await backend.close()
