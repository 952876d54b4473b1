"""One instance as a process of its own, for tests that redeploy or kill it:
`python -m tests.e2e.instance_process ETCD ID [TTL [PORT]]`. SIGTERM leaves with notice. With a
port it does not wait for the registry."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from proxy.register import Record, Registrar
from proxy.register.registrar import START_LIMIT

NOTICE = 0.5
"""Seconds between the mark and the end: what was on its way arrives and is answered."""


class Answerer(asyncio.Protocol):
    """Answers each request that has no body with the id of the instance."""

    def __init__(self, answer: bytes, open_: set[Answerer]) -> None:
        self._answer = answer
        self._open = open_
        self._buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        heads = self._buffer.count(b"\r\n\r\n")
        if heads:
            self._buffer = self._buffer.rpartition(b"\r\n\r\n")[2]
            self.transport.write(self._answer * heads)


async def main(etcd: str, name: str, ttl: float = 10.0, fixed: int = 0) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    body = name.encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    open_: set[Answerer] = set()
    server = await loop.create_server(lambda: Answerer(answer, open_), "127.0.0.1", fixed)
    port = server.sockets[0].getsockname()[1]
    record = Record(service="users", port=port, address="127.0.0.1", id=name)
    limit = 0.0 if fixed else START_LIMIT
    async with Registrar(record, endpoints=[etcd], ttl=ttl, start_limit=limit) as registrar:
        sys.stdout.write("registered\n")
        sys.stdout.flush()
        await stop.wait()
        await registrar.drain(limit=NOTICE)
        await asyncio.sleep(NOTICE)
    server.close()
    for answerer in list(open_):
        answerer.transport.close()


if __name__ == "__main__":
    etcd, name, *rest = sys.argv[1:]
    ttl, port = (*rest, *("10", "0")[len(rest) :])
    uvloop.run(main(etcd, name, float(ttl), int(port)))
