"""`H2Origin`: an instance of HTTP/2 in clear text, in the test's hands, on somebody else's code.

async with H2Origin("a") as origin:
    config = {"services": {"s": {"protocol": "h2c", "instances": [origin.instance]}}, ...}
    origin.leave()
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame


class _Connection(asyncio.Protocol):
    """One connection of the proxy."""

    def __init__(self, origin: H2Origin) -> None:
        self._origin = origin
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings = Settings(client=False, initial_values=origin.settings)
        self.open: dict[int, bytes] = {}
        """Streams that are not answered, and what came of their bodies."""
        self.last = 0
        """The latest stream that is answered."""
        self.leaving = False

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self._origin.connections.add(self)
        self._origin.made += 1
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._origin.connections.discard(self)

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if self.leaving and getattr(event, "stream_id", 0) > self.last:
                continue
            if isinstance(event, RequestReceived):
                self.last = event.stream_id
                self.open[event.stream_id] = b""
                self._origin.most = max(self._origin.most, len(self.open))
            elif isinstance(event, DataReceived):
                self.open[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                loop = asyncio.get_running_loop()
                loop.call_later(self._origin.delay, self._answer, event.stream_id)
            elif isinstance(event, StreamReset):
                self.open.pop(event.stream_id, None)
            elif isinstance(event, (ConnectionTerminated, WindowUpdated)):
                pass
        self.flush()

    def _answer(self, stream: int) -> None:
        if self.transport.is_closing() or stream not in self.open:
            return
        body = self.open.pop(stream) or self._origin.name.encode()
        try:
            self.h2.send_headers(stream, [(":status", "200"), ("content-length", f"{len(body)}")])
            self.h2.send_data(stream, body, end_stream=True)
        except StreamClosedError:
            pass
        self._origin.answered += 1
        self.flush()
        if self.leaving and not self.open:
            self.transport.close()

    def leave(self) -> None:
        """Take no stream beyond those that came, answer these, and close."""
        self.leaving = True
        self.transport.write(GoAwayFrame(0, last_stream_id=self.last).serialize())
        if not self.open:
            self.transport.close()


class H2Origin:
    """Owns a listening socket and its connections. Answers bodies with themselves, and requests
    without one with the name of the instance."""

    def __init__(self, name: str, *, delay: float = 0.0, streams: int = 100) -> None:
        """`delay`: seconds before each answer; `streams`: at a time on a connection."""
        self.name = name
        self.delay = delay
        self.settings: dict[int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: streams}
        self.connections: set[_Connection] = set()
        self.made = 0
        """Connections so far."""
        self.most = 0
        """Requests at a time on one of them."""
        self.answered = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def listen(self) -> None:
        """Listen, on the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def instance(self) -> dict[str, Any]:
        return {"id": self.name, "address": "127.0.0.1", "port": self.port}

    @property
    def in_flight(self) -> int:
        return sum(len(connection.open) for connection in self.connections)

    def leave(self) -> None:
        """All connections are told to go, as by a server that restarts or is older than it may."""
        for connection in list(self.connections):
            connection.leave()

    def announce(self, name: int, value: int) -> None:
        """Other SETTINGS, for connections that there are and those to come."""
        self.settings[name] = value
        for connection in self.connections:
            connection.h2.update_settings({name: value})
            connection.flush()

    def die(self) -> None:
        """As one that is killed: nobody listens, and connections are reset."""
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.die()
        await self._server.wait_closed()
