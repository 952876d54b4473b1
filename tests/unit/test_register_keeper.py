"""The keeper of registrations on stepped time, over registries of both kinds: one lease for all of
them, or a renewal for each. What is due and what is written are decided elsewhere, and tested
there; with real servers `tests/e2e/test_register.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.register.entry import Entry
from proxy.register.errors import InvalidRecord, RegistryRefused, RegistryUnavailable
from proxy.register.keeper import Keeper
from proxy.register.record import Health, Name, Record
from tests.support.loop_and_network import SteppedLoop
from tests.support.memory_registry import MemoryRegistry

TTL = 9.0
START = datetime(2026, 1, 1, tzinfo=UTC)
FOREIGN = b'{"address": "10.9.9.9", "port": 1}'


class Stepped:
    """A registry in memory, and the keepers of one process or of several."""

    def __init__(self, beats: bool) -> None:
        self.loop = SteppedLoop()
        self.registry = MemoryRegistry(self.loop.time, beats=beats)
        self.keepers: list[Keeper] = []

    def keeper(self, *urls: str) -> Keeper:
        found = [self.registry.backend(url) for url in urls or ("memory://a",)]
        self.keepers.append(Keeper(found, TTL, rng=random.Random(1), clock=self.loop.time))
        return self.keepers[-1]

    def run(self, work: Awaitable[object], seconds: float = 0.1) -> object:
        """The result of something that takes no longer."""

        async def wait() -> object:
            return await work

        task = self.loop.create_task(wait())
        self.advance(seconds)
        return task.result()

    def add(self, keeper: Keeper, *ids: str, port: int = 80) -> list[Entry]:
        records = [Record(service="users", id=i, address="10.0.0.1", port=port) for i in ids]
        entries = [Entry(record, record.value(START)) for record in records]

        async def add() -> None:
            keeper.add(entries, None)

        self.run(add())
        return entries

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def ids(self) -> str:
        self.registry.expire()
        return "".join(sorted(id_ for _, id_ in self.registry.names))

    def document(self, id_: str = "a") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.registry.names["users", id_].value)
        return found


@pytest.fixture(params=["one lease for all", "beats for each"])
def stepped(request: pytest.FixtureRequest) -> Iterator[Stepped]:
    stepped = Stepped(beats=request.param == "beats for each")
    yield stepped
    for keeper in stepped.keepers:
        stepped.run(keeper.stop(1.0))
    assert stepped.loop.failures == []


def test_added_entries_are_registered_and_stay_so(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    entries = stepped.add(keeper, *"abcdefg")  # more than one batch
    assert stepped.ids() == "abcdefg"
    for _ in range(100):
        stepped.advance(TTL / 3)
        assert stepped.ids() == "abcdefg"
        assert all(keeper.registered(entry) for entry in entries)
    assert keeper.connected


def test_a_store_that_forgot_everything_is_told_again(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    entries = stepped.add(keeper, *"abcd")
    stepped.registry.wipe()
    stepped.advance(TTL / 3 + 0.1)
    assert stepped.ids() == "abcd"
    assert all(keeper.registered(entry) for entry in entries)


def test_a_missing_record_is_put_back_as_it_was_last_stated(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    entry, _ = stepped.add(keeper, "a", "b")
    entry.report(Health("unhealthy", "disk full", START))
    keeper.wake()
    stepped.advance(0.1)
    assert stepped.document()["health"]["message"] == "disk full"
    stepped.registry.forget(("users", "a"))
    stepped.advance(TTL / 3 + 0.1)
    assert stepped.document()["health"]["message"] == "disk full"


def test_a_newer_process_with_the_same_id_wins_until_it_goes(stepped: Stepped) -> None:
    old, new = stepped.keeper(), stepped.keeper()
    [loser] = stepped.add(old, "a")
    stepped.add(new, "a", port=81)
    assert stepped.document()["port"] == 81
    stepped.advance(TTL)
    assert loser.taken
    assert not old.registered(loser)
    assert stepped.document()["port"] == 81
    stepped.run(new.stop(1.0))
    stepped.advance(TTL / 3)
    assert old.registered(loser)
    assert stepped.document()["port"] == 80


def test_an_outage_longer_than_the_lease_is_waited_out(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    [entry] = stepped.add(keeper, "a")
    stepped.registry.down = {"memory://a"}
    stepped.advance(3 * TTL)
    assert (keeper.connected, keeper.registered(entry)) == (False, False)
    assert keeper.last_error == "memory://a: no answer"
    entry.report(Health("unhealthy", "said in the dark", START))
    keeper.wake()
    stepped.registry.down.clear()
    stepped.advance(TTL / 3)
    assert keeper.registered(entry)
    assert stepped.document()["health"]["message"] == "said in the dark"


@pytest.mark.parametrize("urls", ["a", "abc"])
def test_an_entry_is_written_within_a_second_after_five_minutes_of_silence(
    stepped: Stepped, urls: str
) -> None:
    members = {f"memory://{one}" for one in urls}
    keeper = stepped.keeper(*members)
    stepped.add(keeper, "a")
    for number in range(20):
        stepped.registry.down = set(members)
        stepped.advance(300.0 + number * 0.1)
        assert stepped.ids() == ""
        stepped.registry.down = members - {f"memory://{urls[number % len(urls)]}"}
        stepped.advance(1.0)
        assert stepped.ids() == "a"


def test_another_endpoint_is_used_at_once_when_one_fails(stepped: Stepped) -> None:
    keeper = stepped.keeper("memory://a", "memory://b")
    [entry] = stepped.add(keeper, "a")
    lease, first = keeper.lease, keeper.backend.url
    stepped.registry.down = {first}
    stepped.advance(TTL / 3 + 0.1)
    assert keeper.backend.url != first
    assert (keeper.connected, keeper.lease) == (True, lease)
    assert keeper.registered(entry)


def test_only_a_refusal_of_all_endpoints_is_final(stepped: Stepped) -> None:
    keeper = stepped.keeper("memory://a", "memory://b")
    stepped.registry.refuses = True
    stepped.registry.down = {"memory://a"}
    [entry] = stepped.add(keeper, "a")
    stepped.advance(1.0)
    failure = keeper.failure(1.0)
    assert isinstance(failure, RegistryUnavailable)
    assert "memory://a: no answer" in str(failure)
    assert "memory://b: not you" in str(failure)
    stepped.registry.down.clear()
    stepped.advance(TTL)
    failure = keeper.failure(1.0)
    assert isinstance(failure, RegistryRefused)
    assert "not you" in str(failure)
    assert keeper.backend.remedy in str(failure)
    stepped.registry.refuses = False
    stepped.advance(TTL)
    assert keeper.registered(entry)


def test_a_stop_takes_its_own_along_and_nobody_elses(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    stepped.add(keeper, *"abcd")
    stepped.registry.put(("users", "b"), FOREIGN, lease=0)  # by hand, without the lease
    stepped.registry.put(("users", "x"), FOREIGN, lease=0)
    stepped.run(keeper.stop(1.0))
    assert stepped.ids() == "x"


def test_a_removed_entry_goes_and_the_rest_stays(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    first, *_ = stepped.add(keeper, *"abcd")
    stepped.run(keeper.remove([first], 1.0))
    assert stepped.ids() == "bcd"
    stepped.advance(TTL)
    assert stepped.ids() == "bcd"


def test_the_same_name_is_not_kept_twice(stepped: Stepped) -> None:
    keeper = stepped.keeper()
    stepped.add(keeper, "a")
    with pytest.raises(InvalidRecord, match="users/a: is registered here already"):
        stepped.add(keeper, "b", "a")


def test_a_name_that_others_keep_writing_holds_up_no_other(stepped: Stepped) -> None:
    contested: Name = ("users", "b")
    stepped.registry.on_write = lambda: stepped.registry.put(contested, FOREIGN, lease=0)
    keeper = stepped.keeper()
    entries = stepped.add(keeper, *"abc")
    stepped.advance(0.1)
    assert [keeper.registered(entry) for entry in entries] == [True, False, True]
