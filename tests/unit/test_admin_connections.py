"""Connections to the admin server: who makes room for a new one, and how fast one is read."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from proxy.control.admin_connections import (
    MOST,
    PATIENCE,
    Connection,
    Door,
    Guest,
    first_to_go,
    room,
)

NOW = 100.0


def waiting(peer: str, since: float) -> Guest:
    return Guest(peer, since)


def busy(peer: str, since: float) -> Guest:
    return Guest(peer, since, busy=True)


def test_the_connection_that_waits_longest_goes_first() -> None:
    guests = [waiting("a", 90.0), waiting("b", 80.0), busy("c", 1.0)]
    assert first_to_go(guests, NOW) is guests[1]


def test_a_peer_with_many_connections_loses_its_own() -> None:
    many = [waiting("many", 99.0 + number / 100) for number in range(3)]
    guests = [waiting("one", 1.0), *many]
    assert first_to_go(guests, NOW) is many[0]


def test_the_connections_of_a_peer_count_whatever_they_do() -> None:
    guests = [waiting("a", 1.0), waiting("b", 99.0), busy("b", 99.0)]
    assert first_to_go(guests, NOW) is guests[1]


def test_a_request_goes_only_when_it_takes_long_and_nobody_waits() -> None:
    stuck, fresh = busy("a", NOW - PATIENCE - 0.1), busy("a", NOW - PATIENCE + 0.1)
    assert first_to_go([fresh, stuck], NOW) is stuck
    assert first_to_go([fresh], NOW) is None
    assert first_to_go([], NOW) is None


def test_a_listener_goes_last() -> None:
    listener = Guest("a", 1.0, busy=True, streaming=True)
    stuck, fresh = busy("b", 50.0), busy("b", NOW)
    assert first_to_go([listener, stuck, fresh], NOW) is stuck
    assert first_to_go([listener, fresh], NOW) is listener


@pytest.mark.parametrize(("descriptors", "most"), [(128, 32), (512, 128), (1 << 20, MOST)])
def test_descriptors_are_kept_back(descriptors: int, most: int) -> None:
    assert room(descriptors) == most


class Greedy(asyncio.Transport):
    """A peer that always has the same bytes to be read, and takes every answer."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.protocol: Connection | None = None
        self.answers = 0
        self.read = 0
        """Times that its bytes were read."""
        self._data = data
        self._paused = False
        self._due = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, Connection)
        self.protocol = protocol
        protocol.connection_made(self)
        self.resume_reading()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._on_readable)

    def _on_readable(self) -> None:
        self._due = False
        if not self._paused and self.protocol is not None:
            self.read += 1
            self.protocol.data_received(self._data)
            if not self._paused:
                self.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answers += bytes(data).count(b"HTTP/1.1 200")

    def is_closing(self) -> bool:
        return self.protocol is None

    def close(self) -> None:
        if self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            protocol.connection_lost(None)

    abort = close


async def test_requests_sent_in_advance_are_read_no_faster_than_answered() -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.serving(request):
            response = web.Response()
            await response.prepare(request)
            await response.write_eof()
        return response

    each = 500
    wire = Greedy(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * each)
    door = Door(handle, 1)
    wire.set_protocol(door())
    while wire.answers < 4 * each:
        await asyncio.sleep(0)
        assert wire.read * each <= wire.answers + 2 * each
    wire.close()
    await door.shutdown(1)
