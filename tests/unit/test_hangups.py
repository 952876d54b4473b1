"""The second poller, over real sockets: what the kernel says of a peer that nobody reads."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any, cast

import pytest

from proxy.engine.hangups import ENDED, RESET, Hangups, Watch, has_ended


class Loop:
    """An event loop as far as `Hangups` asks for it, turned by hand."""

    def __init__(self) -> None:
        self.readers: dict[int, Any] = {}
        self.ready: list[Any] = []

    def add_reader(self, fd: int, callback: Any) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_soon(self, callback: Any) -> None:
        self.ready.append(callback)

    def turn(self) -> int:
        """Callbacks that were run."""
        for reader in list(self.readers.values()):
            reader()
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()
        return len(ready)


class Transport:
    """A connection as far as `Hangups` asks for it."""

    def __init__(self, sock: socket.socket | None) -> None:
        self.sock = sock

    def get_extra_info(self, name: str) -> socket.socket | None:
        assert name == "socket"
        return self.sock

    def is_closing(self) -> bool:
        return False


class Bench:
    """Owns a poller and the connections made for it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.hangups = Hangups(cast(asyncio.AbstractEventLoop, self.loop))
        self.sockets: list[socket.socket] = []
        self.calls: list[int] = []
        self._server = socket.create_server(("127.0.0.1", 0))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Ours and the peer's."""
        peer = socket.create_connection(self._server.getsockname())
        ours, _ = self._server.accept()
        self.sockets += [ours, peer]
        return ours, peer

    def watch(self, sock: socket.socket | None) -> Watch | None:
        number = len(self.calls)
        self.calls.append(0)

        def call() -> None:
            self.calls[number] += 1

        return self.hangups.watch(cast(asyncio.Transport, Transport(sock)), call)

    def close(self) -> None:
        self.hangups.close()
        for sock in (*self.sockets, self._server):
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def watched(bench: Bench, sock: socket.socket) -> Watch:
    watch = bench.watch(sock)
    assert watch is not None
    return watch


def hang_up(peer: socket.socket, how: str) -> None:
    if how == "reset":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    else:
        peer.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("unread", [b"", b"x" * 1000])
@pytest.mark.parametrize("before", [False, True], ids=["watched before", "watched after"])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_peer_that_hangs_up_is_heard_once(
    bench: Bench, how: str, before: bool, unread: bytes
) -> None:
    ours, peer = bench.pair()
    peer.sendall(unread)
    if before:
        hang_up(peer, how)
    watch = watched(bench, ours)
    if not before:
        assert bench.loop.turn() == 0
        hang_up(peer, how)
    assert bench.loop.turn() == 1
    assert bool(watch.heard & ENDED)
    assert bool(watch.heard & RESET) == (how == "reset")
    assert bench.loop.turn() == 0


def test_an_end_in_good_order_from_both_sides_is_no_reset(bench: Bench) -> None:
    ours, peer = bench.pair()
    watch = watched(bench, ours)
    ours.shutdown(socket.SHUT_WR)
    hang_up(peer, "end")
    bench.loop.turn()
    assert watch.heard & ENDED
    assert not watch.heard & RESET


def test_bytes_are_no_business_of_it(bench: Bench) -> None:
    ours, peer = bench.pair()
    watched(bench, ours)
    peer.sendall(b"x")
    assert bench.loop.turn() == 0


def test_of_a_great_many_no_turn_looks_at_all(bench: Bench) -> None:
    pairs = [bench.pair() for _ in range(300)]
    for ours, peer in pairs:
        watched(bench, ours)
        peer.close()
    assert bench.loop.turn() == 256
    assert bench.loop.turn() == 44
    assert bench.calls == [1] * 300


def test_a_descriptor_that_is_used_again_is_another_connection(bench: Bench) -> None:
    """The kernel gives out the lowest number that is free, before everybody has heard of it."""
    ours, peer = bench.pair()
    old = watched(bench, ours)
    ours.close()
    fresh_peer, fresh = bench.pair()
    assert fresh.fileno() == old.fd
    new = watched(bench, fresh)
    bench.hangups.forget(old)
    peer.close()
    hang_up(fresh_peer, "end")
    bench.loop.turn()
    assert bench.calls == [0, 1]
    bench.hangups.forget(new)
    assert len(bench.hangups) == 0


def test_a_forgotten_peer_is_not_heard(bench: Bench) -> None:
    ours, peer = bench.pair()
    bench.hangups.forget(watched(bench, ours))
    peer.close()
    assert bench.loop.turn() == 0


def test_without_a_descriptor_nothing_is_watched_and_nothing_fails() -> None:
    def none_left() -> Any:
        raise OSError(24, "Too many open files")

    hangups = Hangups(cast(asyncio.AbstractEventLoop, Loop()), none_left)
    with socket.socket() as sock:
        assert hangups.watch(cast(asyncio.Transport, Transport(sock)), lambda: None) is None
    assert hangups.watch(cast(asyncio.Transport, Transport(None)), lambda: None) is None
    assert len(hangups) == 0
    hangups.close()


def test_an_end_that_the_loop_has_not_told_of_is_known_and_data_are_none() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        transport = cast(asyncio.Transport, Transport(ours))
        assert not has_ended(transport)
        other.send(b"data")
        assert not has_ended(transport)
        other.shutdown(socket.SHUT_WR)
        assert has_ended(transport)
    assert not has_ended(cast(asyncio.Transport, Transport(None)))
