"""One connection to a server of ZooKeeper: requests in their order, replies, notifications."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from proxy.registry.base import RegistryError
from proxy.registry.named import MemberNames
from proxy.registry.rest import DIAL_LIMIT, Secret, tls_context
from proxy.registry.zookeeper import wire
from proxy.registry.zookeeper.options import Options
from proxy.registry.zookeeper.wire import Op, Reader
from proxy.waiting import ended

T = TypeVar("T")

ACCEPT_LIMIT: Final = 2.0
"""Seconds from the connection to a session, which is one write. Servers that start take connections
before they answer on them."""

CALL_LIMIT: Final = 5.0
"""Seconds for a request; an election takes one or two."""
PORT: Final = 2181


class TurnedAway(RegistryError):
    """The server hung up instead of accepting the session: it serves nobody (no quorum), or it is
    behind the zxid that it was told."""


class Link:
    """Owns one connection and the session on it, which is new each time: a reader's session holds
    nothing. Built while the server is down, and outside an event loop. Calls raise RegistryError
    only."""

    def __init__(self, url: str, options: Options, *, timeout: float) -> None:
        """`url`: `host:port`, a scheme in front of it does not matter; `timeout`: of the session,
        in seconds."""
        self.url = url
        self.zxid = 0
        """The newest that this server has told."""
        self.accepted = wire.Accepted(0, 0, b"")
        """The session; of no connection when its timeout is 0."""
        self.on_event: Callable[[wire.Event], None] = lambda event: None
        self.session_timeout = timeout
        self._tls = options.tls
        self._username = options.username
        self._password = Secret(options.password, options.password_file)
        self._names = MemberNames()
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[int, str, asyncio.Future[Reader]]] = deque()  # ≤ calls under way
        self._aside: dict[int, asyncio.Future[Reader]] = {}
        """Answers that come outside of the order, by xid: to pings and credentials."""
        self._end = ""
        """Why the connection ended."""
        self._xid = 0

    # --------------------------------------------------------------------- the connection

    async def connect(self, zxid: int, session: wire.Accepted | None = None) -> None:
        """Connect, as one who has seen `zxid`, with a session that is known or a new one. LeaseLost
        when that has ended."""
        await self.disconnect()
        try:
            await self._connect(zxid, session)
        except BaseException:
            await self.disconnect()
            raise

    async def _connect(self, zxid: int, session: wire.Accepted | None) -> None:
        host, _, port = self.url.rpartition("/")[2].rpartition(":")
        context = None if self._tls is None else tls_context(self._tls)
        try:
            async with asyncio.timeout(DIAL_LIMIT):
                reader, self._writer = await self._names.dial(host.strip("[]"), int(port), context)
            known = session or wire.Accepted(int(self.session_timeout * 1000), 0, b"")
            self._writer.write(wire.connect(zxid, known.timeout, known.session, known.password))
            async with asyncio.timeout(min(ACCEPT_LIMIT, self.session_timeout)):
                try:
                    self.accepted = Reader(await _frame(reader)).accepted()
                except asyncio.IncompleteReadError:
                    raise TurnedAway("hung up instead of accepting a session") from None
        except TimeoutError:
            raise RegistryError("no connection, or no session, in time") from None
        except OSError as error:  # of which ssl.SSLError is one
            raise RegistryError(str(error) or type(error).__name__) from error
        if self.accepted.timeout <= 0:
            raise wire.failed(wire.SESSION_EXPIRED, "connect")
        self.zxid = 0
        self._reader = asyncio.create_task(self._read(reader))
        if self._username:
            body = wire.auth("digest", f"{self._username}:{self._password()}")
            await self._answer(self._send_aside(Op.AUTH, body, wire.AUTH), CALL_LIMIT)

    async def disconnect(self) -> None:
        """Hang up. Safe at any time, more than once; the session ends at once, or by itself."""
        task, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        self.accepted = self.accepted._replace(timeout=0)
        if writer is not None:
            writer.transport.abort()  # First: whoever waits below may be cancelled.
        await ended(task)

    async def close_session(self) -> None:
        """End the session, and with it all its nodes."""
        await self.call(Op.CLOSE, b"", "close")

    async def keep(self) -> None:
        """Ping for ever, thrice in the session's timeout; a reply that does not come in two thirds
        of it ends the connection."""
        third = self.accepted.timeout / 3000
        while True:
            await asyncio.sleep(third)
            await self.ping(2 * third)

    async def ping(self, limit: float) -> None:
        """Renew the session."""
        await self._answer(self._send_aside(Op.PING, b"", wire.PING), limit)

    async def ended(self) -> None:
        """Wait for the end of the connection; RegistryError then."""
        if self._reader is not None:
            await asyncio.wait([self._reader])
        raise RegistryError(self._end or "not connected")

    # -------------------------------------------------------------------------- requests

    async def call(self, op: Op, body: bytes, what: str, limit: float = CALL_LIMIT) -> Reader:
        """The reply to one request; `what` is asked, for messages."""
        return (await self.calls([(op, body, what)], limit))[0]

    async def calls(
        self, requests: Sequence[tuple[Op, bytes, str]], limit: float = CALL_LIMIT
    ) -> list[Reader]:
        """Replies to requests that are sent together. A `Failed` of one is raised once all are
        answered."""
        found = await self.outcomes(requests, limit)
        for one in found:
            if isinstance(one, wire.Failed):
                raise one
        return [one for one in found if isinstance(one, Reader)]

    async def outcomes(
        self, requests: Sequence[tuple[Op, bytes, str]], limit: float = CALL_LIMIT
    ) -> list[Reader | wire.Failed]:
        """As `calls`, with a `Failed` in the place of its reply."""
        futures = [self._send(*one) for one in requests]
        found = await self._answer(asyncio.gather(*futures, return_exceptions=True), limit)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, wire.Failed):
                raise one
        return [one for one in found if isinstance(one, Reader | wire.Failed)]

    def _send(self, op: Op, body: bytes, what: str) -> asyncio.Future[Reader]:
        future: asyncio.Future[Reader] = asyncio.get_running_loop().create_future()
        if self._writer is None:
            future.set_exception(RegistryError(f"{what}: {self._end or 'not connected'}"))
            return future
        self._xid = self._xid % 0x7FFFFFFF + 1
        self._waiting.append((self._xid, what, future))
        self._writer.write(wire.request(self._xid, op, body))
        return future

    def _send_aside(self, op: Op, body: bytes, xid: int) -> asyncio.Future[Reader]:
        if self._writer is None:
            raise RegistryError(self._end or "not connected")
        self._aside[xid] = asyncio.get_running_loop().create_future()
        self._writer.write(wire.request(xid, op, body))
        return self._aside[xid]

    async def _answer(self, future: asyncio.Future[T], limit: float) -> T:
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            raise RegistryError(f"no answer within {limit:g} s") from None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand replies over until the connection ends."""
        self._end = "the server hung up"
        try:
            while True:
                frame = Reader(await _frame(reader))
                xid, zxid, code = frame.reply()
                if xid == wire.NOTIFICATION:
                    self.on_event(frame.event(zxid))
                    continue
                self.zxid = max(self.zxid, zxid)
                self._hand_over(xid, code, frame)
        except (RegistryError, OSError) as error:
            self._end = str(error) or type(error).__name__
        except asyncio.IncompleteReadError:
            pass
        finally:
            if self._writer is not None:
                self._writer.transport.abort()
            self._writer = None
            waiting = [(what, future) for _, what, future in self._waiting]
            waiting += [("session", future) for future in self._aside.values()]
            self._waiting.clear()
            self._aside.clear()
            for what, future in waiting:
                if not future.done():
                    future.set_exception(RegistryError(f"{what}: {self._end}"))

    def _hand_over(self, xid: int, code: int, frame: Reader) -> None:
        if xid in self._aside:
            what, future = "session", self._aside.pop(xid)
        elif self._waiting and self._waiting[0][0] == xid:
            _, what, future = self._waiting.popleft()
        else:
            raise RegistryError(f"a reply to {xid}, which nobody has asked")
        if future.done():
            return  # Nobody waits any more.
        if code:
            future.set_exception(wire.failed(code, what))
        else:
            future.set_result(frame)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = Reader(await reader.readexactly(4)).small()
    if not 0 <= size <= wire.MAX_FRAME:
        raise RegistryError(f"a frame of {size} bytes; at most {wire.MAX_FRAME} are read")
    return await reader.readexactly(size)
