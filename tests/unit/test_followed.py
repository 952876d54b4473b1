"""How a registry is followed, on stepped time: outages, doubts, full comparisons, bursts. What a
session with a certain registry is like is tested with that registry."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest

from proxy.membership import Instance, Membership
from proxy.registry.base import Refused, RegistryError
from proxy.registry.followed import Followed, Resync, Timing, first_to_end
from proxy.registry.roster import Roster, single
from proxy.registry.rotation import ROUND
from tests.support.loop_and_network import START, SteppedLoop

T = TypeVar("T")

TIMING = Timing()
HANGS = RegistryError("hangs")


class Member:
    """One endpoint of a store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fault: Exception | None = None
        """What a question to it raises."""
        self.disconnected = 0

    async def disconnect(self) -> None:
        self.disconnected += 1


def read(key: bytes, value: bytes) -> tuple[Instance, str]:
    return Instance(service="users", id=key.decode(), address="10.0.0.1", port=int(value)), ""


class StoreProvider(Followed[Member]):
    """Follows a store in memory that says every change at once, unless it is `silent`."""

    name = "stepped"

    def __init__(self, loop: SteppedLoop, *urls: str) -> None:
        self.members = [Member(url) for url in urls]
        super().__init__(
            self.members,
            Roster(single(read), lambda key: "users"),
            rng=random.Random(1),
            clock=loop.time,
        )
        self.loop = loop
        self.store: dict[bytes, bytes] = {}
        self.silent = False
        self.ends: Exception | None = None
        """How each new session ends once it is proved."""
        self.doubts: list[Resync] = []
        """What the next questions find."""
        self.doubted: list[float] = []
        self.went_back = False
        self.lists: list[float] = []
        self.comparisons = 0
        self._news = asyncio.Event()

    def put(self, key: str, port: int = 80) -> None:
        self.store[key.encode()] = b"%d" % port
        self._news.set()

    async def _session(self, connection: Member) -> None:
        await self._ask(connection)
        if self._list_for is not None:
            self.lists.append(self.loop.time() - START)
            entries = {key: self._roster.entry(key, value) for key, value in self.store.items()}
            adopt = partial(self._roster.replace, entries, 0, retain=self.went_back)
            self._listed(connection, self._list_for, adopt)
        await first_to_end(self._follow(), self._supervise(connection))

    async def _follow(self) -> None:
        if self.ends is not None:
            await asyncio.sleep(0.01)
            raise self.ends
        while True:
            await self._news.wait()
            self._news.clear()
            for key, value in self.store.items():
                if not self.silent:
                    self._roster.put(self._roster.entry(key, value))
            self._changed.set()

    async def _ask(self, connection: Member) -> None:
        if connection.fault is HANGS:
            await self.loop.create_future()
        if connection.fault is not None:
            raise connection.fault
        self._heard()

    async def _confirm(self, connection: Member) -> None:
        await self._ask(connection)
        if self.doubts:
            self.doubted.append(self.loop.time() - START)
            raise self.doubts.pop(0)

    async def _compare(self, connection: Member) -> set[tuple[bytes, bytes]]:
        self.comparisons += 1
        known = {key: b"%d" % port for key, port in self.known().items()}
        return set(self.store.items()) - set(known.items())

    def known(self) -> dict[bytes, int]:
        services = self._roster.membership().services
        return {one.id.encode(): one.port for one in services.get("users", ())}


