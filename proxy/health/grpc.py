"""The `grpc` check: does the instance's own health service (grpc.health.v1) say that it serves?"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import proxy
from proxy import protobuf
from proxy.health.base import Endpoint
from proxy.health.connect import ConnectingCheck, connect
from proxy.http2 import frames
from proxy.http2.blocks import request_block
from proxy.http2.errors import GoAway, name_of
from proxy.http2.frame_list import FrameList
from proxy.http2.hpack import BlockError, Decoder, static_fields
from proxy.http2.settings import ENABLE_PUSH

MAX_HEAD: Final = 64 * 1024
"""Bytes of a head, as it is compressed and as it is not."""
MAX_ANSWER: Final = 32 * 1024
"""Bytes that are read at most: half of what a peer may send without being asked for more. The
answer has seven."""
MAX_FIELDS: Final = 1000
_METHOD: Final = b"/grpc.health.v1.Health/Check"
_WORDS: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""By number, as the health service has them."""
_STATIC: Final = static_fields()
_MEANINGS: Final = {"5": "it does not know this service", "12": "it has no health service"}


class GrpcCheck(ConnectingCheck):
    """Good when the answer is SERVING. Each probe makes a new connection: see `HttpCheck`."""

    name: ClassVar[str] = "grpc"
    alpn: ClassVar[str] = "h2"

    def __init__(
        self, *, timeout: float = 1.0, service: str = "", host: str = "", port: int = 0
    ) -> None:
        """`service`: whose health is asked for; "" = the server's. `host`: the authority; "" = the
        endpoint. `port`: another one of the instance; 0 = the endpoint's."""
        super().__init__(timeout=timeout, host=host, port=port)
        asked = service.encode()
        self._message = _framed(protobuf.field(1, asked) if asked else b"")

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        endpoint = self._place(endpoint)
        tls = None
        if endpoint.server_name is not None and self.context is not None:
            tls = await self.context()
        reader, writer = await connect(
            self._lookups, endpoint, destinations=self.destinations, tls=tls
        )
        try:
            if tls is not None:
                chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
                if chosen != "h2":
                    return False, "no HTTP/2: the instance does not choose it by ALPN"
            writer.write(self._request(endpoint, b"http" if tls is None else b"https"))
            return await _Answer(writer).read(reader)
        finally:
            writer.transport.abort()  # A connection of HTTP/2 does not end by itself.

    def _request(self, endpoint: Endpoint, scheme: bytes) -> bytes:
        lines = (
            f"Host: {self._host or endpoint}\r\nTE: trailers\r\nContent-Type: application/grpc\r\n"
            f"grpc-timeout: {max(1, int(self.timeout * 1000))}m\r\n"
            f"User-Agent: fairlead-check/{proxy.__version__}\r\n"
        ).encode("ascii", "replace")
        block = request_block(b"POST", scheme, _METHOD, lines, b"")
        return b"".join(
            (
                frames.PREFACE,
                frames.settings([(ENABLE_PUSH, 0)]),
                frames.head_frames(1, block, False, frames.LARGEST),
                frames.data_header(len(self._message), 1, True),
                self._message,
            )
        )


class _Answer:
    """Owns what has come of one answer."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._frames = FrameList(False, MAX_HEAD)
        self._decoder = Decoder(_STATIC, MAX_HEAD, MAX_FIELDS)
        self._told: dict[str, str] = {}
        self._content = b""

    async def read(self, reader: asyncio.StreamReader) -> tuple[bool, str]:
        """The verdict. ValueError if it is none."""
        left = MAX_ANSWER
        try:
            while left > 0 and (data := await reader.read(left)):
                left -= len(data)
                if self._has_ended(data):
                    return self._judged()
        except (GoAway, BlockError) as error:
            raise ValueError(f"the answer is not HTTP/2: {error}") from None
        raise ValueError("connection closed without an answer" if left else "an endless answer")

    def _has_ended(self, data: bytes) -> bool:
        heard = self._frames
        heard.feed(data)
        while heard.behind:
            heard.feed(b"")
        come, heard.frames = heard.frames, []
        for one in come:
            match one:
                case ("settings", _):
                    self._writer.write(frames.SETTINGS_ACK)
                case ("ping", bytes(content), False):
                    self._writer.write(frames.ping(content, True))
                case ("head", _, bytes(block), end):
                    for field in self._decoder.decode(block):
                        name, value = field.name.decode("latin-1"), field.value.decode("latin-1")
                        self._told[name] = value
                    if end:
                        return True
                case ("data", _, bytes(piece), _, end):
                    self._content += piece
                    if end:
                        return True
                case ("reset", _, int(code)) | ("goaway", 0, int(code), _):
                    raise ValueError(f"refused, {name_of(code)}")
        return False

    def _judged(self) -> tuple[bool, str]:
        status = self._told.get("grpc-status")
        if status is None:
            return False, f"HTTP {self._told.get(':status', 'without status')}, and not gRPC"
        if status != "0":
            said = _MEANINGS.get(status) or self._told.get("grpc-message", "")
            return False, f"grpc-status {status}" + (f": {said}" if said else "")
        message = self._content[5:]
        known = {_framed(bytes((8, n)) if n else b""): word for n, word in enumerate(_WORDS)}
        word = known.get(self._content, f"an answer of {len(message)} bytes that means nothing")
        return word == "SERVING", word


def _framed(message: bytes) -> bytes:
    """A message as gRPC writes it: not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message
