"""The registry that is served, and the one that takes its place."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace
from structlog.testing import capture_logs

from proxy.control.registry_watch import RegistryWatch
from proxy.membership import Membership
from proxy.settings.registry import Registry
from proxy.statuses import RegistryStatus, RetainedInstance
from tests.support.manual_provider import ManualOptions, ManualProvider, instance


class Holding(ManualProvider):
    """A provider that has a descriptor until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptor = os.open(os.devnull, os.O_RDONLY)
        self.retained: tuple[RetainedInstance, ...] = ()

    def status(self) -> RegistryStatus:
        return replace(super().status(), retained=self.retained)

    async def close(self) -> None:
        if not self.closed:
            os.close(self.descriptor)
        await super().close()


class Watched:
    """A watch, the providers that it follows, the last the newest, and what it has said."""

    def __init__(self) -> None:
        self.providers: list[Holding] = []
        self.said: list[list[str]] = []
        self.watch = RegistryWatch(
            self.build, self.take, lambda work, name: asyncio.create_task(work, name=name)
        )

    def build(self, registry: Registry) -> Holding:
        self.providers.append(Holding())
        return self.providers[-1]

    def take(self, membership: Membership) -> None:
        self.said.append([one.id for known in membership.services.values() for one in known])

    def follow(self, registry: Registry | None = None) -> Holding:
        registry = registry or Registry(options=ManualOptions(endpoints=("http://x:1",)))
        provider = self.build(registry)
        self.watch.follow(registry, provider)
        return provider


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    """A watch whose first registry has named `a`."""
    one = Watched()
    one.follow().tell(instance("a"))
    await settled()
    yield one
    await one.watch.close()
    assert all(provider.closed for provider in one.providers)


async def settled() -> None:
    """Whatever is to happen without the passing of time has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_registry_before_is_followed_until_the_next_has_named_all() -> None:
    async with watched() as one:
        first = one.providers[0]
        second = one.follow()
        await settled()
        assert one.watch.status == second.status()
        assert not one.watch.status.connected
        first.tell(instance("a"), instance("b"))
        await settled()
        second.tell(instance("b"), instance("c"))
        await settled()
        assert one.said == [["a"], ["a", "b"], ["b", "c"]]
        assert first.closed
        assert not second.closed
        first.tell(instance("x"))  # It has nothing to say any more.
        await settled()
        assert one.said[-1] == ["b", "c"]


async def test_a_registry_that_names_nobody_is_doubted_until_it_does() -> None:
    async with watched() as one:
        with capture_logs() as logs:
            second = one.follow()
            second.tell()
            await settled()
        assert one.said == [["a"]]
        assert not one.providers[0].closed
        assert "registry_empty" in [line["event"] for line in logs]
        second.tell(instance("b"))
        await settled()
        second.tell()  # By now it is believed.
        await settled()
        assert one.said == [["a"], ["b"], []]


async def test_a_registry_that_names_only_those_that_are_held_is_doubted_as_well() -> None:
    async with watched() as one:
        second = one.follow()
        second.retained = (RetainedInstance(service="users", id="a", why="", age=1.0),)
        second.tell(instance("a"))
        await settled()
        assert not one.providers[0].closed
        second.tell(instance("a"), instance("b"))
        await settled()
        assert one.providers[0].closed
        assert one.said == [["a"], ["a", "b"]]


async def test_no_registry_at_all_is_believed() -> None:
    async with watched() as one:
        one.follow(Registry()).tell()
        await settled()
        assert one.said == [["a"], []]


async def test_a_registry_that_has_said_nothing_is_given_up_for_the_next() -> None:
    async with watched() as one:
        second, third = one.follow(), one.follow()
        await settled()
        assert second.closed
        third.tell(instance("c"))
        await settled()
        assert one.said == [["a"], ["c"]]
        assert one.providers[0].closed


async def test_a_registry_that_has_never_answered_gives_way_as_well() -> None:
    one = Watched()
    first, second = one.follow(), one.follow()
    second.tell()  # Nobody is known who could be lost.
    await settled()
    assert one.said == [[]]
    assert first.closed
    await one.watch.close()


async def test_descriptors_and_tasks_of_those_before_are_released() -> None:
    gc.collect()  # Else sockets of tests before this one may be closed in the middle of it.
    async with watched() as one:
        before = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for number in range(100):
            one.follow()
            if number % 3:
                one.providers[-1].tell(instance(f"i{number}"))
            await settled()
        one.follow().tell(instance("last"))
        await settled()
        assert (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())) == before


async def test_a_provider_that_cannot_be_closed_is_told_of_and_holds_up_nobody() -> None:
    class Stubborn(Holding):
        async def close(self) -> None:
            await super().close()
            raise OSError("no")

    one = Watched()
    one.watch.follow(Registry(), Stubborn())
    one.follow().tell(instance("a"))
    with capture_logs() as logs:
        await settled()
        await one.watch.close()
    assert one.said == [["a"]]
    assert "provider_not_closed" in [line["event"] for line in logs]
