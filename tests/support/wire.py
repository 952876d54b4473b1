"""A whole data plane between a test's clients and a test's instances, all in memory.

    wire = Wire()
    client = wire.client()
    client.send(get("/x"))
    instance = wire.accepted("a")
    instance.expect(forwarded("GET /x"))
    instance.send(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
    client.expect(...)
    wire.done()

`done` fails on bytes nobody expected and on anything that was taken and not given back.
"""

from __future__ import annotations

import os
import re
import select
import ssl
from collections.abc import Callable
from random import Random
from typing import Any, cast

from msgspec.structs import replace

from proxy.channel import Channel
from proxy.engine.accepting import new_connection
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.load import Board
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.worker import Worker
from proxy.errors import FAULTS
from proxy.messages import (
    BreakerTurned,
    CertificatePair,
    Configure,
    ListenerCertificates,
    PoolNode,
    PoolSnapshot,
    Suspect,
    ToWorker,
    UpstreamFiles,
    WorkerConfig,
)
from proxy.messages import Pools as PoolsMessage
from proxy.settings.listener import ListenerSettings
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from proxy.settings.upstream_tls import UpstreamTls
from tests.support.loop_and_network import (
    Address,
    FakeTransport,
    Network,
    SteppedLoop,
    ToldResolver,
)
from tests.support.tls_far_end import TlsFarEnd, authority, client_side, server_side

CLIENT: Address = ("192.0.2.7", 40000)
PROXY: Address = ("192.0.2.1", 8080)
TOKEN = "t0k3n"
TO_INSTANCES = UpstreamTls(mode="on", ca="ca")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
OK_RELAYED = (
    b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\nContent-Length: 2\r\nVia: 1.1 fairlead\r\n\r\nhi"
)
OK_RELAYED_CLOSE = (
    b"HTTP/1.1 200 OK\r\nX-Request-ID: r1\r\n"
    b"Content-Length: 2\r\nConnection: close\r\nVia: 1.1 fairlead\r\n\r\nhi"
)


_DATE = re.compile(rb"(?<=\n)Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n")


def request(line: str, *fields: str, body: bytes = b"", host: str | None = "h") -> bytes:
    """A request head, with Host and X-Request-ID, and what follows it."""
    lines = [line if " HTTP/" in line else f"{line} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [*fields, "X-Request-ID: r1"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def forwarded(
    line: str,
    *fields: str,
    body: bytes = b"",
    host: str = "h",
    asked: str | None = None,
    for_: str = CLIENT[0],
    proto: str = "http",
    port: str = str(PROXY[1]),
    after: tuple[str, ...] = (),
    id: str = "r1",
) -> bytes:
    """What an instance gets of it, to the byte."""
    lines = [
        f"{line} HTTP/1.1",
        f"Host: {host}",
        *fields,
        f"X-Forwarded-For: {for_}",
        f"X-Forwarded-Proto: {proto}",
        f"X-Forwarded-Host: {host if asked is None else asked}",
        f"X-Forwarded-Port: {port}",
        f"Via: 1.1 fairlead ({TOKEN})",
        *after,
        f"X-Request-ID: {id}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class Peer:
    """The far end of one connection, in the test's hands."""

    def __init__(self, wire: Wire, transport: FakeTransport | TlsFarEnd, name: str) -> None:
        self.wire = wire
        self.transport = transport
        self.name = name

    def __repr__(self) -> str:
        return f"<Peer {self.name} {bytes(self.transport.taken[:60])!r}>"

    @property
    def raw(self) -> FakeTransport:
        """The connection below TLS, if there is that."""
        transport = self.transport
        return transport.raw if isinstance(transport, TlsFarEnd) else transport

    def send(self, *pieces: bytes) -> None:
        """Each piece arrives as one read."""
        for piece in pieces:
            self.transport.feed(piece)
            self.wire.settle()

    def send_at_once(self, *pieces: bytes) -> None:
        """Several reads within one turn of the loop."""
        self.transport.feed(*pieces)
        self.wire.settle()

    def eof(self) -> None:
        self.transport.feed_eof()
        self.wire.settle()

    def reset(self) -> None:
        self.transport.reset()
        self.wire.settle()

    def stall(self) -> None:
        self.transport.stall()

    def read_on(self, size: int | None = None) -> None:
        self.transport.read_on(size)
        self.wire.settle()

    def take(self) -> bytes:
        """Everything received since the last look, but for Date, which answers get that come
        without."""
        taken = bytes(self.transport.taken)
        self.transport.taken.clear()
        return _DATE.sub(b"", taken)

    def expect(self, wanted: bytes) -> None:
        """Exactly this was received since the last look."""
        assert self.take() == self.wire.as_forwarded(wanted)

    def got(self, wanted: bytes) -> bool:
        """Whether exactly this was received since the last look."""
        return self.take() == self.wire.as_forwarded(wanted)

    def expect_nothing(self) -> None:
        assert self.take() == b""

    def expect_problem(self, status: int, what: str, *, closing: bool = False) -> bytes:
        """An answer of the proxy's own, whole; its head is returned. `what`: the fault's code, or
        its RFC 9209 type where any fault of that will do."""
        answer = self.take()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), answer
        said = re.search(rb'\r\nProxy-Status: fairlead; error=(\w+); details="(\w+)"\r\n', head)
        assert said is not None, head
        error, code = said[1].decode(), said[2].decode()
        assert (FAULTS[code].error, FAULTS[code].status) == (error, status)
        assert what in (error, code), head
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        assert length is not None
        assert int(length[1]) == len(body)
        assert (b"\r\nConnection: close" in head) == closing, head
        return head

    @property
    def closed(self) -> bool:
        """We closed, or cut, the connection."""
        return self.transport.lost

    @property
    def cut(self) -> bool:
        """We did not wait until what was written was on its way."""
        return self.transport.lost and self.transport.aborted

    @property
    def saw_reset(self) -> bool:
        """The connection was reset, so that nobody could take what came for the whole."""
        sock = self.transport.sock
        assert sock is not None
        return self.transport.lost and sock.resets

    @property
    def saw_end(self) -> bool:
        """We said that nothing more comes."""
        return self.transport.ended and not self.transport.aborted

    @property
    def read(self) -> bool:
        """We are willing to take more from this peer."""
        return self.transport.is_reading()


