"""The address under which others reach this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from proxy.names.lookups import Lookups
from proxy.register.errors import InvalidRecord

RESOLVE_LIMIT = 2.0
"""Seconds to resolve the name of a registry's host."""


async def local_address(hosts: Sequence[str | None]) -> str:
    """The address of this machine on the way to `hosts`, which is the one that the others there
    see; when that cannot be found out, the one on the default route. InvalidRecord when there is
    none either. Nothing is sent: a datagram socket is connected, and asked for its end."""
    lookups = Lookups()
    candidates: list[str] = []
    for host in hosts:
        try:
            async with asyncio.timeout(RESOLVE_LIMIT):
                candidates += await lookups.addresses(host or "")
        except (OSError, TimeoutError):
            continue
    lookups.close()
    # RFC 5737 and RFC 3849: addresses that nobody has.
    candidates += ["192.0.2.1", "2001:db8::1"]
    for address in candidates:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    raise InvalidRecord(["address: none found for this machine; give one"])
