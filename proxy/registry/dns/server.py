"""A name server over TCP, where no answer is cut off: some answer over UDP with a part of the
records and do not say so."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Final

from proxy.registry.base import RegistryError
from proxy.registry.dns.wire import Kind, Reply, question, reply

DIAL_LIMIT: Final = 2.0
CALL_LIMIT: Final = 5.0
"""Seconds to connect, and for all answers of one connection."""

AT_A_TIME: Final = 50
"""Questions over one connection: dnsmasq takes a hundred."""

Question = tuple[str, Kind]


class NameServer:
    """One name server, as a `Connection`. Nothing stays open between questions, which servers are
    free to end at any time (RFC 7766)."""

    def __init__(self, address: str) -> None:
        """`address`: `host:port`."""
        self.url = address
        host, _, port = address.rpartition(":")
        self._place = host.strip("[]"), int(port)

    async def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """The answers, in the order of the questions."""
        replies: list[Reply] = []
        for start in range(0, len(questions), AT_A_TIME):
            some = questions[start : start + AT_A_TIME]
            try:
                async with asyncio.timeout(CALL_LIMIT):
                    replies += await self._ask(some)
            except TimeoutError:
                raise RegistryError(f"no answer within {CALL_LIMIT:g} s") from None
            except (OSError, asyncio.IncompleteReadError) as error:
                raise RegistryError(f"over TCP: {error}") from error
        return replies

    async def disconnect(self) -> None:
        """Do nothing: nothing is open."""

    async def _ask(self, questions: Sequence[Question]) -> list[Reply]:
        async with asyncio.timeout(DIAL_LIMIT):
            reader, writer = await asyncio.open_connection(*self._place)
        try:
            for number, (name, kind) in enumerate(questions):
                message = question(number, name, kind)
                writer.write(struct.pack("!H", len(message)) + message)
            replies: dict[int, Reply] = {}
            while len(replies) < len(questions):
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                one = reply(await reader.readexactly(size))
                if one.number >= len(questions) or one.number in replies:
                    raise RegistryError(f"an answer to question {one.number}, which is not open")
                replies[one.number] = one
            return [replies[number] for number in range(len(questions))]
        finally:
            writer.transport.abort()
