"""The PROXY protocol, versions 1 and 2, on listeners that ask for it.

A load balancer at the connection level says whose connection it passes on, in front of the first
byte. The specification (HAProxy's proxy-protocol.txt) forbids guessing whether it does: on such a
listener every connection must begin with it, and one that does not is closed.
"""

from __future__ import annotations

import asyncio
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from proxy.engine.accepting import new_connection
from proxy.engine.arrival import CountedArrival
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.errors import BAD_REQUEST, HEAD_TIMEOUT, Refused

_V1 = re.compile(
    rb"PROXY (?:(UNKNOWN)[^\r\n]*|TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (\d{1,5}) (\d{1,5}))"
)
_V1_LONGEST = 107
"""Bytes of a version 1 line with its CRLF, by specification."""
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_LONGEST = 4096
"""Bytes behind a version 2 header. Addresses take 36; the rest is additions (TLVs), of which real
senders use some hundred."""


class Source(NamedTuple):
    """Where a connection comes from, and which of our ports it was made to."""

    address: str
    port: int


class ProxyHeader(NamedTuple):
    """The source that was announced, and how many bytes that took."""

    source: Source | None
    """Address and port that the sender speaks for; None: it speaks for itself (a health check)."""
    length: int


def read(data: bytes) -> ProxyHeader | None:
    """The announcement that `data` begins with; None while it is cut off. Raises `Refused`."""
    if data.startswith(_V2[: len(data)]):
        return _read_v2(data)
    if data.startswith(b"PROXY "[: len(data)]):
        return _read_v1(data)
    raise Refused(BAD_REQUEST, "the connection does not begin with the PROXY protocol")


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise Refused(BAD_REQUEST, "the PROXY line is too long")
        return None
    match = _V1.fullmatch(data, 0, end)
    if match is None:
        raise Refused(BAD_REQUEST, "the PROXY line is malformed")
    if match[1]:
        return ProxyHeader(None, end + 2)
    try:
        source = ip_address(match[3].decode())
        ip_address(match[4].decode())
    except ValueError:
        raise Refused(BAD_REQUEST, "the PROXY line holds a malformed address") from None
    port = int(match[6])
    if source.version != int(match[2]) or port > 65535 or int(match[5]) > 65535:
        raise Refused(BAD_REQUEST, "the PROXY line contradicts itself")
    return ProxyHeader(Source(str(source), port), end + 2)


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 0x0F
    family = data[13]
    length = int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or length > _V2_LONGEST:
        raise Refused(BAD_REQUEST, "the PROXY header is malformed")
    end = 16 + length
    if len(data) < end:
        return None
    if command == 0 or family not in (0x11, 0x21):
        return ProxyHeader(None, end)  # LOCAL, or not TCP over IP: what we see is what there is.
    size = 4 if family == 0x11 else 16
    if length < 2 * size + 4:
        raise Refused(BAD_REQUEST, "the PROXY header is shorter than its addresses")
    packed = data[16 : 16 + size]
    source: IPv4Address | IPv6Address = (
        IPv4Address(packed) if family == 0x11 else IPv6Address(packed)
    )
    port = int.from_bytes(data[16 + 2 * size + 2 : 16 + 2 * size + 4], "big")
    return ProxyHeader(Source(str(source), port), end)


class ProxyProtocol(CountedArrival):
    """Owns a connection until it has said whose it is."""

    __slots__ = ("_buffer",)

    def __init__(self, services: Services, listener: ListenerConfig) -> None:
        super().__init__(services, listener)
        self._buffer = b""  # ≤ _V2_LONGEST + 256 KiB

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrive(transport, self._listener.timeouts.head)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            announced = read(self._buffer)
        except Refused as refusal:
            self._refuse(refusal.fault, refusal.detail)
            return
        if announced is None:
            return
        protocol = new_connection(self._services, self._listener, announced.source)
        self._hand_on(protocol, self._buffer[announced.length :])

    def on_deadline(self, now: float) -> None:
        """See `Timed`."""
        self._refuse(HEAD_TIMEOUT, "no complete PROXY announcement in time")
