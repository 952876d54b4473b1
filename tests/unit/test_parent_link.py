"""The parent process, as a control process knows it. The other end of the pair is the test's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from proxy import packets
from proxy.control.parent_link import ParentLink

Pair = tuple[ParentLink, socket.socket]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = packets.pair()
    link = ParentLink(ours.detach())
    link.listen()
    with theirs:
        yield link, theirs
    link.close()


async def test_the_asker_of_an_upgrade_gets_the_answer_to_that_one(pair: Pair) -> None:
    link, parent = pair
    first, second, third = (asyncio.ensure_future(link.upgrade("")) for _ in range(3))
    await asyncio.sleep(0)
    numbers = []
    for _ in range(3):
        found = packets.receive(parent)
        assert found is not None
        numbers.append(found[0]["upgrade"])
    second.cancel()
    packets.send(parent, {"upgraded": False, "asked": numbers[1], "reason": "under way"})
    packets.send(parent, {"upgraded": False, "asked": numbers[2], "reason": "under way"})
    packets.send(parent, {"upgraded": True, "asked": numbers[0]})
    assert await asyncio.wait_for(third, 10) == "under way"
    assert await asyncio.wait_for(first, 10) == ""


async def test_the_askers_of_an_upgrade_hear_that_the_parent_is_gone(pair: Pair) -> None:
    link, parent = pair
    asked = [asyncio.ensure_future(link.upgrade("")) for _ in range(2)]
    await asyncio.sleep(0)
    parent.close()
    assert await asyncio.wait_for(asyncio.gather(*asked), 10) == ["the parent process is gone"] * 2
    assert link.gone.is_set()
