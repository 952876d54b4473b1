"""Connections to registries over gRPC: calls with one answer, and streams that last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

import proxy
from proxy.http2 import frames
from proxy.http2.blocks import request_block
from proxy.http2.errors import CANCEL, NO_ERROR, GoAway, name_of
from proxy.http2.flow import FIRST_WINDOW, ReceiveWindow
from proxy.http2.frame_list import FrameList
from proxy.http2.hpack import NO_TABLE, BlockError, Decoder, static_fields
from proxy.http2.settings import ENABLE_PUSH, INITIAL_WINDOW_SIZE, PeerSettings
from proxy.registry.base import Refused, RegistryError
from proxy.registry.named import MemberNames
from proxy.registry.rest import DIAL_LIMIT, LARGEST, tls_context
from proxy.settings.registry import RegistryTls
from proxy.waiting import ended

WINDOW: Final = 2**20
"""Bytes that a server may send ahead, of an answer and of all."""
_MAX_HEAD: Final = 64 * 1024
_MAX_FIELDS: Final = 1000
_SAID: Final = frozenset((":status", "grpc-status", "grpc-message"))
"""Fields of an answer that are kept: a server may send any number of others."""
_READ: Final = 64 * 1024
_PREFIX: Final = 5
"""Bytes in front of a message: whether it is compressed, and its length."""
_LAST_STREAM: Final = 0x7FFFFFFF
_STATIC: Final = static_fields()
_DENIED: Final = ("7", "16")
"""Statuses of rights that are missing, and of nobody known."""


class Leaving(RegistryError):
    """The server ends the connection in good order, and may be well."""


class GrpcCall:
    """Owns what has come of one call."""

    def __init__(self, method: str, heard: Callable[[bytes], None], lasts: bool, room: int) -> None:
        self.method = method
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lasts = lasts
        """The connection ends with this call."""
        self.room = room
        """Bytes that the server takes."""
        self.window = ReceiveWindow(WINDOW)
        self._heard = heard
        self._told: dict[str, str] = {}
        self._rest = bytearray()  # ≤ LARGEST + _READ

    def told(self, name: str, value: str) -> None:
        """A field of the head, or of the trailers."""
        if name in _SAID:
            self._told[name] = value

    def more(self, piece: bytes) -> None:
        """Hand over the messages that are whole. RegistryError for one that is none."""
        rest = self._rest
        rest += piece
        while len(rest) >= _PREFIX:
            end = _PREFIX + int.from_bytes(rest[1:_PREFIX], "big")
            if rest[0] or end > _PREFIX + LARGEST:
                raise RegistryError(
                    f"{self.method}: a message that is compressed or has more than {LARGEST} bytes"
                )
            if len(rest) < end:
                return
            message = bytes(rest[_PREFIX:end])
            del rest[:end]
            self._heard(message)

    def ended(self) -> None:
        """End with the status that the server has told."""
        status = self._told.get("grpc-status")
        if status == "0":
            self._end(None)
            return
        said = unquote(self._told.get("grpc-message", ""))[:200]
        word = f"grpc-status {status}: {said}" if status else self._told.get(":status", "no status")
        kind = Refused if status in _DENIED else RegistryError
        self._end(kind(f"{self.method}: {word}"))

    def failed(self, error: RegistryError) -> None:
        """End for a reason that is not the server's answer."""
        self._end(type(error)(f"{self.method}: {error}"))

    def _end(self, error: RegistryError | None) -> None:
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
            self.over.exception()  # Nobody may be waiting for it.


