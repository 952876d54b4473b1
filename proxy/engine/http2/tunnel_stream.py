"""Extended CONNECT (RFC 8441): a stream of a client that becomes one side of a tunnel, as a
WebSocket does. The instance is asked as by a client of HTTP/1.1."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from hashlib import sha1
from os import urandom
from typing import Any, Final, cast

from proxy.engine.http1.heads import VIA_CLIENT
from proxy.engine.http2.sender import DRAINED, FULL
from proxy.engine.http2.server_stream import ServerStream, StreamSession
from proxy.http.messages import RequestHead, ResponseFields, ResponseHead
from proxy.http2.blocks import answer_block
from proxy.http2.errors import CANCEL
from proxy.http2.flow import FIRST_WINDOW, ReceiveWindow, add_piece

_WEBSOCKET: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 §1.3."""
_ACCEPT: Final = b"sec-websocket-accept"


class TunnelStream(ServerStream):
    """Owns what the client has said for a tunnel and is not passed on: within its window."""

    __slots__ = ("_key", "_side")

    def __init__(
        self, session: StreamSession, id: int, window: int, ended: bool, request: RequestHead
    ) -> None:
        super().__init__(session, id, window, True)  # There is no body.
        self.ended = ended
        self._window = ReceiveWindow(FIRST_WINDOW)
        self._side: StreamTransport | None = None
        self._key = b""  # ≤ 64 B
        if request.fields.upgrade == b"websocket":
            self._key = b64encode(urandom(16))
            self.key_line = b"Sec-WebSocket-Key: %b\r\n" % self._key

    # -- from the client

    def on_data(self, piece: bytes, counted: int, end: bool) -> bool:
        """See `ServerStream`."""
        if not self._window.take(counted):
            return False
        if piece:
            add_piece(self._pieces, piece)
        self._owed += counted - len(piece)
        if end:
            self.ended = True
        self._session.pass_on_soon(self)
        return True

    def on_end(self, trailers: bytes) -> None:
        """See `ServerStream`. Nobody gets the trailers."""
        self.ended = True
        self._session.pass_on_soon(self)

    def pass_on(self) -> None:
        """See `ServerStream`. What comes before the answer waits."""
        if self._side is not None:
            self._side.deliver()

    def take(self) -> bytes:
        """Take what is here: the client may say as much more."""
        data = b"".join(self._pieces)
        self._pieces = []
        self._owed += len(data)
        if self._owed and not self.ended:
            count = self._window.give(self._owed)
            self._owed = 0
            if count:
                self._session.grant(self, count)
        return data

    @property
    def owes_body(self) -> bool:
        """See `ClientStream`."""
        return False

    # -- the answer

    def answer(
        self,
        response: ResponseHead,
        id_line: bytes,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> None:
        """See `ClientStream`."""
        if response.status < 300:
            # The client would take it for the tunnel (RFC 9110 §9.3.6).
            line = b"HTTP/1.1 502 Bad Gateway\r\n"
            response = ResponseHead(502, line, response.minor, response.fields)
        super().answer(response, id_line, pieces, done, trailers)

    def may_switch(self, response: ResponseHead) -> bool:
        """See `ClientStream` (RFC 6455 §4.2.2)."""
        if not self._key:
            return True
        proof = sha1(self._key + _WEBSOCKET, usedforsecurity=False).digest()
        return response.fields.get(_ACCEPT) == b64encode(proof)

    def switch(self, response: ResponseHead, id_line: bytes) -> asyncio.Transport:
        """See `ClientStream`. What a 101 is in HTTP/1 is a 200 here (RFC 8441 §4)."""
        said = response.fields.plain.splitlines(keepends=True)
        lines = [line for line in said if line.partition(b":")[0].lower() != _ACCEPT]
        fields = ResponseFields(b"".join(lines), len(lines))
        fields.dated = response.fields.dated
        block = answer_block(ResponseHead(200, b"", 1, fields), id_line, VIA_CLIENT)
        self._session.write_head(self.out, block, False)
        self._side = StreamTransport(self._session, self)
        return cast(asyncio.Transport, self._side)

    def hand_over(self) -> bytes:
        """See `ClientStream`."""
        self.exchange = None
        if self.ended:
            self._session.pass_on_soon(self)  # Behind what is handed over, the end.
        return self.take()

    def on_written(self) -> None:
        """See `ServerStream`."""
        if self._side is None:
            super().on_written()
        else:
            self.set_clock()
            self._side.on_written()

    def lose(self) -> None:
        """See `ServerStream`."""
        if self._side is not None:
            self._side.lose(ConnectionResetError())
        super().lose()


class StreamTransport:
    """Owns how far both directions of a tunnel are on one stream: what a `Tunnel` asks of a
    transport."""

    __slots__ = ("_closing", "_full", "_gone", "_paused", "_protocol", "_said_eof", "_session",
                 "_stream")  # fmt: skip

    def __init__(self, session: StreamSession, stream: TunnelStream) -> None:
        self._session = session
        self._stream = stream
        self._protocol: asyncio.Protocol
        self._closing = False
        self._full = False
        self._gone = False
        self._paused = False
        self._said_eof = False
        """The other side has heard that the client says no more."""

    # -- as of `asyncio.Transport`

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return self._stream.out.size

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._session.pass_on_soon(self._stream)

    def write(self, data: bytes) -> None:
        out = self._stream.out
        if self._closing or out.done:
            return
        out.put([data])
        self._session.pump(out)
        self._stream.set_clock()
        if out.size > FULL and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        self._stream.out.done = True
        self._session.pump(self._stream.out)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.write_eof()
            self._end()

    def abort(self) -> None:
        self._closing = True
        if not self._gone:
            self._session.reset_stream(self._stream, CANCEL)
            self.lose(None)

    # -- what the stream tells

    def deliver(self) -> None:
        """Pass on what the client has said, and its end, unless the other side is full."""
        stream = self._stream
        if self._paused or self._gone:
            return
        data = stream.take()
        if data:
            self._protocol.data_received(data)
        if stream.ended and not self._said_eof and not self._paused:
            self._said_eof = True
            if not self._protocol.eof_received():
                self.close()

    def on_written(self) -> None:
        """Content that waited is written, or a part of it."""
        if self._full and self._stream.out.size <= DRAINED:
            self._full = False
            self._protocol.resume_writing()
        if self._closing:
            self._end()

    def _end(self) -> None:
        if self._stream.out.said_end and not self._gone:
            self._session.limits.end_stream()
            self._session.close_stream(self._stream)
            self.lose(None)

    def lose(self, error: Exception | None) -> None:
        """The stream is gone; `error`: not in good order."""
        if not self._gone:
            self._gone = self._closing = True
            self._session.services.loop.call_soon(self._protocol.connection_lost, error)
