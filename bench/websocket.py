"""WebSocket (RFC 6455), as much of it as the load and the origin need: the opening handshake and
frames of one length. A proxy passes the frames through unread."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
"""The nonce of the RFC's own example; who connects how often does not matter here."""
MASK = b"\x37\xfa\x21\x3d"
FIELDS = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY.decode()),
)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT = 0x81
"""A whole message of text in one frame."""
_MASKED = 0x80
_SHORT = 126
"""Payloads up to one less have their length in one byte."""


def accept(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (§4.2.2)."""
    return b64encode(sha1(key + _GUID).digest())


def switching(key: bytes) -> bytes:
    """The head that accepts."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept(key) + b"\r\n\r\n"
    )


def frame(payload: bytes, *, masked: bool) -> bytes:
    """One message of text. ValueError for payloads that need a longer length."""
    if len(payload) >= _SHORT:
        raise ValueError(f"{len(payload)} bytes; only up to {_SHORT - 1} are supported")
    if not masked:
        return bytes((_TEXT, len(payload))) + payload
    return bytes((_TEXT, _MASKED | len(payload))) + MASK + unmask(payload, MASK)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask, which is its own inverse (§5.3)."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")
    return mixed.to_bytes(size, "little")


def echoes(data: bytes) -> tuple[list[bytes], bytes]:
    """The answers to the masked frames in `data`, and what is left of it. ValueError for
    anything but short messages of text."""
    answers = []
    while len(data) >= 2:
        size = data[1] & 0x7F
        if data[0] != _TEXT or not data[1] & _MASKED or size >= _SHORT:
            raise ValueError(f"not a short masked text frame: {data[:2].hex()}")
        end = 6 + size
        if len(data) < end:
            break
        answers.append(frame(unmask(data[6:end], data[2:6]), masked=False))
        data = data[end:]
    return answers, data
