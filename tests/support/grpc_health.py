"""An instance's health service (grpc.health.v1) on top of another implementation of HTTP/2."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from proxy.health.base import Endpoint

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
Answers = Mapping[bytes, bytes | str]
"""Message of a request → that of its answer, or the gRPC status instead of one."""
WELL: Answers = {b"": SERVING}


class HealthService:
    """Serves connections, and keeps what it was asked."""

    def __init__(self, answers: Answers = WELL) -> None:
        self.answers = answers
        self.heads: list[dict[str, str]] = []
        self.ended: list[asyncio.Event] = []

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: bytes = b""
    ) -> None:
        """Until the other side leaves. `read`: what it has said already."""
        self.ended.append(ended := asyncio.Event())
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        body = b""
        try:
            while data := read or await reader.read(65536):
                read = b""
                for event in connection.receive_data(data):
                    if isinstance(event, RequestReceived):
                        self.heads.append({str(n): str(v) for n, v in event.headers or ()})
                        body = b""
                    elif isinstance(event, DataReceived):
                        body += event.data or b""
                    elif isinstance(event, StreamEnded):
                        self._answer(connection, event.stream_id, body)
                writer.write(connection.data_to_send())
                await writer.drain()
        except OSError:
            pass  # The other side has left.
        finally:
            writer.transport.abort()
            ended.set()

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
        """Where it serves; every connection has ended then."""
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls) as server:
            yield Endpoint(*server.sockets[0].getsockname())
            for ended in self.ended:
                await ended.wait()

    def _answer(self, connection: H2Connection, stream: int, body: bytes) -> None:
        head = [(":status", "200"), ("content-type", "application/grpc")]
        answer = self.answers.get(body[5:], "5")
        if isinstance(answer, str):
            status = [("grpc-status", answer), ("grpc-message", "no such thing")]
            connection.send_headers(stream, [*head, *status], end_stream=True)
            return
        connection.send_headers(stream, head)
        connection.send_data(stream, b"\0" + len(answer).to_bytes(4, "big") + answer)
        connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)
