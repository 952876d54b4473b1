"""Names of registries' members, and how they are dialled: as those of instances, without a thread
of the loop.

A member whose name nobody answers for would otherwise take one of the loop's four threads for half
a minute at each try, and keep the process from ending meanwhile; and a connection that breaks while
the name servers are away could not be made again.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from aiohttp.abc import AbstractResolver, ResolveResult

from proxy.names.lookups import Lookups


class MemberNames(AbstractResolver):
    """Owns the lookups of one member, over all of the connections made to it. aiohttp tries the
    addresses as RFC 8305 says."""

    def __init__(self) -> None:
        self._lookups = Lookups()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See `AbstractResolver`. OSError when there is no address."""
        found = await self._lookups.addresses(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def dial(
        self, host: str, port: int, context: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address that takes one. OSError when there is none."""
        failure = OSError(f"no address for {host}")
        for found in await self.resolve(host, port):
            try:
                return await asyncio.open_connection(
                    found["host"], port, ssl=context, server_hostname=host if context else None
                )
            except OSError as error:
                failure = error
        raise failure

    async def close(self) -> None:
        """Keep what is known, which is to outlive connections; questions under way end by
        themselves."""
