"""Providers around providers: failover, the mass-loss guard, the snapshot file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.health.base import Check, Endpoint
from proxy.membership import Departure, Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.failover_provider import FailoverProvider
from proxy.registry.decorators.mass_loss_provider import MassLossProvider
from proxy.registry.decorators.snapshot_file import SnapshotFile
from proxy.registry.decorators.snapshot_provider import SnapshotProvider
from proxy.settings.registry import MassLossSettings, Registry
from proxy.statuses import RegistryStatus
from tests.support.manual_provider import ManualOptions, ManualProvider, instance, save_snapshot

FAST = Registry(check_interval=0.02, check_timeout=0.01)


class Store:
    """A registry that several providers may be connected to, and that may be down."""

    def __init__(self, *ids: str) -> None:
        self.up = True
        self.ids = ids
        self.providers: list[StoreProvider] = []

    def register(self, *ids: str) -> None:
        self.ids = ids
        for provider in self.providers:
            if provider.watched:
                provider.tell(*map(instance, ids))


class StoreProvider(ManualProvider):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.watched = False
        store.providers.append(self)

    async def alive(self) -> bool:
        return self.store.up

    async def watch(self) -> AsyncIterator[Membership]:
        self.watched = True
        if self.store.up:
            self.tell(*map(instance, self.store.ids))
        async for membership in super().watch():
            yield membership

    def status(self) -> RegistryStatus:
        return RegistryStatus(
            provider=self.name, connected=self.watched and self.store.up, age=self.age
        )


class Reader:
    """Reads a provider to its end and keeps what it said last."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.count = 0
        self.last: Membership | None = None
        self.news = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for membership in self.provider.watch():
            self.last = membership
            self.count += 1
            self.news.set()

    def ids(self) -> str:
        known = () if self.last is None else self.last.services.get("users", ())
        return "".join(one.id for one in known)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                try:
                    async with asyncio.timeout(0.01):
                        await self.news.wait()
                except TimeoutError:
                    pass
                self.news.clear()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def reader() -> AsyncIterator[Callable[[Provider], Reader]]:
    made: list[Reader] = []

    def read(provider: Provider) -> Reader:
        made.append(Reader(provider))
        return made[-1]

    yield read
    for one in made:
        await one.end()
        await one.provider.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


Read = Callable[[Provider], Reader]


class TestFailover:
    def make(self, *stores: Store) -> tuple[FailoverProvider, list[tuple[str, dict[str, Any]]]]:
        by_endpoint = {f"http://{n}:1": store for n, store in enumerate(stores)}
        events: list[tuple[str, dict[str, Any]]] = []
        provider = FailoverProvider(
            [ManualOptions(endpoints=(url,)) for url in by_endpoint],
            lambda settings: StoreProvider(by_endpoint[settings.endpoints[0]]),
            FAST,
            on_event=lambda kind, **fields: events.append((kind, fields)),
        )
        return provider, events

    def active(self, provider: Provider) -> list[bool]:
        return [source.active for source in provider.status().sources]

    async def test_the_backup_is_used_while_the_primary_is_down_and_then_the_primary_again(
        self, reader: Read
    ) -> None:
        primary, backup = Store("a", "b"), Store("a", "b", "c")
        provider, events = self.make(primary, backup)
        read = reader(provider)
        await read.until(lambda: read.ids() == "ab")
        assert self.active(provider) == [True, False]
        primary.up = False
        await read.until(lambda: read.ids() == "abc")
        assert self.active(provider) == [False, True]
        backup.register("a", "c", "d")
        # b was there, and this registry took it out.
        await read.until(lambda: read.ids() == "acd")
        primary.up = True
        # What the primary lacks is kept for a while.
        await read.until(lambda: read.ids() == "abcd")
        assert self.active(provider) == [True, False]
        assert provider.status().switches == 2
        assert [(kind, fields["source"]) for kind, fields in events] == [
            ("registry_switched", 1),
            ("registry_switched", 0),
        ]

    async def test_the_first_registry_that_comes_up_is_used(self, reader: Read) -> None:
        first, second = Store("a"), Store("b")
        first.up = second.up = False
        provider, _ = self.make(first, second)
        read = reader(provider)
        await read.until(lambda: [one.alive for one in provider.status().sources] == [False, False])
        assert not provider.status().connected
        assert read.count == 0
        second.up = True
        await read.until(lambda: read.ids() == "b")
        assert provider.status().switches == 0

    async def test_while_all_registries_are_down_what_is_known_is_served(
        self, reader: Read
    ) -> None:
        first, second = Store("a"), Store("b")
        provider, _ = self.make(first, second)
        read = reader(provider)
        await read.until(lambda: read.ids() == "a")
        first.up = second.up = False
        await read.until(lambda: not any(one.alive for one in provider.status().sources))
        assert read.ids() == "a"
        assert read.count == 1
        assert self.active(provider) == [True, False]

    async def test_a_registry_that_is_not_used_any_more_is_closed(self, reader: Read) -> None:
        first, second = Store("a"), Store("b")
        provider, _ = self.make(first, second)
        read = reader(provider)
        await read.until(lambda: read.ids() == "a")
        first.up = False
        await read.until(lambda: self.active(provider) == [False, True])
        await read.until(lambda: all(one.closed for one in first.providers if one.watched))
        await read.end()
        assert all(one.closed for one in (*first.providers, *second.providers))


