"""What a worker is sent of the pools: small messages that add up to all of them."""

from __future__ import annotations

import asyncio
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import cast

import msgspec
import pytest
from msgspec.structs import replace

from proxy.channel import Channel
from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.control.statistics import Applies
from proxy.control.worker_process import MESSAGE, SERVICE_SIZE, Notice, WorkerProcess
from proxy.membership import Instance, Membership
from proxy.messages import (
    Applied,
    CertificatesApplied,
    Configure,
    Hello,
    ListenerCertificates,
    Pools,
    PoolSnapshot,
    ToWorker,
    WorkerConfig,
)

SENT = ListenerCertificates("https", 1, ())


class NoProcess:
    """A process of which only the number is asked."""

    pid = 1
    returncode = None


class Receiver:
    """A worker that applies messages when the test says so."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolSnapshot] = {}
        self.waiting: list[Pools] = []
        self.sizes: list[int] = []
        self.complete = False
        self.revision = 0
        self.came = asyncio.Event()
        self.before: list[ToWorker] = []
        """What came in front of the first pools, and is no pools."""
        self.channel: Channel[ToWorker] = Channel(ToWorker, self.on_message, lambda error: None)

    def on_message(self, message: ToWorker) -> None:
        if isinstance(message, Pools):
            self.waiting.append(message)
            assert len(self.waiting) == 1, "one at a time"
            self.came.set()
        elif not self.came.is_set():
            self.before.append(message)

    def apply(self) -> None:
        message = self.waiting.pop()
        self.came.clear()
        for snapshot in message.snapshots:
            self.pools[snapshot.service] = snapshot
        for change in message.changes:
            known = self.pools[change.service]
            assert known.generation == change.before
            nodes = {node.key: node for node in known.nodes if node.key not in change.gone}
            nodes |= {node.key: node for node in change.nodes}
            self.pools[change.service] = replace(
                known, generation=change.generation, nodes=tuple(nodes.values())
            )
        for service in message.removed:
            self.pools.pop(service, None)
        self.complete = self.complete or message.complete
        assert message.revision >= self.revision
        self.revision = message.revision
        self.sizes.append(sum(len(snapshot.nodes) for snapshot in message.snapshots))
        self.channel.send(Applied(message.seq, 0.001))


@asynccontextmanager
async def joined(
    book: PoolRegistry,
    applies: Applies,
    on_notice: Callable[[Notice], None] = lambda notice: None,
) -> AsyncIterator[tuple[WorkerProcess, Receiver]]:
    ours, theirs = socket.socketpair()
    life = WorkerProcess(
        0,
        0,
        cast(Process, NoProcess()),
        book,
        applies,
        config=lambda: (WorkerConfig(), {}, (SENT,)),
        accept_anyway=lambda: False,
        on_change=lambda: None,
        on_notice=on_notice,
        descriptors=socket.socket(),
    )
    receiver = Receiver()
    await life.channel.open(ours)
    await receiver.channel.open(theirs)
    receiver.channel.send(Hello(pid=1))
    try:
        yield life, receiver
    finally:
        receiver.channel.close()
        life.close()
        await asyncio.sleep(0.01)


def instances(service: str, count: int, port: int = 80) -> tuple[Instance, ...]:
    return tuple(
        Instance(service=service, id=f"i{number}", address="10.0.0.1", port=port)
        for number in range(count)
    )


def book_of(services: dict[str, tuple[Instance, ...]]) -> PoolRegistry:
    book = PoolRegistry({}, Slots(10_000, lambda slot: True), 0.0)
    book.apply(Membership(services=services, revision=1), 0.0)
    return book


async def settled(life: WorkerProcess, receiver: Receiver, book: PoolRegistry) -> None:
    async with asyncio.timeout(10):
        while receiver.revision < book.revision or not life.knows_all:
            if receiver.waiting:
                receiver.apply()
            await asyncio.sleep(0)
    known = {name: pool.snapshot for name, pool in book.by_service.items()}
    assert {name: in_order(pool) for name, pool in receiver.pools.items()} == {
        name: in_order(pool) for name, pool in known.items()
    }
    assert receiver.complete


def in_order(snapshot: PoolSnapshot) -> PoolSnapshot:
    return replace(snapshot, nodes=tuple(sorted(snapshot.nodes, key=lambda node: node.key)))


async def test_certificates_come_between_the_configuration_and_the_pools() -> None:
    book = book_of({"s": instances("s", 1)})
    async with joined(book, Applies()) as (life, receiver):
        await receiver.came.wait()
        assert receiver.before == [Configure(WorkerConfig()), SENT]
        await settled(life, receiver, book)


async def test_certificates_that_a_worker_refuses_are_noticed() -> None:
    book = book_of({})
    notices: asyncio.Queue[Notice] = asyncio.Queue()
    async with joined(book, Applies(), notices.put_nowait) as (life, receiver):
        await settled(life, receiver, book)
        good, bad = CertificatesApplied("https", 1), CertificatesApplied("https", 2, "too bad")
        for told in (good, bad):
            receiver.channel.send(told)
        assert await asyncio.wait_for(notices.get(), 10) == bad
        assert life.certificates == {"https": bad}
        assert notices.empty()


async def test_many_instances_come_in_small_messages() -> None:
    book = book_of({f"s{number}": instances(f"s{number}", 10) for number in range(100)})
    applies = Applies()
    async with joined(book, applies) as (life, receiver):
        await settled(life, receiver, book)
        assert max(receiver.sizes) <= MESSAGE
        assert len(receiver.sizes) == pytest.approx(100 * (10 + SERVICE_SIZE) / MESSAGE, abs=1)
        assert sum(applies.buckets) == len(receiver.sizes)
        assert life.revision == 1


async def test_a_large_service_is_not_divided() -> None:
    book = book_of({"large": instances("large", 3 * MESSAGE), "small": instances("small", 1)})
    async with joined(book, Applies()) as (life, receiver):
        await settled(life, receiver, book)
        assert receiver.sizes == [3 * MESSAGE, 1]


async def test_one_change_in_a_large_service_is_a_small_message() -> None:
    large = instances("large", 20_000)
    book = PoolRegistry({}, Slots(30_000, lambda slot: True), 0.0)
    book.apply(Membership(services={"large": large}, revision=1), 0.0)
    async with joined(book, Applies()) as (life, receiver):
        await settled(life, receiver, book)
        for override in (book.drain, book.undrain):
            override("large", "i77")
            life.update(book.settle(0.0).pools)
            async with asyncio.timeout(10):
                await receiver.came.wait()
            [message] = receiver.waiting
            assert [node.id for change in message.changes for node in change.nodes] == ["i77"]
            assert len(msgspec.msgpack.encode(message)) < 1024
            receiver.apply()
            await settled(life, receiver, book)
        book.apply(Membership(services={"large": large[:-1]}, revision=2), 0.0)
        life.update(["large"])
        await settled(life, receiver, book)


async def test_pools_are_complete_with_the_last_message_and_not_before() -> None:
    book = book_of({f"s{number}": instances(f"s{number}", MESSAGE) for number in range(3)})
    async with joined(book, Applies()) as (life, receiver):
        for _ in range(3):
            assert not life.knows_all
            assert not receiver.complete
            async with asyncio.timeout(5):
                await receiver.came.wait()
            receiver.apply()
        assert receiver.complete
        await settled(life, receiver, book)


@pytest.mark.parametrize("seed", range(10))
async def test_messages_add_up_to_the_book_whatever_happens_meanwhile(seed: int) -> None:
    """Services change, go and come back, their instances move and return under their old
    identity, while messages are under way; a worker that is replaced gets everything anew."""
    rng = Random(seed)
    services = {f"s{number}": instances(f"s{number}", rng.randrange(1, 60)) for number in range(30)}
    book = book_of(services)
    for _ in range(2):
        async with joined(book, Applies()) as (life, receiver):
            for _ in range(60):
                step = rng.randrange(5)
                service = f"s{rng.randrange(40)}"
                if step == 0:
                    services.pop(service, None)
                elif step == 1:
                    port = rng.choice((80, 81))
                    services[service] = instances(service, rng.randrange(1, 60), port)
                elif step == 2 and (known := services.get(service)):
                    gone = rng.randrange(len(known))
                    new = Instance(service=service, id=f"n{gone}", address="10.0.0.2", port=80)
                    services[service] = (*known[:gone], new, *known[gone + 1 :])
                elif receiver.waiting:
                    receiver.apply()
                revision = book.revision + 1
                changes = book.apply(
                    # Pools that were empty for long are forgotten: `removed` in a message.
                    Membership(services=dict(services), revision=revision),
                    revision * 60.0,
                )
                life.update((*changes.pools, *changes.gone))
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            # One more, so that there is something to wait for.
            services["last"] = instances("last", 1, rng.randrange(1, 60_000))
            revision = book.revision + 1
            changes = book.apply(
                Membership(services=dict(services), revision=revision), revision * 60.0
            )
            life.update((*changes.pools, *changes.gone))
            await settled(life, receiver, book)
