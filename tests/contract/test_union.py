"""Several registries at once, as one provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.registry.decorators.union_provider import UnionProvider
from proxy.settings.registry import NamedRegistry
from proxy.statuses import InvalidRecord, RegistryStatus
from tests.support.manual_provider import ManualOptions, ManualProvider, instance
from tests.support.processes import eventually

PARTS = [
    NamedRegistry(name=name, type="manual", options=ManualOptions(endpoints=(f"http://{name}:1",)))
    for name in ("old", "new")
]


class Watched:
    """A union of two registries, and what it said."""

    def __init__(self, patience: float, before: Callable[[], Provider | None]) -> None:
        self.manual: dict[str, ManualProvider] = {}
        self.provider = UnionProvider(PARTS, self._make, before=before, patience=patience)
        self.memberships: list[Membership] = []
        self.task = asyncio.create_task(self._read())

    def _make(self, part: NamedRegistry, before: Callable[[], Provider | None]) -> Provider:
        self.manual[part.name] = ManualProvider()
        return self.manual[part.name]

    async def _read(self) -> None:
        async for membership in self.provider.watch():
            self.memberships.append(membership)

    def ids(self) -> str:
        services = self.memberships[-1].services if self.memberships else {}
        return "".join(one.id for one in services.get("users", ()))


@pytest.fixture
async def watched() -> AsyncIterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def one(
        patience: float = 60.0, before: Callable[[], Provider | None] = lambda: None
    ) -> Watched:
        made.append(Watched(patience, before))
        return made[-1]

    yield one
    for each in made:
        await each.provider.close()
        await each.task
        assert all(one.closed for one in each.manual.values())
    assert asyncio.all_tasks() == {asyncio.current_task()}


Make = Callable[..., Watched]


async def test_all_registries_are_waited_for_and_then_each_speaks_for_itself(watched: Make) -> None:
    union = watched()
    union.manual["old"].tell(instance("a", port=1))
    await eventually(lambda: union.manual["old"].age is not None)
    assert union.memberships == []
    union.manual["new"].tell(instance("b", port=2))
    await eventually(lambda: union.ids() == "ab")
    union.manual["old"].tell()
    await eventually(lambda: union.ids() == "b")
    assert len(union.memberships) == 2


async def test_a_registry_that_is_down_at_the_start_holds_up_the_others_for_a_while(
    watched: Make,
) -> None:
    union = watched(patience=0.01)
    union.manual["old"].tell(instance("a", port=1))
    await eventually(lambda: union.ids() == "a")
    union.manual["new"].tell(instance("b", port=2))
    await eventually(lambda: union.ids() == "ab")


async def test_silence_of_all_registries_tells_nothing(watched: Make) -> None:
    union = watched(patience=0.0)
    await eventually(lambda: not union.provider._waits)
    assert union.memberships == []
    union.manual["old"].tell(instance("a"))
    await eventually(lambda: union.ids() == "a")


async def test_a_union_that_takes_the_place_of_another_knows_what_that_knew(watched: Make) -> None:
    first = watched()
    first.manual["old"].tell(instance("a", port=1))
    first.manual["new"].tell(instance("b", port=2))
    await eventually(lambda: first.ids() == "ab")
    second = watched(before=lambda: first.provider)
    second.manual["old"].tell(instance("c", port=3))
    await eventually(lambda: second.ids() == "bc")
    second.manual["new"].tell()
    await eventually(lambda: second.ids() == "c")


async def test_a_union_that_takes_the_place_of_a_single_registry_waits_until_all_are_known(
    watched: Make,
) -> None:
    single = ManualProvider()
    union = watched(patience=0.0, before=lambda: single)
    union.manual["old"].tell(instance("a", port=1))
    await eventually(lambda: union.manual["old"].age is not None and not union.provider._waits)
    assert union.memberships == []
    union.manual["new"].tell(instance("b", port=2))
    await eventually(lambda: union.ids() == "ab")


async def test_the_status_tells_of_each_registry(watched: Make) -> None:
    union = watched()

    def status() -> RegistryStatus:
        return RegistryStatus(
            provider="manual",
            connected=False,
            last_error="refused",
            resyncs={"empty": 2},
            invalid=(InvalidRecord(key="users/x", reason="no port", kept=False),),
        )

    union.manual["old"].tell(instance("a"))
    union.manual["new"].tell()
    await eventually(lambda: union.ids() == "a")
    union.manual["new"].status = status  # type: ignore[method-assign]
    told = union.provider.status()
    assert (told.provider, told.connected, told.instances) == ("merged", False, 1)
    assert told.last_error == "new: refused"
    assert dict(told.formats) == {"old": 1}
    assert dict(told.resyncs) == {"empty": 2}
    assert [one.key for one in told.invalid] == ["new: users/x"]
    assert [(one.name, one.endpoints, one.active, one.alive) for one in told.sources] == [
        ("old", ("http://old:1",), True, True),
        ("new", ("http://new:1",), True, False),
    ]
    assert {name: (one.connected, one.instances) for name, one in told.parts.items()} == {
        "old": (True, 0),
        "new": (False, 0),
    }
    assert await union.provider.alive()


async def test_a_fault_inside_is_passed_on(watched: Make) -> None:
    provider = UnionProvider(PARTS, lambda part, before: failing())
    with pytest.raises(RuntimeError, match="a bug"):
        async for _ in provider.watch():
            pass


def failing() -> Provider:
    one = ManualProvider()
    one.fail(RuntimeError("a bug"))
    return one