class Answers(Check):
    """A probe that fails for the ports in `silent`."""

    name = "answers"

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[int] = set()

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        return endpoint.port not in self.silent, "connection refused"


class LeaseProvider(ManualProvider):
    """One whose registrations hang on leases, of which some live."""

    def __init__(self) -> None:
        super().__init__()
        self.living: set[int] = set()
        self.speechless = False
        self.asked = 0

    def lose(self, *rest: Instance, departures: tuple[Departure, ...]) -> None:
        services = {"users": rest} if rest else {}
        self._queue.put_nowait(Membership(services=services, departures=departures))

    async def expired(self, departure: Departure) -> bool | None:
        self.asked += 1
        return None if self.speechless else departure.lease not in self.living


@pytest.mark.drill
class TestMassLoss:
    settings = MassLossSettings(share=0.5, window=30.0, hold=600.0)
    both = (instance("a", port=1), instance("b", port=2))
    ends = (
        Departure(service="users", id="a", lease=1),
        Departure(service="users", id="b", lease=2),
    )

    async def test_lost_instances_that_answer_are_retained(self, reader: Read) -> None:
        inner, check = LeaseProvider(), Answers()
        events: list[str] = []
        provider = MassLossProvider(
            inner, self.settings, check=check, on_event=lambda kind, **_: events.append(kind)
        )
        read = reader(provider)
        inner.tell(*self.both)
        await read.until(lambda: read.ids() == "ab")
        check.silent = {2}
        inner.lose(departures=self.ends)
        await read.until(lambda: read.ids() == "a")
        assert [one.id for one in provider.status().retained] == ["a"]
        assert provider.status().retained_total == 2
        assert events == ["mass_loss", "hold_ended"]

    async def test_the_provider_that_takes_its_place_goes_on_with_those_that_are_retained(
        self, reader: Read
    ) -> None:
        inner, check = LeaseProvider(), Answers()
        first = MassLossProvider(inner, self.settings, check=check)
        read = reader(first)
        inner.tell(*self.both)
        await read.until(lambda: read.ids() == "ab")
        inner.lose(departures=self.ends)
        await read.until(lambda: len(first.status().retained) == 2)
        next_inner = LeaseProvider()
        around = SnapshotProvider(first, "unused")
        second = MassLossProvider(next_inner, self.settings, check=check, before=lambda: around)
        read = reader(second)
        next_inner.tell(instance("c", port=3))
        await read.until(lambda: read.ids() == "abc")
        assert second.status().retained_total == 2
        check.silent = {1}
        await read.until(lambda: read.ids() == "bc")

    async def test_an_instance_that_answers_requests_is_retained_although_it_takes_no_probe(
        self, reader: Read
    ) -> None:
        inner, check = LeaseProvider(), Answers()
        answered = {"a": 0, "b": 0}

        def answers(instance: Instance) -> int:
            answered["a"] += 1  # There is always a request to it.
            return answered[instance.id]

        provider = MassLossProvider(inner, self.settings, check=check, answers=answers)
        read = reader(provider)
        inner.tell(*self.both)
        await read.until(lambda: read.ids() == "ab")
        check.silent = {1, 2}
        inner.lose(departures=self.ends)
        await read.until(lambda: read.ids() == "a")
        assert [one.id for one in provider.status().retained] == ["a"]

    async def test_a_deletion_is_believed_as_soon_as_it_is_known_to_be_one(
        self, reader: Read
    ) -> None:
        inner = LeaseProvider()
        provider = MassLossProvider(inner, self.settings, check=Answers())
        read = reader(provider)
        inner.tell(*self.both)
        await read.until(lambda: read.ids() == "ab")
        inner.living = {1, 2}
        inner.lose(departures=self.ends)
        async with asyncio.timeout(0.5):
            await read.until(lambda: read.ids() == "")
        assert inner.asked == 2

    async def test_a_registry_that_cannot_say_is_asked_again(self, reader: Read) -> None:
        inner = LeaseProvider()
        provider = MassLossProvider(inner, self.settings, check=Answers())
        read = reader(provider)
        inner.tell(*self.both)
        await read.until(lambda: read.ids() == "ab")
        inner.speechless = True
        inner.living = {1, 2}
        inner.lose(departures=self.ends)
        await read.until(lambda: inner.asked >= 2)
        assert read.ids() == "ab"
        inner.speechless = False
        await read.until(lambda: read.ids() == "")

    async def test_a_fault_inside_is_passed_on(self) -> None:
        inner = LeaseProvider()
        provider = MassLossProvider(inner, self.settings, check=Answers())
        inner.fail(RuntimeError("a bug"))
        with pytest.raises(RuntimeError, match="a bug"):
            async for _ in provider.watch():
                pass
        assert inner.closed


