"""Requests of a client of HTTP/2, and answers of an instance, as bytes."""

from __future__ import annotations

from struct import Struct

from hpack import Encoder

from proxy.http2 import frames
from proxy.http2.flow import FIRST_WINDOW, LARGEST_WINDOW
from proxy.http2.hpack import encode
from proxy.http2.settings import INITIAL_WINDOW_SIZE


class Http2Requests:
    """Owns the streams of one client that speaks HTTP/2, and the table of its fields: from the
    second request on, what it repeats is a byte for each field."""

    PRELUDE = (
        frames.PREFACE
        + frames.settings([(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)])
        + frames.window_update(0, LARGEST_WINDOW - FIRST_WINDOW)
    )
    """Windows that never have to be given back."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._next = 1

    def request(self, head: bytes) -> bytes:
        """The frames of a request without content."""
        lines = head.decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        pairs = [line.split(": ", 1) for line in lines[1:] if line]
        fields = {name.lower(): value for name, value in pairs}
        authority = fields.pop("host")
        pseudo = {":method": method, ":scheme": "http", ":authority": authority, ":path": path}
        block = self._encoder.encode([*pseudo.items(), *fields.items()])
        stream, self._next = self._next, self._next + 2
        return frames.head_frames(stream, block, True, frames.LARGEST)


class Http2Answers:
    """Owns the streams of one instance that speaks HTTP/2: each is answered, in order."""

    PRELUDE = frames.settings([]) + frames.SETTINGS_ACK
    _HEADER = Struct(">IBI")

    def __init__(self, answer: bytes) -> None:
        """`answer`: as HTTP/1 has it."""
        head, _, self._content = answer.partition(b"\r\n\r\n")
        pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
        fields = [(name.lower(), value) for name, value in pairs if name != b"Connection"]
        self._block = b"".join([encode(*one) for one in [(b":status", b"200"), *fields]])
        self._next = 1

    def answers(self, count: int) -> bytes:
        """The frames of the next `count` answers."""
        parts: list[bytes] = []
        for stream in range(self._next, self._next + 2 * count, 2):
            parts += (
                self._HEADER.pack(len(self._block) << 8 | frames.HEADERS, 0x04, stream),
                self._block,
                self._HEADER.pack(len(self._content) << 8, 0x01, stream),
                self._content,
            )
        self._next += 2 * count
        return b"".join(parts)
