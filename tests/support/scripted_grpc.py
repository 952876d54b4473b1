"""A gRPC server by another implementation of HTTP/2: calls with one answer, and streams."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError


class ScriptedGrpc(ABC):
    """Owns a listening socket and the connections to it."""

    def __init__(self) -> None:
        self.connections: set[GrpcConnection] = set()
        self._server: asyncio.Server | None = None

    @abstractmethod
    async def heard(self, connection: GrpcConnection, stream: int, message: bytes) -> None:
        """A message of a client."""

    def left(self, connection: GrpcConnection) -> None:
        """A connection is over."""

    async def start(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: GrpcConnection(self), "127.0.0.1", port, ssl=tls
        )

    async def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in list(self.connections):
            connection.abort()


class GrpcConnection(asyncio.Protocol):
    """Owns one connection, and what is under way on it."""

    def __init__(self, server: ScriptedGrpc) -> None:
        self.paths: dict[int, str] = {}
        self._server = server
        self._h2 = H2Connection(H2Configuration(client_side=False))
        self._transport: Any = None
        self._come: dict[int, bytearray] = {}
        self._waiting: dict[int, bytearray] = {}
        """Content that the windows have no room for."""
        self._ending: set[int] = set()
        """Streams to be ended once their content is sent."""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.connections.add(self)
        self._h2.initiate_connection()
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.left(self)
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._write()
            self.abort()
            return
        for event in events:
            stream = getattr(event, "stream_id", 0) or 0
            if isinstance(event, RequestReceived):
                fields = {
                    bytes(name).decode(): bytes(value).decode() for name, value in event.headers
                }
                assert fields["content-type"] == "application/grpc"
                assert fields["te"] == "trailers"
                self.paths[stream] = fields[":path"]
                self._come[stream] = bytearray()
                head = [(":status", "200"), ("content-type", "application/grpc")]
                self._h2.send_headers(stream, head)
            elif isinstance(event, DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
                self._take(stream, event.data)
            elif isinstance(event, StreamEnded | StreamReset):
                self._come.pop(stream, None)
            elif isinstance(event, WindowUpdated):
                self._go_on()
        self._write()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for as long as the connection lasts."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send(self, stream: int, message: bytes, end: bool) -> None:
        """A message; with `end` the last one."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        self._waiting.setdefault(stream, bytearray()).extend(framed)
        if end:
            self._ending.add(stream)
        self._go_on()
        self._write()

    def leave(self) -> None:
        """Say that no further stream is taken."""
        self._h2.close_connection()
        self._write()

    def cut(self, stream: int, message: bytes) -> None:
        """Half of a message, and the end of the connection."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        self._h2.send_data(stream, framed[: len(framed) // 2])
        self._write()
        self._transport.close()

    def raw(self, stream: int, content: bytes) -> None:
        """Content that may be no message."""
        self._h2.send_data(stream, content)
        self._write()

    def end(self, stream: int, trailers: list[tuple[str, str]]) -> None:
        self._h2.send_headers(stream, trailers, end_stream=True)
        self._write()

    def reset(self, stream: int, code: int) -> None:
        self._h2.reset_stream(stream, code)
        self._write()

    def announce(self, name: int, value: int) -> None:
        """Other SETTINGS."""
        self._h2.update_settings({name: value})
        self._write()

    def abort(self) -> None:
        self._transport.abort()

    def _take(self, stream: int, data: bytes | None) -> None:
        rest = self._come[stream]
        rest += data or b""
        while len(rest) >= 5 and len(rest) >= (end := 5 + int.from_bytes(rest[1:5], "big")):
            message = bytes(rest[5:end])
            del rest[:end]
            self.begin(self._server.heard(self, stream, message))

    def _go_on(self) -> None:
        for stream, rest in list(self._waiting.items()):
            try:
                while rest and (room := self._h2.local_flow_control_window(stream)) > 0:
                    size = min(room, self._h2.max_outbound_frame_size, len(rest))
                    self._h2.send_data(stream, bytes(rest[:size]))
                    del rest[:size]
            except ProtocolError:  # The client has reset it.
                rest.clear()
                self._ending.discard(stream)
            if not rest:
                del self._waiting[stream]
                if stream in self._ending:
                    self._ending.discard(stream)
                    self._h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    def _write(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)
