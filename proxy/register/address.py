"""The address under which others reach this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from proxy.register.errors import InvalidRecord

RESOLVE_LIMIT = 2.0
"""Seconds to resolve the name of a registry's host."""


async def local_address(hosts: Sequence[str | None]) -> str:
    """This machine's address on the way to these, which is the one that the others there see;
    when that cannot be found out, the one on the default route. InvalidRecord when there is
    none either. Nothing is sent: a datagram socket is connected, and asked for its end."""
    loop = asyncio.get_running_loop()
    candidates: list[tuple[int, str]] = []
    for host in hosts:
        try:
            async with asyncio.timeout(RESOLVE_LIMIT):
                found = await loop.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError, UnicodeError):
            continue
        candidates += [(family, str(where[0])) for family, _, _, _, where in found]
    # RFC 5737 and RFC 3849: addresses that nobody has.
    candidates += [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
    for family, address in candidates:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    raise InvalidRecord(["address: none found for this machine; give one"])
