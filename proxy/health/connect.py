"""Connections for probes: names, several addresses, and where registries may not lead."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from proxy.health.base import Check, Endpoint, checked_port
from proxy.names.eyeballs import first_of
from proxy.names.lookups import Lookups
from proxy.tls.identity import is_another

if TYPE_CHECKING:
    from proxy.destinations import Destinations

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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
    lead to; None = it may lead anywhere. `tls`: with it the endpoint must prove its `server_name`,
    or its address; in a trust domain that it is the service. `limit`: bytes that the reader
    holds."""
    addresses = await lookups.addresses(endpoint.address)
    if destinations is not None and not endpoint.local:
        refusals = {one: destinations.refusal(one, endpoint.port) for one in addresses}
        addresses = tuple(one for one in addresses if not refusals[one])
        if not addresses:
            raise OSError("; ".join(refusals.values()))

    async def dial(address: str) -> Connection:
        name = (endpoint.server_name or endpoint.address) if tls else None
        first = None if endpoint.preface else tls
        reader, writer = await asyncio.open_connection(
            address,
            endpoint.port,
            limit=limit,
            ssl=first,
            server_hostname=None if first is None else name,
        )
        try:
            if endpoint.preface:
                writer.write(endpoint.preface)
                if tls is not None:
                    await writer.start_tls(tls, server_hostname=name)
            if tls is not None and endpoint.trust_domain:
                shown = writer.get_extra_info("peercert") or {}
                if said := is_another(shown, endpoint.server_name, endpoint.trust_domain):
                    raise ConnectionAbortedError(said)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    if len(addresses) == 1:
        return await dial(addresses[0])
    _, connection = await first_of(addresses, dial, lambda unused: unused[1].transport.abort())
    return connection


class ConnectingCheck(Check):
    """Owns the look-ups of a check that makes a connection for each probe."""

    def __init__(self, *, timeout: float, host: str = "", port: int = 0) -> None:
        super().__init__(timeout=timeout)
        if not host.isascii() or not host.isprintable() or " " in host:
            raise ValueError(f"host: {host!r} is not a host in visible ASCII")
        self._host = host
        self._port = checked_port(port)
        self._lookups = Lookups()

    def _place(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint that is asked."""
        return endpoint._replace(port=self._port) if self._port else endpoint

    async def close(self) -> None:
        """See `Check`."""
        self._lookups.close()
