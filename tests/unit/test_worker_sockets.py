"""Listening sockets of a worker: who waits in one is never reset."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
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


async def test_the_port_of_a_listener_is_known_where_all_its_sockets_have_the_same(
    tmp_path: Path,
) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    theirs.setblocking(False)
    sockets = Sockets(loop, theirs, lambda facts: Accepted(Counter(), facts))
    names = {1: "one", 2: "two", 3: "two", 4: "unix"}
    listeners = tuple(ListenerSettings(name=name) for name in set(names.values()))
    facts = Listeners(Random(1)).prepare(WorkerConfig(listeners=listeners), {})
    with ours, theirs, ExitStack() as open_:
        made = {number: open_.enter_context(listening()) for number in (1, 2, 3)}
        unix = made[4] = open_.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "socket"))
        send_sockets(ours, made)
        sockets.receive(names)
        sockets.use(names, facts, ())
        ports = {name: one.port for name, one in facts.items()}
        assert ports == {"one": made[1].getsockname()[1], "two": 0, "unix": 0}
        await sockets.close(sockets.release_all(), False)
