"""The admin server's connections under TLS.

The event loop's own TLS will do here (decision 0022 says what it cannot). It is accepted by hand,
so that a connection counts before its handshake, and has the certificates of that moment.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import structlog

from proxy.control.admin_connections import HEAD, LINGER, Door
from proxy.control.certificates import ListenerFiles
from proxy.messages import ListenerCertificates
from proxy.tls.contexts import ServerPolicy, server_context
from proxy.waiting import ended

log = structlog.get_logger()

Files = Callable[[], ListenerFiles | None]
"""The files in force; a reload makes them anew."""

PAUSE = 1.0
"""Seconds without accepting, once that has failed: for want of a descriptor, most likely."""


class SecureSite:
    """Owns the task that accepts connections, and those that wait for handshakes."""

    def __init__(self, door: Door, sock: socket.socket, files: Files, limit: float = HEAD) -> None:
        """`sock`: listening already, owned by the caller. `limit`: seconds for a handshake."""
        self._limit = limit
        self._door = door
        self._socket = sock
        self._files = files
        self._context: tuple[ListenerCertificates, ssl.SSLContext] | None = None
        """With its certificates."""
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(), name="admin connections")

    async def close(self) -> None:
        """Accept no more. Connections that are there are the door's to close."""
        tasks = [*self._handshakes, *([self._accepting] if self._accepting else [])]
        await ended(*tasks)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("admin_accept_failed", error=error.strerror)
                await asyncio.sleep(PAUSE)
                continue
            task = asyncio.create_task(self._shake_hands(sock, peer), name="admin handshake")
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, sock: socket.socket, peer: object) -> None:
        connection = self._door()
        task = asyncio.current_task()
        assert task is not None
        if not connection.arrive(peer, task.cancel):
            sock.close()
            return
        told = False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._current(),
                ssl_handshake_timeout=self._limit,
                ssl_shutdown_timeout=LINGER,
            )
        except (OSError, ValueError) as error:
            told = isinstance(error, (ssl.SSLError, ConnectionAbortedError, ValueError))
            log.debug("admin_handshake_failed", peer=peer, error=str(error))
        finally:
            if not connection.connected:
                sock.close()
                connection.not_secured(told=told)

    def _current(self) -> ssl.SSLContext:
        """The context with the certificates that are there now."""
        files = self._files()
        message = None if files is None else files.message
        if message is None:
            raise ValueError("there is no certificate any more")  # This site is about to close.
        if self._context is None or self._context[0] is not message:
            policy = ServerPolicy(client_ca=message.client_ca, tickets=False, alpn=("http/1.1",))
            self._context = message, server_context(message.pairs, policy)
        return self._context[1]
