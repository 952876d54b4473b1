"""A small HTTP origin on uvloop and httptools: the backend that echoes, and the only one where
nginx is not installed. `python -m bench.origin PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop

from bench.scenarios import MIB, SMALL_BODY
from bench.websocket import echoes, switching

_PIECE = b"\0" * (256 * 1024)
_HIGH_WATER = 1024 * 1024
"""Bytes kept unsent for one client before writing pauses."""


def _head(status: str, length: int) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nServer: origin\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


_SMALL = _head("200 OK", len(SMALL_BODY)) + SMALL_BODY
_MISSING = _head("404 Not Found", 0)
_LENGTHS = {b"/1m": MIB, b"/100m": 100 * MIB}


class Origin(asyncio.Protocol):
    """Owns one connection of a client that has one request in flight at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._key = b""
        self._body: list[bytes] = []
        self._unsent = 0
        self._paused = False
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only shaped like them.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send_rest()

    def _switch(self, rest: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._url != b"/ws" or not self._key:
            transport.close()
            return
        transport.write(switching(self._key))
        echo = Echo(transport)
        transport.set_protocol(echo)
        if rest:
            echo.data_received(rest)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"sec-websocket-key":
            self._key = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        transport = self._transport
        if transport is None or self._parser.should_upgrade():
            return
        self._last = not self._parser.should_keep_alive()
        path = self._url.partition(b"?")[0]
        if path == b"/small":
            transport.write(_SMALL)
        elif path == b"/echo":
            body = b"".join(self._body)
            transport.writelines([_head("200 OK", len(body)), body])
        elif path in _LENGTHS:
            self._unsent = _LENGTHS[path]
            transport.write(_head("200 OK", self._unsent))
        else:
            transport.write(_MISSING)
        self._send_rest()

    def _send_rest(self) -> None:
        transport = self._transport
        if transport is None:
            return
        while self._unsent and not self._paused:
            piece = memoryview(_PIECE)[: self._unsent]
            self._unsent -= len(piece)
            transport.write(piece)
        if self._last and not self._unsent:
            transport.close()


class Echo(asyncio.Protocol):
    """Owns one WebSocket: each message goes back as it came."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        try:
            answers, self._rest = echoes(self._rest + data if self._rest else data)
        except ValueError:
            self._transport.close()
            return
        if answers:
            self._transport.write(answers[0] if len(answers) == 1 else b"".join(answers))


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