class NotedChannel(Channel[ToWorker]):
    """A channel to nobody, which notes what would be said of instances and breakers."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.noted: list[Suspect | BreakerTurned] = []

    def send(self, message: object) -> None:
        if isinstance(message, (Suspect, BreakerTurned)):
            self.noted.append(message)


class Wire:
    """One worker with its configuration, its clients and its instances."""

    def __init__(
        self,
        *instances: str,
        routes: tuple[RouteSpec, ...] = (RouteSpec(path_prefix="/", service="s"),),
        settings: ServiceSettings | None = None,
        services: dict[str, ServiceSettings] | None = None,
        listener: ListenerSettings | None = None,
        late_pause: bool = False,
        tls: bool = False,
        http2: bool = False,
    ) -> None:
        """`tls`: clients and instances speak it; `http2`: instances do."""
        self.tls = tls
        self.alpn: tuple[str, ...] = ("h2", "http/1.1")
        """What instances say under TLS that they speak, the best first."""
        self.http2 = http2
        self._far_ends: dict[FakeTransport, TlsFarEnd] = {}
        self.network = Network(late_pause=late_pause)
        self.loop = SteppedLoop(self.network)
        self.board = Board.create(2)
        poller = cast(Callable[[], select.epoll], self.network.poller)
        self.resolver = ToldResolver(self.loop)
        self.worker = Worker(
            self.loop,
            0,
            self.board,
            None,
            Random(1),
            self.loop.time,
            poller,
            self.resolver,
            self._new_channel,
        )
        self.configure(routes, services or {"s": settings or ServiceSettings()}, listener)
        self.names = instances or ("a",)
        self.serve(*self.names)
        self.peers: list[Peer] = []

    def _new_channel(self, *arguments: Any) -> Channel[ToWorker]:
        self.channel = NotedChannel(*arguments)
        return self.channel

    def suspects(self) -> list[Suspect]:
        """Instances that the worker has reported to the control process, in order."""
        return [message for message in self.channel.noted if isinstance(message, Suspect)]

    def breaker_states(self) -> list[str]:
        """States that the worker has told of breakers, in order."""
        return [
            message.state for message in self.channel.noted if isinstance(message, BreakerTurned)
        ]

    def configure(
        self,
        routes: tuple[RouteSpec, ...],
        services: dict[str, ServiceSettings],
        listener: ListenerSettings | None = None,
        admin_port: int = 0,
        allow: tuple[str, ...] = (),
    ) -> None:
        listener = listener or ListenerSettings()
        if self.tls:
            services = {name: replace(one, tls=TO_INSTANCES) for name, one in services.items()}
        if self.tls and listener.tls is None:
            files = Certificate(cert="c.pem", key="c.key")
            listener = replace(listener, tls=ListenerTls(certificates=(files,)))
        self.worker.on_message(
            Configure(
                WorkerConfig(
                    listeners=(listener,),
                    defaults=ServiceSettings(tls=TO_INSTANCES if self.tls else UpstreamTls()),
                    routes=routes,
                    services=services,
                    workers=2,
                    via_token=TOKEN,
                    admin_port=admin_port,
                    allow=allow,
                )
            )
        )
        if listener.tls is not None and not listener.tls.certificates[0].acme:
            self.prove(authority()[1])
        if self.tls:
            self.worker.on_message(UpstreamFiles(generation=1, contents={"ca": authority()[0]}))

    def prove(self, *pairs: CertificatePair, **more: bytes) -> None:
        """Certificates for the listener."""
        self.worker.on_message(
            ListenerCertificates(listener="web", generation=1, pairs=pairs, **more)
        )

    def serve(
        self,
        *names: str,
        service: str = "s",
        panic: bool = False,
        http2: bool | None = None,
        published: tuple[str, ...] = (),
        **status: str,
    ) -> None:
        """Instances `a`, `b`, … of a service; `a="draining"` sets a status; `http2`: what they
        speak, if it is not what those of the wire do; `published`: demands of routes that the
        service meets."""
        http2 = self.http2 if http2 is None else http2
        generation = 1
        pool = self.worker.pools.get(service)
        if pool is not None:
            generation = pool.generation + 1
        nodes = tuple(
            PoolNode(
                f"{name}@{self.address(name)[0]}:80",
                name,
                *self.address(name),
                1,
                status.get(name, "ready"),
                ord(name[0]) - 96,
                server_name="h" if self.tls else None,
                protocol="h1" if not http2 else "h2" if self.tls else "h2c",
            )
            for name in names
        )
        self.loop.callbacks += 1
        self.worker.on_message(
            PoolsMessage(
                seq=generation,
                snapshots=(PoolSnapshot(service, generation, nodes, panic, published),),
            )
        )
        self.settle()

    def serve_at(
        self, *addresses: str, port: int = 80, service: str = "s", local: bool = False
    ) -> None:
        """Instances at these addresses or names, whose ids they are as well."""
        pool = self.worker.pools.get(service)
        generation = 1 if pool is None else pool.generation + 1
        nodes = tuple(
            PoolNode(
                f"{one}@{one}:{port}",
                one,
                one,
                port,
                1,
                "ready",
                slot,
                local,
                "h" if self.tls else None,
            )
            for slot, one in enumerate(addresses, 1)
        )
        self.worker.on_message(
            PoolsMessage(seq=generation, snapshots=(PoolSnapshot(service, generation, nodes),))
        )
        self.settle()

    def accepted_at(self, address: str, port: int = 80) -> Peer:
        """The next connection that the proxy made to an address."""
        waiting = self.network.accepted.get((address, port))
        assert waiting, f"nobody connected to {address}; dialled: {self.network.dialled}"
        return self._adopt_instance(waiting.popleft(), address)

    @staticmethod
    def address(name: str) -> Address:
        return (f"10.0.0.{ord(name[0]) - 96}", 80)

    @property
    def pool(self) -> Pool:
        pool = self.worker.pools.get("s")
        assert pool is not None
        return pool

    def node(self, name: str = "a") -> Node:
        return next(node for node in self.pool.nodes.values() if node.id == name)

    @property
    def facts(self) -> ListenerConfig:
        return self.worker.listener("web")

    def client(self, peer: Address | str | None = CLIENT) -> Peer:
        """A new connection to the listener, with TLS if that is what it speaks."""
        client = self.silent_client(peer)
        return self.secure(client)

    def silent_client(self, peer: Address | str | None = CLIENT) -> Peer:
        """A new connection to the listener, on which nothing was said yet."""
        own: Address | str = PROXY if isinstance(peer, tuple) else ""
        transport = self.network.open(
            self.loop, new_connection(self.worker.services, self.facts), peer=peer, own=own
        )
        transport.lend(self.network.socket())
        self.settle()
        return self.adopt(transport, "client")

    def secure(self, client: Peer, context: ssl.SSLContext | None = None, **options: Any) -> Peer:
        """Let the client shake hands, if the listener speaks TLS; `options`: of `TlsFarEnd`.
        Raises what OpenSSL does."""
        if self.facts.certificates is not None and not client.closed:
            assert isinstance(client.transport, FakeTransport)
            client.transport = TlsFarEnd(client.transport, context or client_side(), **options)
            client.transport.shake(self.settle)
        return client

    @property
    def scheme(self) -> str:
        """What clients speak."""
        return "http" if self.facts.certificates is None else "https"

    def as_forwarded(self, wanted: bytes) -> bytes:
        """What was expected of a client without TLS, of one with it."""
        if self.facts.certificates is None:
            return wanted
        return wanted.replace(
            b"\r\nX-Forwarded-Proto: http\r\n", b"\r\nX-Forwarded-Proto: https\r\n"
        )

    def accepted(self, name: str = "a") -> Peer:
        """The next connection that the proxy made to an instance."""
        waiting = self.network.accepted.get(self.address(name))
        assert waiting, f"nobody connected to {name}; dialled: {self.network.dialled}"
        return self._adopt_instance(waiting.popleft(), name)

    def _adopt_instance(self, transport: FakeTransport, name: str) -> Peer:
        far_end = self._far_ends.pop(transport, None)
        transport.pauses.clear()
        return self.adopt(far_end or transport, name)

    def connected(self) -> Peer:
        """The next connection that the proxy made to any instance."""
        return self.accepted(next(n for n in "abc" if self.network.accepted.get(self.address(n))))

    def expect_no_dial(self, name: str = "a") -> None:
        assert not self.network.accepted.get(self.address(name))

    def adopt(self, transport: FakeTransport | TlsFarEnd, name: str) -> Peer:
        """The far end of a connection, under the wire's watch."""
        peer = Peer(self, transport, name)
        self.peers.append(peer)
        return peer

    def settle(self) -> None:
        """Until nothing moves."""
        while self.loop.run_ready() or self.network.deliver() or self._shake_hands():
            pass

    def _shake_hands(self) -> bool:
        """Instances that speak TLS do so by themselves. True if any did anything."""
        moved = False
        for waiting in self.network.accepted.values() if self.tls else ():
            for transport in waiting:
                if transport not in self._far_ends:
                    self._far_ends[transport] = TlsFarEnd(
                        transport, server_side(*self.alpn), server_side=True
                    )
                moved = self._far_ends[transport].step() or moved
        return moved

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds, self.settle)

    @property
    def in_flight(self) -> int:
        nodes = self.pool.nodes.values()
        board = sum(self.board.total(slot) for slot in range(32))
        counted = sum(node.in_flight for node in nodes)
        assert counted == board, (counted, board)
        assert all(node.load == node.in_flight for node in nodes)
        return counted

    def done(self) -> None:
        """Nothing unexpected was said, and once everybody has gone, nothing is left."""
        self.settle()
        assert self.loop.failures == []
        for peer in self.peers:
            assert not peer.transport.taken, f"unexpected: {peer!r}"
        for waiting in self.network.accepted.values():
            assert not waiting, f"a connection nobody expected: {waiting}"
        for client in list(self.worker.connections.clients):
            client.abort()
        for tunnel in list(self.worker.connections.tunnels):
            tunnel.close()
        self.settle()
        assert self.in_flight == 0
        assert not self.worker.connections.clients
        assert not self.worker.connections.tunnels
        assert self.worker.counters.client_connections == 0
        counters = self.worker.counters
        assert (counters.tunnels, counters.http2_sessions, counters.http2_streams) == (0, 0, 0)
        self.serve()  # Every instance leaves, and so do their idle connections.
        open_ = [t for t in self.network.transports if not t.lost]
        assert not open_, [transport.get_protocol() for transport in open_]
        assert self.worker.services.connector.http2 == (0, 0)
        assert len(self.worker.services.deadlines) == 0
        assert len(self.worker.services.hangups) == 0
        self.worker.services.hangups.close()
        assert not self.worker.services.connector.dialling
        assert not self.worker.services.unreachable._due
        assert self.worker.services.unreachable._trying == 0
        assert self.loop.failures == []
        os.close(self.board.fd)
