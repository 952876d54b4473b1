"""An address of the admin server while it is served: a reload may bring another one, and then the
one before finishes what it has."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from proxy.control.admin_access import Access, is_loopback
from proxy.control.admin_connections import Door, room
from proxy.control.admin_tls import Files, SecureSite
from proxy.control.sockets import descriptors
from proxy.messages import BACKLOG
from proxy.settings.process import AdminSettings

Serve = Callable[[Access, web.BaseRequest], Awaitable[web.StreamResponse]]


LAST_CALL = 0.5
"""Seconds for connections without a request at an address that is left."""


class Front:
    """Owns the connections that come in at an address, who accepts them, and the rules for them."""

    def __init__(
        self,
        serve: Serve,
        sock: socket.socket,
        settings: AdminSettings,
        files: Files,
        closed: Counter[str] | None = None,
    ) -> None:
        """`sock`: listening already, owned by the caller, who may give it to several. `files`: of
        the certificate, if there is one; `closed`: see `Door`."""
        # Whoever accepts closes its socket in the end.
        self._socket = sock.dup()
        self.access = Access(
            token=settings.token,
            read_token=settings.read_token,
            # Who wrote a name into `bind` calls it by that.
            hosts=(*settings.hosts, settings.bind.rpartition(":")[0]),
            local=is_loopback(sock.getsockname()[0]),
        )
        self.door = Door(
            lambda request: serve(self.access, request), room(descriptors()), closed=closed
        )
        self._site = SecureSite(self.door, self._socket, files) if settings.tls else None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer."""
        if self._site is not None:
            self._site.start()
        else:
            # uvloop accepts one in each turn, so who is too many waits in the kernel.
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self.door, sock=self._socket, backlog=BACKLOG)

    def follow(self, tokens: Access) -> None:
        """Obey tokens of another configuration from here on: connections that are kept outlive a
        reload, and a token that is taken away must not."""
        self.access = replace(self.access, token=tokens.token, read_token=tokens.read_token)

    async def stop_accepting(self) -> None:
        """Accept no more; connections that there are go on."""
        if self._site is not None:
            await self._site.close()
        if self._server is not None:
            self._server.close()
        self._socket.close()

    async def leave(self, limit: float) -> None:
        """Do as `close` does, where nobody waits for the end."""
        await self.stop_accepting()
        # Who was accepted a moment ago has a request on its way.
        await asyncio.sleep(LAST_CALL)
        await self.close(limit)

    async def close(self, limit: float) -> None:
        """Accept no more, and close the connections: those with a request once it is answered, or
        after `limit` seconds."""
        await self.stop_accepting()
        await asyncio.sleep(0)  # Requests that have come begin.
        await self.door.shutdown(limit)

    def abort(self) -> None:
        """Close the connections at once."""
        for connection in [*self.door.guests.values()]:
            connection.end()
