"""Listening sockets of a worker: who waits in one is never reset."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from random import Random

from proxy.channel import send_sockets
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.listeners import Listeners
from proxy.engine.sockets import Sockets
from proxy.messages import WorkerConfig
from proxy.settings.listener import ListenerSettings


class Accepted(asyncio.Protocol):
    """A connection that is counted and closed."""

    def __init__(self, counts: Counter[str], facts: ListenerConfig) -> None:
        self.counts, self.name = counts, facts.settings.name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.counts[self.name] += 1
        transport.close()


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    return sock


async def test_clients_that_wait_are_accepted_before_the_end_and_later_ones_refused() -> None:
    loop, counts = asyncio.get_running_loop(), Counter[str]()
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    theirs.setblocking(False)
    sockets = Sockets(loop, theirs, lambda facts: Accepted(counts, facts))
    names = {1: "a", 2: "b"}
    config = WorkerConfig(listeners=tuple(ListenerSettings(name=n) for n in names.values()))
    facts = Listeners(Random(1)).prepare(config, {})
    with ours, theirs, listening() as one, listening() as two:
        at = one.getsockname()
        send_sockets(ours, {1: one, 2: two})
        sockets.receive(names)
        sockets.use(names, facts, ())
        await sockets.accept()
        assert sockets.open == (1, 2)
        one.close()
        clients = [socket.create_connection(at) for _ in range(20)]  # The loop does not run.
        released = sockets.release((1, 99))
        assert sockets.open == (2,)
        await sockets.close(released, True)
        assert counts == {"a": 20}
        for client in clients:
            assert client.recv(1) == b""
            client.close()
        with socket.socket() as late:
            assert late.connect_ex(at) != 0
        await sockets.close(sockets.release_all(), False)
        # Somebody else has the other socket: whoever comes there waits for that.
        waits = socket.create_connection(two.getsockname())
        two.accept()[0].close()
        waits.close()
