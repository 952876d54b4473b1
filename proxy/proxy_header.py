"""The header of the PROXY protocol as its sender writes it (HAProxy's proxy-protocol.txt)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


class Ends(NamedTuple):
    """The two ends of a connection: addresses without zones, and ports."""

    source: str
    source_port: int
    own: str
    own_port: int


def header(version: str, ends: Ends | None) -> bytes:
    """The bytes in front of a connection's first one. `version`: `v1` or `v2`; `ends`: of the
    connection that it is made for; None = it is the sender's own (§2.1 UNKNOWN, §2.2 LOCAL)."""
    if ends is None:
        return b"PROXY UNKNOWN\r\n" if version == "v1" else _SIGNATURE + b"\x20\x00\x00\x00"
    source, own = _plain(ends.source), _plain(ends.own)
    if source.version != own.version:
        source, own = _as_ipv6(source), _as_ipv6(own)
    family = 4 if source.version == 4 else 6
    if version == "v1":
        line = f"PROXY TCP{family} {source} {own} {ends.source_port} {ends.own_port}\r\n"
        return line.encode("ascii")
    ports = ends.source_port.to_bytes(2, "big") + ends.own_port.to_bytes(2, "big")
    body = source.packed + own.packed + ports
    kind = b"\x21\x11" if family == 4 else b"\x21\x21"
    return _SIGNATURE + kind + len(body).to_bytes(2, "big") + body


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Without a zone, and IPv4 as such."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")
