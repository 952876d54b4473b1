"""The provider over Consul's keys against a scripted agent: what is its own. What it shares with
other registries is in `test_registry_drills.py`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from proxy.registry.consul_kv.options import Options
from proxy.registry.consul_kv.provider import ConsulKvProvider
from tests.e2e.drilled import SERVICE, TIMING, Watched
from tests.support.processes import eventually
from tests.support.scripted_consul import ScriptedConsul

A, B, C = (f"services/{SERVICE}/{id_}" for id_ in "abc")
VALUE = b"10.0.0.1:8080"


def watched(server: ScriptedConsul, **options: Any) -> Watched:
    known = msgspec.structs.replace(Options(endpoints=(server.url,)), **options)
    return Watched(ConsulKvProvider(known, timing=TIMING))


async def test_keys_are_followed_by_one_held_request() -> None:
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        async with watched(server) as seen:
            await seen.has("a")
            await server.put_key("services/orders/o", VALUE)
            await eventually(lambda: "orders" in seen.memberships[-1].services)
            held = [one for one in server.asked if "index=" in one]
            assert {one.partition("?")[0] for one in held} == {"/v1/kv/services/"}
            assert all("stale" in one for one in server.asked)


async def test_an_agent_that_holds_no_request_is_not_asked_without_end() -> None:
    """As where something in front of it does not pass on the query, or its index."""
    async with ScriptedConsul() as server:
        server.holds = False
        await server.put_key(A, VALUE)
        async with watched(server) as seen:
            await seen.has("a")
            begun = len(server.asked)
            # A probe comes each 0.4 s.
            await eventually(lambda: sum("separator=" in one for one in server.asked[begun:]) > 4)
            assert sum("index=" in one for one in server.asked[begun:]) < 9
            await server.put_key(B, VALUE)
            await seen.has("a", "b")
            assert seen.status.resyncs == {}


async def test_folders_are_no_records() -> None:
    async with ScriptedConsul() as server:
        await server.put_key("services/", b"")
        await server.put_key(f"services/{SERVICE}/", b"")
        await server.put_key(A, VALUE)
        await server.put_key(f"services/{SERVICE}/10.0.0.2:80", b"")
        async with watched(server) as seen:
            await seen.has("a", "10.0.0.2:80")
            assert seen.status.invalid == ()


async def test_a_prefix_without_keys_is_a_statement() -> None:
    async with ScriptedConsul() as server, watched(server) as seen:
        await seen.connects()
        assert seen.memberships[-1].services == {}
        await server.put_key(A, VALUE)
        await seen.has("a")
        await server.delete_key(A)
        await seen.has()


async def test_a_token_without_rights_at_the_start_says_nothing() -> None:
    async with ScriptedConsul() as server:
        server.rights = False
        async with watched(server) as seen:
            assert "403: Permission denied" in await seen.loses_it()
            assert seen.memberships == []
            server.rights = True
            await server.put_key(A, VALUE)
            await seen.has("a")


async def test_rights_to_some_keys_that_are_lost_take_nothing() -> None:
    """Nobody is woken when rights change, so the first to see it is the full comparison."""
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        await server.put_key(B, VALUE)
        options = Options(endpoints=(server.url,))
        timing = msgspec.structs.replace(TIMING, reconcile=0.5, hold=0.1)
        async with Watched(ConsulKvProvider(options, timing=timing)) as seen:
            await seen.has("a", "b")
            server.hidden = {A}
            assert "lacks 1 of 2 keys, and nothing has changed" in await seen.loses_it()
            assert seen.ids() == {"a", "b"}
            assert seen.status.resyncs == {}
            server.hidden = set()
            await seen.connects()
            server.hidden = {A}
            server.fields = {"X-Consul-Results-Filtered-By-ACLs": "true"}
            await server.put_key(C, VALUE)
            assert "which the token may not see" in await seen.loses_it()
            assert seen.ids() == {"a", "b"}


async def test_an_index_that_falls_because_deletions_are_forgotten_changes_nothing() -> None:
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        await server.put_key(B, VALUE)
        async with watched(server) as seen:
            await seen.has("a", "b")
            await server.delete_key(B)
            await seen.has("a")
            number = len(seen.memberships)
            server.graves.clear()
            probes = len(server.asked)
            await eventually(lambda: len(server.asked) > probes + 10)
            asked = [one for one in server.asked[probes:] if "index" not in one]
            assert [one for one in asked if "recurse" in one] == [
                "/v1/kv/services/?recurse=&stale=",
                "/v1/kv/services/?recurse=",
            ]
            await server.put_key(C, VALUE)
            await seen.has("a", "c")
            assert (len(seen.memberships), seen.status.resyncs) == (number + 1, {})
            assert seen.status.last_error is None


async def test_a_store_that_was_replaced_between_two_answers_is_noticed() -> None:
    """At the same index, too, where it says something else."""
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        await server.put_key(B, VALUE)
        async with watched(server) as seen:
            await seen.has("a", "b")
            await server.kill()
            server.wipe()
            await server.put_key(A, VALUE)
            await server.put_key(C, VALUE)
            await server.start()
            await seen.has("a", "b", "c")
            assert seen.status.resyncs == {"store_went_back": 1}
            await seen.has("a", "c")


async def test_keys_that_are_missing_after_an_outage_stay_for_a_while() -> None:
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        await server.put_key(B, VALUE)
        async with watched(server) as seen:
            await seen.has("a", "b")
            await server.kill()
            await seen.loses_it()
            await server.delete_key(A)
            await server.start()
            await eventually(lambda: seen.status.resyncs == {"returned": 1})
            assert seen.ids() == {"a", "b"}
            await seen.has("b")


async def test_an_instance_gone_while_its_session_lives_was_deleted() -> None:
    one, two, three = (str(uuid4()) for _ in range(3))
    async with ScriptedConsul() as server:
        server.sessions = [one]
        await server.put_key(A, VALUE, one)
        await server.put_key(B, VALUE, two)
        await server.put_key(C, VALUE, three)
        await server.put_key(f"{C}2", VALUE, three)
        async with watched(server) as seen:
            await seen.has("a", "b", "c", "c2")
            await server.delete_key(A, B, C)
            await seen.has("c2")
            departures = sorted(seen.memberships[-1].departures, key=lambda gone: gone.id)
            told = [await seen.provider.expired(gone) for gone in departures]
            assert told == [False, None, False]
            await server.kill()
            assert await seen.provider.expired(departures[0]) is None


@pytest.mark.parametrize("body", [b"{}", b'[{"Key": "services/a/b"}]', b"[7]"])
async def test_an_answer_of_something_else_is_an_outage(body: bytes) -> None:
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        async with watched(server) as seen:
            await seen.has("a")
            server.lies = {"/v1/kv/": body}
            await server.put_key(B, VALUE)
            assert "not an answer of Consul" in await seen.loses_it()
            assert seen.ids() == {"a"}


async def test_a_404_of_somebody_else_is_an_outage() -> None:
    async with ScriptedConsul() as server:
        await server.put_key(A, VALUE)
        async with watched(server) as seen:
            await seen.has("a")
            server.statuses = {"/v1/kv/": 404}
            assert "status 404" in await seen.loses_it()
            assert seen.ids() == {"a"}
