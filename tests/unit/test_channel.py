"""The channel over a real socket pair: order, ends, and peers that misbehave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from proxy.channel import (
    AT_A_TIME,
    AT_ONCE,
    Channel,
    ChannelError,
    Framing,
    frame,
    receive_sockets,
    send_sockets,
)
from proxy.messages import (
    Accept,
    Applied,
    Collect,
    Drain,
    FromWorker,
    Hello,
    PoolNode,
    Pools,
    PoolSnapshot,
    ToWorker,
)


def test_sockets_travel_with_their_numbers() -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    theirs.setblocking(False)
    count = AT_A_TIME + 50
    with ours, theirs, socket.socket() as sock:
        with pytest.raises(BlockingIOError):
            receive_sockets(theirs)
        sock.bind(("127.0.0.1", 0))
        send_sockets(ours, dict.fromkeys(range(7, 7 + count), sock))
        found = {**receive_sockets(theirs), **receive_sockets(theirs)}
        assert list(found) == list(range(7, 7 + count))
        assert {one.getsockname() for one in found.values()} == {sock.getsockname()}
        for one in found.values():
            assert not one.get_inheritable()
            one.close()


class End:
    """One end that records what happens to it."""

    def __init__(self, receives: Any, **limits: int) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.channel: Channel[Any] = Channel(
            receives, self.messages.put_nowait, self.closed.set_result, **limits
        )

    async def next(self) -> Any:
        return await asyncio.wait_for(self.messages.get(), 5)

    async def reason(self) -> Exception | None:
        return await asyncio.wait_for(self.closed, 5)


@asynccontextmanager
async def pair(**limits: int) -> AsyncIterator[tuple[End, End]]:
    ours, theirs = socket.socketpair()
    control, worker = End(FromWorker, **limits), End(ToWorker)
    await control.channel.open(ours)
    await worker.channel.open(theirs)
    try:
        yield control, worker
    finally:
        for end in (control, worker):
            end.channel.close()
            await end.reason()


async def test_thousands_of_messages_leave_others_their_turn() -> None:
    async with pair() as (control, worker):
        for number in range(20 * AT_ONCE):
            control.channel.send(Collect(number=number))
        received: list[int] = []
        while len(received) < 20 * AT_ONCE:
            await asyncio.sleep(0)
            waiting = worker.messages.qsize()
            assert waiting <= AT_ONCE
            received += [worker.messages.get_nowait().number for _ in range(waiting)]
        assert received == list(range(20 * AT_ONCE))


async def test_messages_sent_before_the_end_arrive_before_it() -> None:
    ours, theirs = socket.socketpair()
    worker = End(ToWorker)
    encode = msgspec.msgpack.encode
    ours.sendall(b"".join(frame(encode(Collect(number=n))) for n in range(10 * AT_ONCE)))
    ours.close()
    await worker.channel.open(theirs)
    assert await worker.reason() is None
    assert worker.messages.qsize() == 10 * AT_ONCE


async def test_messages_arrive_in_order_and_whole() -> None:
    snapshot = PoolSnapshot(
        "users", 3, (PoolNode("a@10.0.0.1:80", "a", "10.0.0.1", 80, 2, "ready", 7),), panic=True
    )
    sent: list[Any] = [Pools(seq=1, snapshots=(snapshot,), complete=True), Accept(), Drain(2.5)]
    async with pair() as (control, worker):
        for message in sent:
            control.channel.send(message)
        worker.channel.send(Hello(pid=42))
        assert [await worker.next() for _ in sent] == sent
        assert await control.next() == Hello(pid=42)


async def test_a_frame_larger_than_the_socket_buffer_arrives() -> None:
    nodes = tuple(
        PoolNode(f"i{n}@10.0.0.1:{n}", f"i{n}", "10.0.0.1", n, 1, "ready", n)
        for n in range(1, 20_000)
    )
    message = Pools(seq=9, snapshots=(PoolSnapshot("big", 1, nodes),))
    async with pair() as (control, worker):
        control.channel.send(message)
        assert await worker.next() == message


async def test_a_close_reaches_both_ends() -> None:
    async with pair() as (control, worker):
        worker.channel.send(Applied(seq=1))
        worker.channel.close()
        assert await control.next() == Applied(seq=1)
        assert await control.reason() is None
        assert await worker.reason() is None
        assert control.channel.closed
        control.channel.send(Accept())  # It is dropped.


async def test_a_peer_that_does_not_read_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    end = End(FromWorker, max_unsent=100_000)
    await end.channel.open(ours)
    with theirs:
        while not end.channel.closed:
            end.channel.send(Pools(seq=1, removed=("x" * 50_000,)))
        reason = await end.reason()
    assert isinstance(reason, ChannelError)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (frame(b"\xc1"), "not a message"),
        (frame(b"\x81\xa4type\xa5Other"), "not a message"),
        (b"\xff\xff\xff\xff", "at most"),
    ],
)
async def test_bytes_that_are_no_message_close_the_channel(raw: bytes, words: str) -> None:
    ours, theirs = socket.socketpair()
    end = End(FromWorker)
    await end.channel.open(ours)
    with theirs:
        theirs.sendall(raw)
        reason = await end.reason()
    assert isinstance(reason, ChannelError)
    assert words in str(reason)


async def test_an_end_inside_a_frame_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    end = End(FromWorker)
    await end.channel.open(ours)
    theirs.sendall(frame(b"abcdef")[:-1])
    theirs.close()
    assert isinstance(await end.reason(), ChannelError)
    assert end.messages.empty()


async def test_a_channel_its_callback_closed_delivers_nothing_more() -> None:
    ours, theirs = socket.socketpair()
    async with asyncio.timeout(5):
        seen: list[Any] = []
        done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def on_message(message: Any) -> None:
            seen.append(message)
            channel.close()

        channel: Channel[Any] = Channel(FromWorker, on_message, done.set_result)
        peer = End(ToWorker)
        await peer.channel.open(theirs)
        peer.channel.send(Hello(pid=1))
        peer.channel.send(Hello(pid=2))
        await channel.open(ours)
        assert await done is None
        assert seen == [Hello(pid=1)]
        await peer.reason()


def test_a_message_over_the_limit_is_refused_by_its_sender() -> None:
    with pytest.raises(ChannelError, match=r"\b11\b.*\b10\b"):
        frame(b"x" * 11, max_frame=10)


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    framing = Framing(max_frame=10)
    with pytest.raises(ChannelError, match=r"\b11\b"):
        framing.feed(b"\0\0\0\x0b")