class GrpcLink:
    """Owns one connection, which is made once. Calls raise RegistryError only."""

    def __init__(self, host: str, port: int, tls: RegistryTls | None) -> None:
        """`tls`: None = in clear text."""
        self._host = host
        self._port = port
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._frames = FrameList(False, _MAX_HEAD)
        self._decoder = Decoder(_STATIC, _MAX_HEAD, _MAX_FIELDS)
        self._peer = PeerSettings(of_server=True)
        self._room = FIRST_WINDOW
        self._window = ReceiveWindow(FIRST_WINDOW)
        self._calls: dict[int, GrpcCall] = {}  # ≤ calls under way
        self._next = 1
        self._end: RegistryError = RegistryError("not connected")
        """Why there is no connection."""

    async def connect(self) -> None:
        """Connect. OSError is a RegistryError, too."""
        context = None
        if self._tls is not None:
            context = tls_context(self._tls)
            context.set_alpn_protocols(["h2"])
        try:
            async with asyncio.timeout(DIAL_LIMIT):
                reader, writer = await MemberNames().dial(self._host, self._port, context)
        except TimeoutError:
            raise RegistryError(f"port {self._port}: no connection in time") from None
        except OSError as error:  # of which ssl.SSLError is one
            said = str(error) or type(error).__name__
            raise RegistryError(f"port {self._port}: {said}") from error
        self._writer = writer
        chosen = "h2"
        if context is not None:
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        if chosen != "h2":
            writer.transport.abort()
            raise RegistryError(f"port {self._port}: no HTTP/2 by ALPN")
        self._write(frames.PREFACE)
        self._write(frames.settings([(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW)]))
        self._write(frames.window_update(0, self._window.enlarge(WINDOW)))
        self._reader = asyncio.create_task(self._read(reader))

    async def disconnect(self) -> None:
        """Hang up. Safe at any time, more than once."""
        task, self._reader = self._reader, None
        if self._writer is not None:
            self._writer.transport.abort()
        await ended(task)

    async def ended(self) -> None:
        """Wait for the end of the connection, and raise why."""
        if self._reader is not None:
            await asyncio.wait([self._reader])
        raise self._end

    async def call(self, method: str, message: bytes, limit: float) -> bytes:
        """The answer to one message, within `limit` seconds."""
        answers: list[bytes] = []  # ≤ 1, or an error

        def heard(answer: bytes) -> None:
            if answers:
                raise RegistryError(f"{method}: more than one message in answer")
            answers.append(answer)

        stream = self._begin(method, heard, False)
        call = self._calls[stream]
        try:
            self._send(stream, message, True)
            async with asyncio.timeout(limit):
                await call.over
        except TimeoutError:
            raise RegistryError(f"{method}: no answer within {limit:g} s") from None
        finally:
            if self._calls.pop(stream, None) is not None:
                self._write(frames.reset(stream, CANCEL))
        if not answers:
            raise RegistryError(f"{method}: no message in answer, one is expected")
        return answers[0]

    def stream(self, method: str, heard: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Begin a stream that lasts as long as the connection; returns what sends a message."""
        stream = self._begin(method, heard, True)
        return lambda message: self._send(stream, message, False)

    # --------------------------------------------------------------------------- writing

    def _begin(self, method: str, heard: Callable[[bytes], None], lasts: bool) -> int:
        if self._writer is None:
            raise self._end
        if len(self._calls) >= self._peer.max_streams or self._next > _LAST_STREAM:
            raise RegistryError(f"{method}: the server takes no further call")
        stream, self._next = self._next, self._next + 2
        self._calls[stream] = GrpcCall(method, heard, lasts, self._peer.window)
        host = f"[{self._host}]" if ":" in self._host else self._host
        lines = (
            f"Host: {host}:{self._port}\r\nTE: trailers\r\nContent-Type: application/grpc\r\n"
            f"User-Agent: fairlead/{proxy.__version__}\r\n"
        ).encode("ascii", "replace")
        scheme = b"http" if self._tls is None else b"https"
        block = request_block(b"POST", scheme, method.encode(), lines, b"")
        if stream == 1:
            block = NO_TABLE + block
        self._write(frames.head_frames(stream, block, False, self._peer.max_frame))
        return stream

    def _send(self, stream: int, message: bytes, end: bool) -> None:
        """A message, which is small: one that the server has no room for is an error."""
        call = self._calls.get(stream)
        if self._writer is None or call is None:
            raise self._end
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        if len(framed) > min(self._room, call.room, self._peer.max_frame):
            raise RegistryError(f"{call.method}: the server takes no {len(framed)} bytes")
        self._room -= len(framed)
        call.room -= len(framed)
        self._write(frames.data_header(len(framed), stream, end) + framed)

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)

    # --------------------------------------------------------------------------- reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hear frames until the connection ends."""
        self._end = RegistryError("the server hung up")
        try:
            while data := await reader.read(_READ):
                self._frames.feed(data)
                self._hear_all()
                while self._frames.behind:
                    await asyncio.sleep(0)
                    self._frames.feed(b"")
                    self._hear_all()
                if self._writer is not None:
                    await self._writer.drain()
        except (GoAway, BlockError) as error:
            self._end = RegistryError(f"the server does not speak HTTP/2: {error}")
        except OSError as error:
            self._end = RegistryError(str(error) or type(error).__name__)
        except RegistryError as error:
            self._end = error
        finally:
            if self._writer is not None:
                self._writer.transport.abort()
            self._writer = None
            calls, self._calls = self._calls, {}
            for call in calls.values():
                call.failed(self._end)

    def _hear_all(self) -> None:
        come, self._frames.frames = self._frames.frames, []
        for one in come:
            self._hear(one)

    def _hear(self, frame: tuple[object, ...]) -> None:
        match frame:
            case ("settings", list(pairs)):
                growth = self._peer.take(pairs)
                for call in self._calls.values():
                    call.room += growth
                self._write(frames.SETTINGS_ACK)
            case ("ping", bytes(content), False):
                self._write(frames.ping(content, True))
            case ("window", 0, int(increment)):
                self._room += increment
            case ("window", int(stream), int(increment)):
                if stream in self._calls:
                    self._calls[stream].room += increment
            case ("head", int(stream), bytes(block), end):
                fields = self._decoder.decode(block)
                if stream in self._calls:
                    told = self._calls[stream].told
                    for field in fields:
                        told(field.name.decode("latin-1"), field.value.decode("latin-1"))
                    if end:
                        self._finish(stream)
            case ("data", int(stream), bytes(piece), int(counted), end):
                self._hear_data(stream, piece, counted, end is True)
            case ("reset", int(stream), int(code)):
                if stream in self._calls:
                    self._finish(stream, f"ended by {name_of(code)}")
            case ("goaway", int(_), int(code), bytes(_)):
                kind = Leaving if code == NO_ERROR else RegistryError
                raise kind(f"the server ends the connection: {name_of(code)}")

    def _hear_data(self, stream: int, piece: bytes, counted: int, end: bool) -> None:
        if not self._window.take(counted):
            raise RegistryError("the server sends more than it may")
        if granted := self._window.give(counted):
            self._write(frames.window_update(0, granted))
        call = self._calls.get(stream)
        if call is None:
            return
        if not call.window.take(counted):
            raise RegistryError("the server sends more than it may")
        call.more(piece)
        if end:
            self._finish(stream)
        elif granted := call.window.give(counted):
            self._write(frames.window_update(stream, granted))

    def _finish(self, stream: int, reason: str = "") -> None:
        call = self._calls.pop(stream)
        if reason:
            call.failed(RegistryError(reason))
        else:
            call.ended()
        if call.lasts:
            raise call.over.exception() or RegistryError(f"{call.method}: the stream ended")
