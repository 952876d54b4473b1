"""A name server over TCP that answers what a test tells it to, with names compressed as usual."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Self

from tests.support.processes import free_port

A, AAAA, SRV, CNAME = 1, 28, 33, 5


def encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(name: bytes, kind: int, value: Any) -> bytes:
    """`value`: an address, a name, or (priority, weight, port, target)."""
    if kind in (A, AAAA):
        data = ip_address(value).packed
    elif kind == SRV:
        priority, weight, port, target = value
        data = struct.pack("!3H", priority, weight, port) + encoded(target)
    else:
        data = encoded(value)
    return name + struct.pack("!HHIH", kind, 1, 5, len(data)) + data


def answer(
    query: bytes,
    answers: Sequence[tuple[int, Any]] = (),
    extra: Sequence[tuple[str, int, Any]] = (),
    code: int = 0,
) -> bytes:
    """The answer to a question, whose name the answers point to."""
    (number,) = struct.unpack_from("!H", query)
    head = struct.pack("!6H", number, 0x8180 | code, 1, len(answers), 0, len(extra))
    named = [record(b"\xc0\x0c", kind, value) for kind, value in answers]
    more = [record(encoded(name), kind, value) for name, kind, value in extra]
    return head + query[12:] + b"".join(named + more)


class ScriptedNames:
    """Owns the server, and the records by name and kind. Names it does not know do not exist."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.records: dict[str, list[tuple[int, Any]]] = {}
        self.extra: list[tuple[str, int, Any]] = []
        self.codes: dict[str, int] = {}
        """Name → the error that is answered."""
        self.asked: list[tuple[str, int]] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

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
        if code := self.codes.get(name, 0 if name in self.records else 3):
            return answer(query, code=code)
        known = self.records[name]
        extra = self.extra if kind == SRV else []
        return answer(query, [one for one in known if one[0] in (kind, CNAME)], extra)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()
