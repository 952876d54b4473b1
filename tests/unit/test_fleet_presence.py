"""The statement of a proxy in etcd, on stepped time: when it is made again after an outage."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from proxy.fleet.presence import EVERY, Presence
from proxy.fleet.store import LONGEST_PAUSE, PAUSE, Store
from proxy.registry.etcd.gateway import Gateway
from proxy.registry.etcd.wire import EtcdError, LeaseReply, TxnReply, Unreachable
from proxy.registry.rotation import ROUND, Rotation
from tests.support.loop_and_network import START, SteppedLoop

T = TypeVar("T")


class Etcd:
    """Owns leases and what is written under them, as a store and as the member that it asks."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.away = False
        self.asked = 0
        self.written: list[float] = []
        self._loop = loop
        self._leases = 0
        self._rotation = Rotation(3, random.Random(1), PAUSE, LONGEST_PAUSE)

    async def call(self, work: Callable[[Gateway], Awaitable[T]]) -> T:
        self.asked += 1
        if self.away:
            raise Unreachable("nobody is there")
        done = await work(cast("Gateway", self))
        self._rotation.progress()
        return done

    def delay(self, error: EtcdError) -> float:
        return self._rotation.delay(answered=error.answered)

    async def grant(self, ttl: int) -> LeaseReply:
        self._leases += 1
        return LeaseReply(id=self._leases, ttl=ttl)

    async def keep_alive(self, lease: int) -> LeaseReply:
        return LeaseReply(id=lease, ttl=0 if lease < self._leases else 15)

    async def txn(self, *_: object) -> TxnReply:
        self.written.append(self._loop.time() - START)
        return TxnReply(succeeded=True)

    def lose_leases(self) -> None:
        self._leases += 1


def test_a_proxy_is_on_the_list_again_within_a_second_of_etcds_return() -> None:
    loop = SteppedLoop()
    etcd = Etcd(loop)
    presence = Presence(cast("Store", etcd), "a", lambda: {"ready": True, "load": loop.time()})
    task = loop.create_task(presence.run())
    loop.advance(10.0)
    assert len(etcd.written) == 1
    for number in range(20):
        etcd.away = True
        loop.advance(300.0 + number * 0.1)
        etcd.away = False
        etcd.lose_leases()
        etcd.written.clear()
        loop.advance(ROUND)
        assert len(etcd.written) == 1
    # What is well is said no more often than before.
    asked = etcd.asked
    loop.advance(10 * EVERY)
    assert etcd.asked - asked <= 11
    task.cancel()
    loop.advance(0.0)
    assert task.cancelled()
