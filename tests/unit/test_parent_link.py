"""The parent process, as a control process knows it. The other end of the pair is the test's."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from proxy import packets
from proxy.control.parent_link import ParentLink
from proxy.succession import Parent, release

Pair = tuple[ParentLink, socket.socket]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = packets.pair()
    link = ParentLink(ours.detach())
    packets.send(theirs, {"begin": False, "echoes": True})
    link.begin()
    link.listen()
    with theirs:
        yield link, theirs
    link.close()


async def test_many_sockets_are_held_from_one_control_process_to_the_next() -> None:
    """There are more than 128 of one listener, and more listeners than messages may wait."""
    ends: list[socket.socket] = []

    def spawn(descriptor: int, environ: object) -> int:
        ends.append(socket.socket(fileno=socket.dup(descriptor)))
        return len(ends)

    parent = Parent(spawn, {}, lambda pid, number: None)
    parent.start()
    first = ParentLink(ends[0].detach())
    first.begin()
    with ExitStack() as stack:
        made = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        wide = [stack.enter_context(made.dup()) for _ in range(150)]
        first.hold("listener", "wide", "w", wide)
        for number in range(600):
            first.hold("listener", f"l{number}", "b", [made])
            for control in parent.links().values():
                parent.on_message(control)
        first.ready()
        for _ in range(3):
            parent.on_message(*parent.links().values())
        parent.on_signal(signal.SIGUSR2)
        second = ParentLink(ends[1].detach())
        second.begin()
        for held in second.held:
            for sock in held.sockets:
                stack.enter_context(sock)
        assert [(one.name, len(one.sockets)) for one in second.held] == [
            ("wide", 150),
            *((f"l{number}", 1) for number in range(600)),
        ]
        assert second.state is not None
        second.state.close()
    for one in (first, second, *parent.links()):
        one.close()
    for control in (parent.serving, parent.successor):
        assert control is not None
        release(control.held)


async def test_a_parent_that_has_yet_to_read_is_waited_for(pair: Pair) -> None:
    link, parent = pair
    sent = 0
    with socket.socket(fileno=socket.dup(link._end.fileno())) as end, suppress(BlockingIOError):
        for _ in range(10_000):
            packets.send(end, {"x": 1})
            sent += 1

    def read() -> dict[str, Any] | None:
        for _ in range(sent + 1):
            packets.readable([parent], 10.0)
            found = packets.receive(parent)
        return found and found[0]

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    link.ready()
    assert await reading == {"ready": True}


async def test_a_listener_that_is_gone_is_let_go_before_its_address_is_asked_for_again(
    pair: Pair,
) -> None:
    link, parent = pair
    with socket.create_server(("127.0.0.1", 0)) as made:
        link.hold("listener", "more", "b", [made])
        settled = asyncio.ensure_future(link.settled())
        await asyncio.sleep(0)
        for _ in range(2):
            found = packets.receive(parent)
            assert found is not None
            assert not settled.done()
            packets.close(found[1])
        packets.send(parent, found[0])
        await asyncio.wait_for(settled, 10)


async def test_a_parent_that_is_gone_is_not_waited_for(pair: Pair) -> None:
    link, parent = pair
    settled = asyncio.ensure_future(link.settled())
    await asyncio.sleep(0)
    parent.close()
    await asyncio.wait_for(settled, 10)
    await link.settled()


async def test_a_parent_of_a_version_before_is_not_waited_for() -> None:
    ours, theirs = packets.pair()
    link = ParentLink(ours.detach())
    with theirs:
        packets.send(theirs, {"begin": False})
        link.begin()
        link.listen()
        asking = asyncio.ensure_future(link.settled())
        await asyncio.sleep(0)
        assert asking.done()
        assert not packets.readable([theirs], 0.0)
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
