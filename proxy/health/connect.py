"""Connections for probes: names, several addresses, and where registries may not lead."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from proxy.health.base import Endpoint
from proxy.names.base import Resolver
from proxy.names.cache import Name, Names
from proxy.names.eyeballs import first_of

if TYPE_CHECKING:
    from proxy.destinations import Destinations

UNUSED = 3600.0
"""Seconds after which a name that was not asked for is forgotten: its instance has left, since the
longest interval between probes that makes sense is far shorter."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Lookups:
    """Owns the names that one check looks up. Made outside an event loop; belongs to the one in
    which it is used until `close`."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        """`resolver`: by default this machine's."""
        self._given = resolver
        self._names: Names | None = None
        self._held: dict[str, tuple[Name, float]] = {}
        """Text → name, and when it was last asked for."""

    async def addresses(self, text: str) -> tuple[str, ...]:
        """The addresses behind a name, or the address itself. OSError when there is none."""
        loop = asyncio.get_running_loop()
        if self._names is None or self._names.loop is not loop:
            self._names = Names(loop, self._given)
            self._held.clear()
        now = loop.time()
        if text not in self._held:
            for old in [old for old, (_, at) in self._held.items() if now - at > UNUSED]:
                del self._held[old]
        name = self._held[text][0] if text in self._held else self._names.get(text)
        self._held[text] = (name, now)
        return name.known() or await name.find()

    def close(self) -> None:
        """Give up what is being asked. Safe to call more than once; lookups may follow."""
        if self._names is not None:
            self._names.close()
        self._names = None
        self._held.clear()


async def connect(
    lookups: Lookups,
    endpoint: Endpoint,
    *,
    destinations: Destinations | None = None,
    tls: ssl.SSLContext | None = None,
    limit: int = 65536,
) -> Connection:
    """A connection to the first address that takes one (RFC 8305). OSError when none does, or when
    none may be connected to. `destinations`: what an endpoint that is not the local file's may not
    lead to; None = it may lead anywhere. `limit`: bytes that the reader holds."""
    addresses = await lookups.addresses(endpoint.address)
    if destinations is not None and not endpoint.local:
        refusals = {one: destinations.refusal(one, endpoint.port) for one in addresses}
        addresses = tuple(one for one in addresses if not refusals[one])
        if not addresses:
            raise OSError("; ".join(refusals.values()))

    async def dial(address: str) -> Connection:
        return await asyncio.open_connection(
            address,
            endpoint.port,
            limit=limit,
            ssl=tls,
            server_hostname=endpoint.address if tls is not None else None,
        )

    if len(addresses) == 1:
        return await dial(addresses[0])
    _, connection = await first_of(addresses, dial, lambda unused: unused[1].transport.abort())
    return connection