class TestSnapshot:
    async def test_a_registry_that_answers_is_believed_and_remembered(
        self, reader: Read, tmp_path: Path
    ) -> None:
        path = tmp_path / "pools.json"
        save_snapshot(path, Membership(services={"users": (instance("old"),)}), 1.0)
        inner = ManualProvider()
        provider = SnapshotProvider(inner, str(path), wall_clock=lambda: 1000.0)
        read = reader(provider)
        inner.tell(instance("a"))
        await read.until(lambda: read.ids() == "a")

        def saved() -> str:
            found = SnapshotFile(str(path)).load()
            assert found is not None
            return "".join(one.id for one in found.membership.services["users"])

        await read.until(lambda: saved() == "a")
        assert read.count == 1
        snapshot = provider.status().snapshot
        assert snapshot is not None
        assert (snapshot.in_use, snapshot.error) == (False, None)

    async def test_without_an_answer_the_file_is_used_until_there_is_one(
        self, reader: Read, tmp_path: Path
    ) -> None:
        path = tmp_path / "pools.json"
        save_snapshot(path, Membership(services={"users": (instance("old"),)}), 900.0)
        inner = ManualProvider()
        events: list[tuple[str, float]] = []
        provider = SnapshotProvider(
            inner,
            str(path),
            wall_clock=lambda: 1000.0,
            on_event=lambda kind, **fields: events.append((kind, fields["age"])),
        )
        read = reader(provider)
        await read.until(lambda: read.ids() == "old")
        assert events == [("snapshot_used", 100.0)]
        status = provider.status()
        assert status.age == 100.0
        assert status.snapshot is not None
        assert status.snapshot.in_use
        inner.tell(instance("a"))
        await read.until(lambda: read.ids() == "a")
        snapshot = provider.status().snapshot
        assert snapshot is not None
        assert not snapshot.in_use

    async def test_the_file_is_not_used_where_something_newer_is_served(
        self, reader: Read, tmp_path: Path
    ) -> None:
        path = tmp_path / "pools.json"
        save_snapshot(path, Membership(services={"users": (instance("old"),)}), 900.0)
        asked: list[bool] = []
        inner = ManualProvider()
        inner.last_error = "refused"  # Or the file would have its time.
        provider = SnapshotProvider(inner, str(path), known=lambda: not asked.append(True))
        read = reader(provider)
        await read.until(lambda: bool(asked))
        inner.tell(instance("a"))
        await read.until(lambda: read.ids() == "a")
        assert read.count == 1

    async def test_a_damaged_file_is_ignored(self, reader: Read, tmp_path: Path) -> None:
        path = tmp_path / "pools.json"
        path.write_text("{}")
        inner = ManualProvider()
        provider = SnapshotProvider(inner, str(path))
        read = reader(provider)

        def error() -> str | None:
            snapshot = provider.status().snapshot
            return None if snapshot is None else snapshot.error

        await read.until(lambda: error() is not None)
        assert read.count == 0
        inner.tell(instance("a"))
        await read.until(lambda: read.ids() == "a")
        await read.until(lambda: error() is None)

    async def test_a_file_that_cannot_be_written_harms_nobody(
        self, reader: Read, tmp_path: Path
    ) -> None:
        inner = ManualProvider()
        provider = SnapshotProvider(inner, str(tmp_path / "nowhere" / "pools.json"))
        read = reader(provider)
        inner.tell(instance("a"))

        def failed() -> bool:
            snapshot = provider.status().snapshot
            return snapshot is not None and snapshot.failures > 0 and snapshot.error is not None

        await read.until(failed)
        assert read.ids() == "a"
