"""Peers that mean harm, against a data plane in memory: each kind is cheap for whoever does it.

A drill is a generator: it does its worst, and yields whenever that is at its height, so that
somebody may look. Reads are as large as the event loop makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from proxy.engine.proxy_protocol import ProxyProtocol
from proxy.settings.access_log import AccessLogSettings
from proxy.settings.balancer import BalancerSpec
from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    Keepalive,
    QueueSettings,
    RateLimitSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.wire import CLIENT, OK, Peer, Wire, request

READ: Final = 250_000
"""Bytes of one read of uvloop, at most."""
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = Keepalive(max_requests=10**6)


class Bench:
    """Owns a wire with everything on that looks at what peers send."""

    def __init__(self, path: Path) -> None:
        keyed = BalancerSpec(type="consistent_hash", key="cookie:id")
        limited = RateLimitSettings(requests=2, per=3600.0, key="header:X-User")
        self.wire = Wire(
            "a",
            "b",
            routes=(
                RouteSpec(host="*.wild.example", service="s"),
                RouteSpec(host="{service}.deep.svc.example"),
                RouteSpec(path_prefix="/limited", service="limited"),
                RouteSpec(path_prefix="/queued", service="queued"),
                RouteSpec(path_prefix="/two", service="two"),
                RouteSpec(path_prefix="/by/{service}", headers={"X-Route": "1"}),
                RouteSpec(path_prefix="/", service="s"),
            ),
            services={
                "s": ServiceSettings(
                    balancer=keyed,
                    keepalive=LONG,
                    retry=RetrySettings(on=("connect", "reset", "503")),
                    timeouts=Timeouts(total=36_000.0),
                ),
                "limited": ServiceSettings(rate_limit=limited, keepalive=LONG),
                "queued": ServiceSettings(
                    max_inflight=1, queue=QueueSettings(size=2000), keepalive=LONG
                ),
            },
            listener=ListenerSettings(trusted_proxies=("192.0.2.9/32",)),
        )
        self.wire.serve("c", service="limited")
        self.wire.serve("d", service="queued")
        self.wire.serve("e", service="two", http2=True)
        self.wire.worker.access_logs.use(
            AccessLogSettings(path=str(path / "access.log")), self.wire.worker.services
        )
        self._instances: list[Peer] = []

    def close(self) -> None:
        """Everybody goes."""
        wire = self.wire
        for client in list(wire.worker.connections.clients):
            client.abort()
        for tunnel in list(wire.worker.connections.tunnels):
            tunnel.close()
        wire.settle()
        wire.worker.access_logs.close(5.0)
        assert wire.loop.failures == []

    def connected(self) -> Peer:
        """The latest connection to an instance."""
        self._look()
        return self._instances[-1]

    def _look(self) -> None:
        for waiting in self.wire.network.accepted.values():
            while waiting:
                self._instances.append(self.wire.adopt(waiting.popleft(), "instance"))
        self._instances = [peer for peer in self._instances if not peer.closed]

    def serve(self, answer: bytes = OK) -> int:
        """Instances answer what they are asked, until nobody asks any more; how often."""
        answered = 0
        moved = True
        while moved:
            self._look()
            moved = False
            for peer in self._instances:
                if peer.take():
                    peer.send(answer)
                    moved = True
                    answered += 1
        return answered

    def ask(self, number: int, raw: Callable[[int], bytes], answer: bytes = OK) -> None:
        """So many requests, one after the other, from as few clients as may be."""
        client = self.wire.client()
        for one in range(number):
            if client.closed or client.saw_end:
                client = self.wire.client()
            client.send(raw(one))
            self.serve(answer)
            client.take()
            if one % 500 == 0:
                self.wire.advance(0.01)


Drill = Callable[[Bench], Iterator[None]]
DRILLS: dict[str, Drill] = {}


def drill(name: str) -> Callable[[Drill], Drill]:
    def add(function: Drill) -> Drill:
        DRILLS[name] = function
        return function

    return add


def _heads(name: str, count: int, make: Callable[[int], bytes]) -> None:
    """A drill of many requests with these field lines, or whole heads, and of answers with them."""

    def run(bench: Bench) -> Iterator[None]:
        bench.ask(count, lambda n: b"GET / HTTP/1.1\r\nHost: h\r\n" + make(n) + b"\r\n")
        yield
        client = bench.wire.client()
        for n in range(count):
            if client.closed or client.saw_end:
                client = bench.wire.client()
            client.send(request("GET /"))
            bench.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + make(n) + b"\r\nhi")
            client.take()
        yield

    DRILLS[name] = run


_heads("names", 1500, lambda n: b"X-%d: 1\r\n" % n)
_heads("long names", 60, lambda n: (b"x%d" % n).ljust(31_000, b"x") + b": 1\r\n")
_heads("values", 800, lambda n: b"X: " + (b"%d" % n).ljust(600, b"x") + b"\r\n")
_heads("large values", 60, lambda n: b"X: " + (b"%d" % n).ljust(31_000, b"x") + b"\r\n")
_heads("fields", 60, lambda n: b"".join(b"a%d: %d\r\n" % (k, n) for k in range(120)))
_heads("too many fields", 10, lambda n: b"".join(b"a%d: %d\r\n" % (k, n) for k in range(4000)))
_heads("members of Connection", 10, lambda n: b"Connection: x" + b",b%d" % n * 6000 + b"\r\n")
_heads("lines of Connection", 30, lambda n: b"Connection: a%d\r\n" % n * 120)
_heads("proxies", 60, lambda n: b"Via: 1.1 p%d\r\n" % n * 120)
_heads("claims", 60, lambda n: b"".join(b"X-Forwarded-%d: %d\r\n" % (k, n) for k in range(120)))
_heads("underscores", 30, lambda n: b"".join(b"a_%d_%d: 1\r\n" % (k, n) for k in range(120)))
_heads("offers", 20, lambda n: b"Connection: Upgrade\r\nUpgrade: a%d" % n + b",a" * 9000 + b"\r\n")
_heads("promises", 20, lambda n: b"Keep-Alive: " + b"timeout=x%d, " % n * 2000 + b"\r\n")
_heads("cookies", 20, lambda n: b"Cookie: " + b"a%d=b; " % n * 4000 + b"id=1\r\n")
_heads("trailer names", 20, lambda n: b"Trailer: " + b"a%d, " % n * 4000 + b"\r\n")


@drill("hosts")
def _hosts(bench: Bench) -> Iterator[None]:
    bench.ask(1000, lambda n: request("GET /", host=f"h{n}".ljust(n % 250, "h")))
    bench.ask(20, lambda n: request("GET /", host="a." * 10_000 + f"{n}.wild.example"))
    bench.ask(20, lambda n: request("GET /", host="a." * 100 + f"{n}.deep.svc.example"))
    yield


@drill("methods and statuses")
def _methods(bench: Bench) -> Iterator[None]:
    bench.ask(600, lambda n: request(f"M{n} /"))
    for status in range(200, 1000):
        bench.ask(
            1, lambda n: request("GET /"), b"HTTP/1.1 %d \r\nContent-Length: 0\r\n\r\n" % status
        )
    yield


@drill("reasons")
def _reasons(bench: Bench) -> Iterator[None]:
    for number in range(600):
        reason = (b"%d" % number).ljust(number % 3 * 30_000 + 50, b"x")
        line = b"HTTP/1.1 200 " + reason + b"\r\nContent-Length: 0\r\n\r\n"
        bench.ask(1, lambda n: request("GET /"), line)
    yield


@drill("targets")
def _targets(bench: Bench) -> Iterator[None]:
    for text in ("%41", "%3A%2F", "/.", "/a/..", "/.;a", "%2F%2E%2e;a", "//", "/%2e%2e", "/x", '"'):
        raw = request("GET /" + text * (8000 // len(text)))
        for _ in range(4):
            bench.ask(1, lambda n, raw=raw: raw)  # type: ignore[misc]
    bench.ask(10, lambda n: request("GET /?" + "a&" * 3900))
    yield


@drill("ids of requests")
def _ids(bench: Bench) -> Iterator[None]:
    bench.ask(200, lambda n: request("GET /").replace(b"r1", (b"%d" % n).ljust(n * 100, b"x")))
    yield


@drill("keys of a rate limit")
def _keys(bench: Bench) -> Iterator[None]:
    bench.ask(3000, lambda n: request("GET /limited", f"X-User: {n}"))
    yield


@drill("a head that comes byte by byte")
def _slow_head(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 2000:
        client.send(bytes((byte,)))
    client.send(b"x" * 30_000)
    yield
    a = bench.wire.client()
    a.send(request("GET /"))
    instance = bench.connected()
    instance.take()
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000:
        instance.send(bytes((byte,)))
    instance.send(b"x" * 60_000)
    yield


@drill("empty lines")
def _empty_lines(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    for _ in range(4):
        client.send(b"\r\n" * (READ // 2))
        yield


@drill("an upload in chunks of one byte")
def _tiny_upload(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    client.send(request("POST /", "Transfer-Encoding: chunked"))
    bench.connected().take()
    client.transport.feed(b"1\r\nx\r\n" * (READ // 6))
    yield
    bench.wire.settle()
    client.send(b"0\r\n\r\n")
    bench.serve()
    yield


@drill("an upload that nobody takes")
def _upload(bench: Bench) -> Iterator[None]:
    for method in ("POST", "PUT"):
        for coding in ("Transfer-Encoding: chunked", f"Content-Length: {10 * READ}"):
            bench.wire.network.hang(bench.wire.address("a"))
            bench.wire.network.hang(bench.wire.address("b"))
            client = bench.wire.client()
            client.send(request(f"{method} /", coding))
            data = b"%x\r\n" % (READ - 9) + b"x" * (READ - 9) + b"\r\n"
            client.transport.feed(data, data)
            bench.wire.settle()
            yield
            for name in "ab":
                bench.wire.network.answer(bench.wire.address(name))
            bench.wire.settle()
            bench.connected().stall()
            client.transport.feed(data, data, data)
            bench.wire.settle()
            yield
            client.reset()


@drill("a body that comes byte by byte")
def _slow_body(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    client.send(request("PUT /", "Content-Length: 100000"))
    bench.connected()
    for number in range(3000):
        client.send(b"%d" % (number % 10) * 2)
    yield


@drill("trailers")
def _trailers(bench: Bench) -> Iterator[None]:
    for lines in (b"a: 1\r\n" * 120, b"a:\r\n" * 3000, b"a: " + b"x" * 8000 + b"\r\n"):
        client = bench.wire.client()
        client.send(request("POST /", "Transfer-Encoding: chunked", "TE: trailers"))
        client.send(b"1\r\nx\r\n0\r\n" + lines)
        yield
        client.send(b"\r\n")
        bench.serve(CHUNKED + b"1\r\nx\r\n0\r\n" + lines + b"\r\n")
        yield


@drill("trailers without end")
def _endless_trailers(bench: Bench) -> Iterator[None]:
    lines = b"a: " + b"x" * 1000 + b"\r\n"
    client = bench.wire.client()
    client.send(request("POST /", "Transfer-Encoding: chunked"))
    client.send(b"0\r\n", *[lines * 10] * 20)
    yield
    client = bench.wire.client()
    client.send(request("GET /", "TE: trailers"))
    instance = bench.connected()
    instance.take()
    instance.send(CHUNKED + b"0\r\n", *[lines * 10] * 20)
    yield


@drill("an answer's head without end")
def _endless_head(bench: Bench) -> Iterator[None]:
    bench.wire.client().send(request("GET /"))
    instance = bench.connected()
    instance.take()
    instance.send(b"HTTP/1.1 200 OK\r\n", *[b"a: 1\r\n" * 10_000] * 10)
    yield


@drill("requests pipelined without end")
def _pipeline(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    one = request("GET /")
    for _ in range(8):
        client.transport.feed(one * (READ // len(one)))
    bench.wire.settle()
    yield
    for _ in range(40):
        bench.connected().send(OK)
    client.stall()
    client.transport.feed(one * (READ // len(one)))
    bench.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + b"x" * 4000)
    yield


@drill("an answer that nobody reads")
def _unread(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    client.stall()
    client.send(request("GET /"))
    instance = bench.connected()
    instance.take()
    instance.transport.feed(CHUNKED, *[b"%x\r\n" % (READ - 9) + b"y" * (READ - 9) + b"\r\n"] * 8)
    bench.wire.settle()
    yield


@drill("an answer in chunks of one byte")
def _tiny_download(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    client.send(request("GET /"))
    instance = bench.connected()
    instance.take()
    instance.transport.feed(CHUNKED + b"1\r\nx\r\n" * (READ // 6))
    yield
    bench.wire.settle()
    instance.send(b"0\r\n\r\n")
    yield


@drill("103 without end")
def _interim(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    client.send(request("GET /"))
    instance = bench.connected()
    instance.take()
    instance.transport.feed(b"HTTP/1.1 103 \r\n\r\n" * (READ // 19))
    yield
    bench.wire.settle()
    yield


@drill("bad answers in reserve")
def _held(bench: Bench) -> Iterator[None]:
    bad = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000
    for number in range(20):
        client = bench.wire.client()
        client.send(request("GET /", f"Cookie: id={number}"))
        for _ in range(2):
            instance = bench.connected()
            if instance.take():
                instance.transport.feed(bad + b"%x\r\n" % READ + b"x" * (READ - len(bad)))
                bench.wire.settle()
        if number % 5 == 0:
            yield
        client.reset()


@drill("a queue that is full")
def _queue(bench: Bench) -> Iterator[None]:
    clients = [bench.wire.client() for _ in range(600)]
    for client in clients:
        client.send(request("GET /queued"))
    yield
    for client in clients[:200]:
        client.reset()
    bench.serve()
    bench.wire.advance(0.5)
    bench.serve()
    yield
    bench.wire.advance(4.0)  # `timeouts.queue`: all of them at once.
    yield


@drill("clients that fall silent together")
def _silent(bench: Bench) -> Iterator[None]:
    clients = [bench.wire.client() for _ in range(900)]
    for client in clients[::2]:
        client.send(b"GET / HT")
    yield
    bench.wire.advance(80.0)
    assert all(client.closed or client.saw_end for client in clients)
    yield


@drill("messages of a tunnel")
def _tunnel(bench: Bench) -> Iterator[None]:
    client = bench.wire.client()
    client.send(request("GET /", "Connection: Upgrade", "Upgrade: echo"))
    instance = bench.connected()
    instance.take()
    instance.send(b"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    for number in range(2000):
        client.send(b"%d" % (number % 10))
        instance.send(b"%d" % (number % 10))
    client.transport.feed(b"x" * READ)
    yield


@drill("announcements")
def _announcements(bench: Bench) -> Iterator[None]:
    wire = bench.wire
    for start in (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x0f\xff",
    ):
        announcement = ProxyProtocol(wire.worker.services, wire.facts)
        transport = wire.network.open(wire.loop, announcement, peer=CLIENT, own=("192.0.2.1", 8080))
        peer = wire.adopt(transport, "client")
        for byte in start[:-1]:
            peer.send(bytes((byte,)))
        yield
        peer.send(start[-1:] + b"\0" * 4000)
        yield
        peer.send(b"\0" * READ)
        yield


@drill("services that come and go")
def _services(bench: Bench) -> Iterator[None]:
    for number in range(1500):
        bench.wire.serve("e", service=f"branch-{number}")
        bench.wire.serve(service=f"branch-{number}")
        bench.wire.worker.pools.remove(f"branch-{number}")
        if number % 100 == 0:
            bench.wire.advance(1.0)
            bench.wire.worker._reports.report(0)
            bench.wire.settle()
    yield


@drill("connections and instances that go")
def _gone(bench: Bench) -> Iterator[None]:
    for number in range(300):
        client = bench.wire.client()
        client.send(request("GET /", f"Cookie: id={number}"))
        if number % 3:
            client.reset()
        else:
            bench.connected().reset()
        if number % 50 == 0:
            bench.wire.serve("a" if number % 100 else "b")
            yield
    bench.wire.serve("a", "b")
    for name in "ab":
        bench.wire.network.refuse(bench.wire.address(name))
    bench.ask(200, lambda n: request("GET /", f"Cookie: id={n}"))
    yield


@drill("large heads that wait for their answer")
def _waiting(bench: Bench) -> Iterator[None]:
    for lines in (b"X: " + b"x" * 31_000, b"Via: " + b"x" * 31_000, b"Expect: 100-continue"):
        bench.wire.client().send(request("POST /", lines.decode(), "Content-Length: 1"))
    upgrade = "Upgrade: " + ",".join(f"{n}".ljust(2000, "x") for n in range(15))
    bench.wire.client().send(request("GET /", "Connection: Upgrade", upgrade))
    bench.wire.client().send(request("GET /" + "%41" * 2700, "TE: trailers"))
    yield
