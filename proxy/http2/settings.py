"""SETTINGS: what a peer may say of itself, and what it means (RFC 9113 §6.5)."""

from __future__ import annotations

from typing import Final

from proxy.http2.errors import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, GoAway
from proxy.http2.flow import FIRST_WINDOW, LARGEST_WINDOW

ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
ENABLE_CONNECT_PROTOCOL: Final = 8
"""RFC 8441 §3."""
NO_RFC7540_PRIORITIES: Final = 9
"""RFC 9218 §2.1."""

_SWITCHES: Final = (ENABLE_PUSH, ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES)
_SMALLEST_FRAME: Final = 16384
_LARGEST_FRAME: Final = 0xFFFFFF
UNLIMITED: Final = 0xFFFFFFFF


class PeerSettings:
    """Owns what a peer has said of itself; until then, what RFC 9113 §6.5.2 assumes of it.

    The size of its table is not kept: what we write needs none (`hpack`).
    """

    __slots__ = ("_of_server", "connect_protocol", "max_frame", "max_head", "max_streams", "window")

    def __init__(self, of_server: bool) -> None:
        self._of_server = of_server
        self.max_streams = UNLIMITED
        """Streams that we may have open. Before the first SETTINGS a careful client has few."""
        self.window = FIRST_WINDOW
        """Bytes that may be sent on a new stream."""
        self.max_frame = _SMALLEST_FRAME
        """Bytes of content of a frame."""
        self.max_head = UNLIMITED
        """Bytes of a head, as `hpack.Field.size` counts."""
        self.connect_protocol = False
        """Extended CONNECT is served (RFC 8441)."""

    def take(self, settings: list[tuple[int, int]]) -> int:
        """Take note of a frame. Returns by how much the windows of all open streams grow, which may
        be negative (§6.9.2). Raises `GoAway`."""
        before = self.window
        for name, value in settings:  # ≤ 32
            if name in _SWITCHES and value > 1:
                raise GoAway(PROTOCOL_ERROR, f"setting {name} is {value}, 0 or 1 are allowed")
            if name == ENABLE_PUSH:
                if value and self._of_server:
                    raise GoAway(PROTOCOL_ERROR, "a server that wants to be pushed to")
            elif name == MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif name == INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    raise GoAway(FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
                self.window = value
            elif name == MAX_FRAME_SIZE:
                if not _SMALLEST_FRAME <= value <= _LARGEST_FRAME:
                    detail = f"frames of {value} bytes, {_SMALLEST_FRAME} are the least"
                    raise GoAway(PROTOCOL_ERROR, detail)
                self.max_frame = value
            elif name == MAX_HEADER_LIST_SIZE:
                self.max_head = value
            elif name == ENABLE_CONNECT_PROTOCOL:
                if self.connect_protocol and not value:
                    raise GoAway(PROTOCOL_ERROR, "extended CONNECT is taken back")  # RFC 8441 §3
                self.connect_protocol = value != 0
        return self.window - before
