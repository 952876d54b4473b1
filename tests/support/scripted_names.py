"""A name server over TCP that answers what a test tells it to, with names compressed as usual, and
as `dig` reads it (`tests/e2e/test_scripted_servers.py`)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Self

from tests.support.processes import free_port

A, AAAA, SRV, CNAME, SOA = 1, 28, 33, 5, 6
REFUSED = 5


def encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(name: bytes, kind: int, value: Any, ttl: int = 5) -> bytes:
    """`value`: an address, a name, (priority, weight, port, target), or the minimum of a SOA."""
    if kind in (A, AAAA):
        data = ip_address(value).packed
    elif kind == SRV:
        priority, weight, port, target = value
        data = struct.pack("!3H", priority, weight, port) + encoded(target)
    elif kind == SOA:
        data = encoded("ns") + encoded("admin") + struct.pack("!5I", 1, 2, 3, 4, value)
    else:
        data = encoded(value)
    return name + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answer(
    query: bytes,
    answers: Sequence[tuple[int, Any]] = (),
    extra: Sequence[tuple[str, int, Any]] = (),
    code: int = 0,
    ttl: int = 5,
    minimum: int | None = None,
) -> bytes:
    """The answer to a question, whose name the answers point to; those behind a CNAME are of the
    name that this leads to. `minimum`: seconds for which the zone says that there is none."""
    (number,) = struct.unpack_from("!H", query)
    zone = [] if minimum is None else [record(encoded("test"), SOA, minimum, ttl)]
    head = struct.pack("!6H", number, 0x8180 | code, 1, len(answers), len(zone), len(extra))
    owner, named = b"\xc0\x0c", []
    for kind, value in answers:
        named.append(record(owner, kind, value, ttl))
        owner = encoded(value) if kind == CNAME else owner
    more = [record(encoded(name), kind, value, ttl) for name, kind, value in extra]
    question = query[12 : query.index(b"\0", 12) + 5]
    return head + question + b"".join(named + zone + more)


class ScriptedNames:
    """Owns the server, and the records by name and kind. Names it does not know do not exist."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.records: dict[str, list[tuple[int, Any]]] = {}
        self.extra: list[tuple[str, int, Any]] = []
        self.codes: dict[str | tuple[str, int], int] = {}
        """Name, or name and kind → the error that is answered."""
        self.code = 0
        """The error that is answered to everything."""
        self.said = b""
        """Said on each connection instead of an answer, which ends it."""
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.ttls: dict[str, int] = {}
        """Name → seconds for which what is said of it holds."""
        self.asked: list[tuple[str, int]] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def pause(self) -> None:
        """Take questions and say nothing."""
        self.speaks.clear()

    def resume(self) -> None:
        self.speaks.set()

    async def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                message = self._answer(await reader.readexactly(size))
                await self.speaks.wait()
                if self.said:
                    writer.write(self.said)
                    return
                writer.write(struct.pack("!H", len(message)) + message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name = ".".join(labels)
        (kind,) = struct.unpack_from("!H", query, at + 1)
        self.asked.append((name, kind))
        ttl = self.ttls.get(name, 5)
        code = self.codes.get((name, kind)) or self.codes.get(name)
        if code := self.code or code or (0 if name in self.records else 3):
            return answer(query, code=code, ttl=ttl, minimum=ttl if code == 3 else None)
        known = self.records[name]
        extra = self.extra if kind == SRV else []
        found = [one for one in known if one[0] in (kind, CNAME)]
        return answer(query, found, extra, ttl=ttl, minimum=None if found else ttl)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()
