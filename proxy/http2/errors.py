"""Error codes, and what ends a connection (RFC 9113 §5.4, §7)."""

from __future__ import annotations

from typing import Final

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
SETTINGS_TIMEOUT: Final = 4
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
CONNECT_ERROR: Final = 10
ENHANCE_YOUR_CALM: Final = 11
INADEQUATE_SECURITY: Final = 12
HTTP_1_1_REQUIRED: Final = 13

NAMES: Final = (
    "no_error", "protocol_error", "internal_error", "flow_control_error", "settings_timeout",
    "stream_closed", "frame_size_error", "refused_stream", "cancel", "compression_error",
    "connect_error", "enhance_your_calm", "inadequate_security", "http_1_1_required",
)  # fmt: skip
"""Words for logs and metrics, by code."""


def name_of(code: int) -> str:
    """The word for a code, of which peers may invent any (§7)."""
    return NAMES[code] if 0 <= code < len(NAMES) else "unknown"


class GoAway(Exception):
    """A connection error: the peer is told the code, and the connection ends."""

    def __init__(self, code: int, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason or name_of(code)
        """Word for metrics; there are few."""


class Malformed(Exception):
    """A head or trailers that the peer must not send: their stream ends with PROTOCOL_ERROR
    (RFC 9113 §8.1.1)."""
