"""The etcd provider against a gateway that lies: reasons, silence and identities on cue."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.registry.followed import Timing
from tests.e2e.scripted_etcd import ScriptedEtcd
from tests.e2e.test_registry_etcd import Observed, record
from tests.support.processes import eventually

FAST = Timing(probe=0.05, catch_up=0.2, backoff_limit=0.1, hold=0.3)
A, B, C = (f"/services/users/{name}" for name in "abc")


def canceled(**fields: Any) -> dict[str, Any]:
    return {"result": {"canceled": True} | fields}


CREATED = {"result": {"created": True}}


async def test_a_cancellation_for_an_unknown_reason_lists_again() -> None:
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        etcd.watch_answers = [
            [CREATED, canceled(cancel_reason="something new")],
            [canceled(created=True)],
        ]
        async with Observed(etcd.url, timing=FAST) as seen:
            await seen.comes_up()
            await etcd.put(B, record())
            await eventually(lambda: seen.registered() == {A, B})
            assert seen.provider.status().resyncs == {"canceled": 2}


@pytest.mark.parametrize(
    "reason",
    ["etcdserver: no leader", "rpc error: code = Unavailable desc = transport is closing"],
)
async def test_a_cancellation_that_says_not_now_reopens_at_the_resume_point(reason: str) -> None:
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        etcd.watch_answers = [[CREATED, canceled(cancel_reason=reason)]]
        async with Observed(etcd.url, timing=FAST) as seen:
            await eventually(lambda: len(etcd.starts) == 2)
            await seen.comes_up()
            await etcd.put(B, record())
            await eventually(lambda: seen.registered() == {A, B})
            assert etcd.starts == [3, 3]
            assert seen.provider.status().resyncs == {}


async def test_compaction_is_recognised_without_a_reason_even_in_the_first_frame() -> None:
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        etcd.watch_answers = [[canceled(created=True, compact_revision="9")]]
        async with Observed(etcd.url, timing=FAST) as seen:
            await seen.comes_up()
            assert seen.provider.status().resyncs == {"compacted": 1}


async def test_withheld_events_are_noticed_and_listed() -> None:
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        await etcd.put(B, record())
        async with Observed(etcd.url, timing=FAST) as seen:
            await seen.comes_up()
            etcd.withhold = True
            await etcd.put(C, record())
            await eventually(lambda: seen.registered() == {A, B, C})
            await etcd.delete(B)  # which leaves the newest key as it was
            await eventually(lambda: seen.registered() == {A, C})
            assert seen.provider.status().resyncs == {"behind": 2}
            # The events arrive after all: they are old news.
            count = len(seen.memberships)
            etcd.withhold = False
            await etcd.put(A, record(1))
            await eventually(lambda: len(seen.memberships) > count)
            assert seen.registered() == {A, C}


async def test_another_cluster_behind_the_same_address() -> None:
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        await etcd.put(B, record())
        async with Observed(etcd.url, timing=FAST) as seen:
            await seen.comes_up()
            etcd.cluster_id = 2
            etcd.revision = 70
            del etcd.keys[A]
            etcd.keys[B] = (record(5), 60)
            # The change is taken over at once, the removal only after a while.
            await eventually(lambda: {i.port for i in seen.now.services["users"]} == {8080, 5})
            assert seen.registered() == {A, B}
            await eventually(lambda: seen.registered() == {B})
            assert seen.provider.status().resyncs == {"cluster_changed": 1}


async def test_a_stale_token_is_renewed_once_for_each_call() -> None:
    user: dict[str, Any] = {"username": "proxy", "password": "secret"}
    stale_3_4 = (401, {"error": "etcdserver: invalid auth token", "code": 16})
    denied = canceled(created=True, cancel_reason="rpc error: ... permission denied")
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        etcd.range_answers = [stale_3_4]
        etcd.watch_answers = [[denied]]
        async with Observed(etcd.url, timing=FAST, **user) as seen:
            await seen.comes_up()
            assert seen.registered() == {A}
            assert etcd.logins == 3
            # list (stale), list, watch (stale), watch
            assert etcd.tokens[:4] == ["token-1", "token-2", "token-2", "token-3"]
            assert seen.provider.status().resyncs == {}


async def test_a_refusal_of_a_fresh_token_is_believed() -> None:
    user: dict[str, Any] = {"username": "proxy", "password": "secret"}
    denied = canceled(created=True, cancel_reason="etcdserver: permission denied")
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        etcd.watch_answers = [[denied] for _ in range(1000)]
        async with Observed(etcd.url, timing=FAST, **user) as seen:
            await seen.complains("permission denied")
            assert not seen.connected
            assert seen.registered() == {A}
            # Two watches with two tokens, and then a pause; never a storm of logins.
            await eventually(lambda: len(etcd.starts) >= 6)
            assert etcd.logins <= len(etcd.starts)


async def test_compaction_between_two_pages_starts_the_list_again() -> None:
    compacted = {"error": "etcdserver: mvcc: required revision has been compacted", "code": 11}
    async with ScriptedEtcd() as etcd:
        await etcd.put(A, record())
        etcd.range_answers = [
            (200, {"header": etcd.header(), "more": True, "kvs": [{"key": "Lw=="}]}),
            (400, compacted),
        ]
        async with Observed(etcd.url, timing=FAST) as seen:
            await seen.comes_up()
            assert seen.registered() == {A}
            assert len(seen.memberships) == 1
