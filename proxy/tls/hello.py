"""The first message of a TLS connection, read before anybody answers it. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

LONGEST: Final = 64 * 1024
"""Bytes of a hello. Those of browsers have two thousand, with keys that quantum computers cannot
guess."""
MOST_RECORDS: Final = 64
"""Records of a hello. One will do; what comes in crumbs is looked at again with each of them."""
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_LARGEST_RECORD: Final = 16 * 1024 + 256


class Hello(NamedTuple):
    """Wishes of a client (RFC 8446 §4.1.2)."""

    server_name: str
    """In lower case; "" = none (RFC 6066 §3)."""
    protocols: tuple[bytes, ...]
    """Protocols that it offers (RFC 7301)."""


def read_hello(data: bytes) -> Hello | None:
    """The hello that `data` begins with; None while it is cut off. ValueError when it is none."""
    message = b""
    at = records = 0
    while at < len(data):  # ≤ MOST_RECORDS
        if data[at] != _HANDSHAKE or data[at + 1 : at + 2] not in (b"\3", b""):
            raise ValueError("no handshake record of TLS")
        if len(data) < at + 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < length <= _LARGEST_RECORD:
            raise ValueError("a record of an impossible length")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        records += 1
        if message and message[0] != _CLIENT_HELLO:
            raise ValueError("not a hello")
        size = 4 + int.from_bytes(message[1:4], "big") if len(message) >= 4 else LONGEST
        if size > LONGEST:
            raise ValueError("a hello that is too long")
        if len(message) >= size:
            return _parsed(message[4:size])
        if records == MOST_RECORDS:
            raise ValueError("a hello in too many records")
    return None


def _parsed(body: bytes) -> Hello:
    _, rest = _split(body, 34)  # Version and random.
    _, rest = _vector(rest, 1)  # Session id.
    _, rest = _vector(rest, 2)  # Ciphers.
    _, rest = _vector(rest, 1)  # Compression.
    name = ""
    protocols: list[bytes] = []
    extensions = _vector(rest, 2)[0] if rest else b""
    while extensions:  # ≤ LONGEST
        kind, extensions = _split(extensions, 2)
        content, extensions = _vector(extensions, 2)
        if kind == b"\0\0":
            name = _server_name(content)
        elif kind == b"\0\x10":
            protocols = _protocols(content)
    return Hello(name, tuple(protocols))


def _server_name(content: bytes) -> str:
    names, _ = _vector(content, 2)
    while names:  # ≤ LONGEST
        kind, names = _split(names, 1)
        name, names = _vector(names, 2)
        if kind == b"\0":
            return name.decode("ascii", "replace").lower().removesuffix(".")
    return ""


def _protocols(content: bytes) -> list[bytes]:
    offered, _ = _vector(content, 2)
    protocols: list[bytes] = []
    while offered:  # ≤ LONGEST
        protocol, offered = _vector(offered, 1)
        protocols.append(protocol)
    return protocols


def _split(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise ValueError("a hello that is cut off inside")
    return data[:size], data[size:]


def _vector(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The bytes behind a length of `size` bytes, and what follows them."""
    length, rest = _split(data, size)
    return _split(rest, int.from_bytes(length, "big"))