class Stepped:
    """A provider that is watched, and all it yielded."""

    def __init__(self, *urls: str) -> None:
        self.loop = SteppedLoop()
        self.provider = StoreProvider(self.loop, *urls or ("a",))
        self.memberships: list[Membership] = []
        self.task = self.loop.create_task(self._read())

    async def _read(self) -> None:
        async for membership in self.provider.watch():
            self.memberships.append(membership)

    def tallies(self) -> tuple[int, int, int]:
        """Sessions, times that it was found, errors."""
        told = self.provider.status()
        return told.sessions, told.connects, told.errors

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def comes_up(self) -> None:
        self.provider.put("1")
        self.advance(1.0)
        assert self.connected
        assert self.ids() == "1"

    @property
    def connected(self) -> bool:
        return self.provider.status().connected

    def ids(self) -> str:
        services = self.memberships[-1].services if self.memberships else {}
        return "".join(one.id for one in services.get("users", ()))

    def resyncs(self) -> dict[str, int]:
        return dict(self.provider.status().resyncs)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of something that takes a second at most."""
        task = self.loop.create_task(work)
        self.advance(1.0)
        return task.result()


@pytest.fixture
def make() -> Iterator[Callable[..., Stepped]]:
    made: list[Stepped] = []

    def one(*urls: str) -> Stepped:
        made.append(Stepped(*urls))
        return made[-1]

    yield one
    for stepped in made:
        stepped.run(stepped.provider.close())
        assert stepped.task.done()
        assert stepped.loop.failures == []


Make = Callable[..., Stepped]


def test_an_outage_changes_nothing_and_needs_no_list_afterwards(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    [member] = stepped.provider.members
    member.fault = RegistryError("refused")
    stepped.advance(60.0)
    assert not stepped.connected
    assert stepped.provider.status().last_error == "a: refused"
    assert len(stepped.memberships) == 1
    # It is tried on, and no faster than it may be.
    assert 60 / ROUND < member.disconnected < 4 * 60 / ROUND
    member.fault = None
    stepped.advance(ROUND)
    assert stepped.connected
    assert stepped.provider.status().last_error is None
    assert (stepped.resyncs(), len(stepped.provider.lists)) == ({}, 1)
    assert len(stepped.memberships) == 1
    # Each attempt is a session, which ends by an error until one does not.
    assert stepped.tallies() == (member.disconnected + 1, 2, member.disconnected)


@pytest.mark.parametrize("urls", ["a", "abc"])
def test_a_change_is_known_within_a_second_after_five_minutes_of_silence(
    make: Make, urls: str
) -> None:
    stepped = make(*urls)
    stepped.comes_up()
    for number in range(20):
        for member in stepped.provider.members:
            member.fault = RegistryError("refused")
        stepped.advance(300.0 + number * 0.1)
        assert not stepped.connected
        stepped.provider.members[number % len(urls)].fault = None
        stepped.provider.put(f"x{number}")
        stepped.advance(ROUND + TIMING.coalesce)
        assert f"x{number}" in stepped.ids()


def test_a_registry_that_answers_and_refuses_is_asked_ever_more_rarely(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    [member] = stepped.provider.members
    member.fault = Refused("not you")
    stepped.advance(60.0)
    assert 12 <= member.disconnected < 60


def test_after_an_outage_everything_is_compared_soon(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    [member] = stepped.provider.members
    member.fault = RegistryError("refused")
    stepped.advance(10.0)
    member.fault = None
    compared = stepped.provider.comparisons
    stepped.advance(TIMING.backoff_limit + TIMING.recheck)
    assert stepped.provider.comparisons == compared + 1


def test_another_connection_is_used_when_one_fails(make: Make) -> None:
    stepped = make("a", "b")
    stepped.comes_up()
    first = stepped.provider.status().endpoint
    for member in stepped.provider.members:
        if member.url == first:
            member.fault = RegistryError("refused")
    stepped.advance(TIMING.probe * 1.1 + 1)
    assert stepped.connected
    assert stepped.provider.status().endpoint != first


def test_a_fault_of_our_own_ends_in_a_list_and_not_in_silence(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    [member] = stepped.provider.members
    member.fault = ZeroDivisionError("a bug")
    stepped.advance(TIMING.probe * 1.1)
    assert stepped.ids() == "1"
    assert stepped.provider.status().last_error == "a: a bug"
    member.fault = None
    stepped.provider.put("2")
    stepped.advance(TIMING.backoff_limit)
    assert stepped.resyncs() == {"fault": 1}
    assert stepped.ids() == "12"


def test_a_doubt_is_answered_by_a_list_at_once(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.lists.clear()
    for number in (1, 2):
        stepped.provider.doubts = [Resync("behind")]
        stepped.advance(2 * TIMING.probe)
        assert len(stepped.provider.lists) == number
    assert stepped.provider.lists == stepped.provider.doubted
    assert stepped.connected
    assert stepped.resyncs() == {"behind": 2}


def test_a_doubt_about_a_member_is_asked_of_another_one_which_the_status_names(make: Make) -> None:
    stepped = make("a", "b")
    stepped.comes_up()
    first = stepped.provider.status().endpoint
    stepped.provider.doubts = [Resync("canceled", elsewhere=True)]
    stepped.advance(TIMING.probe * 1.1 + 1)
    assert stepped.connected
    assert stepped.provider.status().endpoint not in (first, None)


def test_doubts_that_a_list_does_not_end_are_followed_by_pauses(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.lists.clear()
    stepped.provider.doubts = [Resync("behind")] * 100
    stepped.advance(TIMING.probe * 1.1 + 20.0)
    lists, doubted = stepped.provider.lists, stepped.provider.doubted
    assert 5 <= len(lists) <= 25
    assert lists[0] == doubted[0]
    assert all(at > before for at, before in zip(lists[1:], doubted[1:], strict=False))


def test_a_registry_that_proves_itself_and_cannot_go_on_is_not_listed_without_end(
    make: Make,
) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.lists.clear()
    stepped.provider.ends = Resync("gone")
    stepped.provider.doubts = [Resync("gone")]
    stepped.advance(TIMING.probe * 1.1 + 20.0)
    lists = stepped.provider.lists
    assert 15 <= len(lists) <= 22 / TIMING.relist
    stepped.provider.ends = None
    stepped.provider.put("2")
    stepped.advance(2 * TIMING.relist)
    assert stepped.connected
    assert stepped.ids() == "12"


def test_a_registry_that_proves_itself_and_may_not_be_followed_is_asked_ever_more_rarely(
    make: Make,
) -> None:
    stepped = make()
    stepped.comes_up()
    sessions = stepped.tallies()[0]
    stepped.provider.ends = Refused("not you")
    stepped.provider.doubts = [Resync("behind")]
    stepped.advance(TIMING.probe * 1.1 + 60.0)
    assert 12 <= stepped.tallies()[0] - sessions < 60
    stepped.provider.ends = None
    stepped.advance(TIMING.backoff_limit)
    assert stepped.connected


def test_a_difference_that_two_comparisons_find_is_counted_and_mended(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.silent = True
    stepped.provider.put("2")
    stepped.advance(TIMING.reconcile * 1.2 + TIMING.probe)
    assert stepped.resyncs() == {"reconcile": 1}
    assert stepped.provider.status().differences == 1
    assert stepped.ids() == "12"


def test_a_difference_that_is_gone_a_moment_later_is_none(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.silent = True
    stepped.provider.put("2")
    while stepped.provider.comparisons == 0:
        stepped.advance(0.1)
    stepped.provider.silent = False
    stepped.provider.put("2")
    stepped.advance(TIMING.catch_up + TIMING.probe)
    assert stepped.provider.comparisons == 2
    assert (stepped.resyncs(), stepped.provider.status().differences) == ({}, 0)


def test_instances_that_a_registry_which_went_back_lacks_are_retained_for_the_hold(
    make: Make,
) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.store = {b"2": b"80"}
    stepped.provider.went_back = True
    stepped.provider.doubts = [Resync("store_went_back")]
    while stepped.ids() == "1":
        stepped.advance(0.1)
    assert stepped.ids() == "12"
    stepped.advance(TIMING.hold - 0.2)
    assert stepped.ids() == "12"
    stepped.advance(0.3)
    assert stepped.ids() == "2"


def test_the_retained_are_let_go_only_after_a_proof(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.provider.store.clear()
    stepped.provider.went_back = True
    stepped.provider.doubts = [Resync("store_went_back")]
    while not stepped.resyncs():
        stepped.advance(0.1)
    [member] = stepped.provider.members
    member.fault = RegistryError("refused")
    stepped.advance(10 * TIMING.hold)
    assert stepped.ids() == "1"
    member.fault = None
    stepped.advance(TIMING.backoff_limit)
    assert stepped.ids() == ""


def test_a_burst_is_a_few_memberships_and_a_single_change_goes_out_at_once(make: Make) -> None:
    stepped = make()
    stepped.comes_up()
    stepped.memberships.clear()
    stepped.provider.put("2")
    stepped.advance(0.0)
    assert stepped.ids() == "12"
    for number in range(100):
        stepped.provider.put(f"x{number}")
        stepped.advance(0.01)
    assert len(stepped.memberships) <= 2 + 1.0 / TIMING.coalesce
    stepped.advance(TIMING.coalesce)
    assert len(stepped.memberships[-1].services["users"]) == 102


def test_a_registry_lives_if_one_member_answers_whatever_the_others_do(make: Make) -> None:
    stepped = make("a", "b", "c")
    one, two, three = stepped.provider.members
    one.fault, two.fault = HANGS, RegistryError("refused")
    assert stepped.run(stepped.provider.alive()) is True
    three.fault = RegistryError("refused")
    one.fault = RegistryError("refused")
    assert stepped.run(stepped.provider.alive()) is False
