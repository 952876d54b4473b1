"""Connections for probes, and the names that have to be looked up before.

An event loop looks names up in a few threads, four with uvloop, behind a queue without a bound,
and a process does not end while they work. When no name server answers, each of them is taken for
half a minute: probes of other names, the registry's client, and with uvloop even a socket that is
connected to an address would wait behind them, and so would the exit. So names of endpoints are
looked up in threads of our own, a few at a time, each name once, and nobody waits for their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from functools import partial

from proxy.health.base import Endpoint

LOOKUPS = 8
"""Names that one check looks up at a time; the others wait, each within the limit of its probe."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Names:
    """Owns the lookups of one check that are under way."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}
        self._room = asyncio.Semaphore(LOOKUPS)

    async def addresses(self, name: str) -> list[str]:
        """The addresses behind a name, or the address itself. OSError when there is none."""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return [name]
        if name not in self._under_way:
            await self._room.acquire()
            if name in self._under_way:  # Somebody else has waited for the same.
                self._room.release()
            else:
                self._look_up(name)
        return await asyncio.shield(self._under_way[name])

    def _look_up(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        self._under_way[name] = future

        def found(addresses: list[str] | OSError) -> None:
            del self._under_way[name]
            self._room.release()
            if isinstance(addresses, OSError):
                future.set_exception(addresses)
                future.exception()  # Those who asked may all have given up.
            else:
                future.set_result(addresses)

        def run() -> None:
            result: list[str] | OSError
            try:
                entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                result = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            except OSError as error:
                result = error
            except UnicodeError:
                result = OSError(f"{name!r} is no host name")
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(found, result)

        try:
            # A daemon: one that waits for a name server does not keep the process.
            threading.Thread(target=run, name=f"look up {name}", daemon=True).start()
        except RuntimeError as error:
            loop.call_soon(partial(found, OSError(str(error))))


async def connect(
    names: Names, endpoint: Endpoint, *, tls: ssl.SSLContext | None = None, limit: int = 65536
) -> Connection:
    """A connection to the first address that takes one. OSError of the last one that does not.
    `limit`: bytes that the reader holds."""
    failure: OSError | None = None
    for address in await names.addresses(endpoint.address):
        try:
            return await asyncio.open_connection(
                address,
                endpoint.port,
                limit=limit,
                ssl=tls,
                server_hostname=endpoint.address if tls is not None else None,
            )
        except OSError as error:
            failure = error
    raise failure or OSError(f"no address of {endpoint.address}")
