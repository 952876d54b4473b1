"""Requests of a client of HTTP/2, as bytes."""

from __future__ import annotations

from hpack import Encoder

from proxy.http2 import frames
from proxy.http2.flow import FIRST_WINDOW, LARGEST_WINDOW
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
