"""Pages of names that Nacos tells."""

from __future__ import annotations

import msgspec
import pytest

from proxy.registry.base import RegistryError
from proxy.registry.nacos.member import MOST_PAGES, PAGE, every_name


def page(count: int, *names: str) -> bytes:
    return msgspec.json.encode({"count": count, "doms": names})


async def test_names_are_asked_for_until_there_are_all() -> None:
    pages = {1: page(3, "a", "b"), 2: page(3, "c")}
    asked: list[int] = []

    async def ask(number: int) -> bytes:
        asked.append(number)
        return pages[number]

    assert await every_name(ask) == ["a", "b", "c"]
    assert asked == [1, 2]


async def test_names_without_end_are_an_error() -> None:
    asked = 0

    async def ask(number: int) -> bytes:
        nonlocal asked
        asked += 1
        return page(10**9, f"s{number}")

    with pytest.raises(RegistryError, match="more than 100,000 services"):
        await every_name(ask)
    assert asked == MOST_PAGES
    assert MOST_PAGES * PAGE == 100_000
