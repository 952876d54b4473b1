"""Ranges of keys that proxies follow: what they cost etcd when it comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from random import Random

from proxy.fleet.store import LONGEST_PAUSE, PAUSE, Store
from proxy.registry.etcd.options import Options
from proxy.registry.etcd.wire import KeyValue
from proxy.registry.rotation import Rotation
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import eventually

START, END = b"/fairlead/config/", b"/fairlead/config0"


class Follower:
    """Owns a store that is followed by a way of its own."""

    def __init__(self, etcd: EtcdServer) -> None:
        self.way = TcpFault(etcd.client_port)
        self.seen: list[dict[bytes, bytes]] = []
        self.state = "?"
        self._store = Store(Options(endpoints=(self.way.url,)), Random(1))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Follower:
        await self._stack.enter_async_context(self.way)
        self._task = asyncio.create_task(
            self._store.follow(START, END, self._take, lambda state: setattr(self, "state", state))
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._store.close()
        await self._stack.aclose()

    def _take(self, held: Mapping[bytes, KeyValue]) -> None:
        self.seen.append({key: kv.value for key, kv in held.items()})

    async def knows(self, **expected: str) -> None:
        wanted = {START + key.encode(): value.encode() for key, value in expected.items()}
        await eventually(lambda: self.seen and self.seen[-1] == wanted, 20, lambda: self.seen[-1:])


async def test_a_follower_goes_on_after_an_outage_and_misses_nothing() -> None:
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        Follower(etcd) as follower,
    ):
        await client.put("/fairlead/config/a", "1")
        await follower.knows(a="1")
        told = len(follower.seen)
        await follower.way.refuse()
        await eventually(lambda: follower.state not in ("", "?"), 20, "a loss")
        await follower.way.accept()
        await eventually(lambda: follower.state == "", 20, "the return")
        # Nothing was listed anew, or it would have been told anew.
        assert len(follower.seen) == told
        await follower.way.refuse()
        await client.put("/fairlead/config/b", "2")
        await client.delete("/fairlead/config/a")
        await follower.way.accept()
        await follower.knows(b="2")


async def test_a_store_that_was_wiped_is_listed_anew() -> None:
    async with EtcdServer() as etcd, Follower(etcd) as follower:
        async with EtcdClient(etcd.url) as client:
            for number in range(5):
                await client.put("/fairlead/config/a", str(number))
        await follower.knows(a="4")
        await etcd.kill()
        etcd.wipe()
        await etcd.start()
        async with EtcdClient(etcd.url) as client:
            await client.put("/fairlead/config/b", "new")
        await follower.knows(b="new")


def test_a_fleet_spreads_over_members_and_time() -> None:
    """A thousand proxies that lose their member at one moment."""
    fleet = [Rotation(3, Random(number), PAUSE, LONGEST_PAUSE) for number in range(1000)]
    first = Counter(one.current for one in fleet)
    assert min(first.values()) > 280
    for one in fleet:
        one.advance()
    assert min(Counter(one.current for one in fleet).values()) > 280
    for attempt in range(8):
        limit = min(LONGEST_PAUSE, PAUSE * 2**attempt)
        tenths = Counter(int(10 * one.delay(answered=True) / limit) for one in fleet)
        # Of any tenth of the time at most a sixth of them.
        assert max(tenths.values()) < 1000 / 6
