"""Calls of services that have proved which they are: each is counted once, however it ends."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from proxy.settings.callers import Caller, CallersSettings
from proxy.settings.listener import ListenerSettings
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.service import ServiceSettings, Timeouts
from proxy.tls.contexts import load_pair
from tests.support.certificates import Authority
from tests.support.h2_peer import H2Peer, data, head, reset
from tests.support.tls_far_end import authority, new_client_side
from tests.support.wire import OK, Peer, Wire, request
from tests.wire.conftest import making
from tests.wire.scenes import GET, REFUSED, SWITCH, UPGRADE
from tests.wire.test_grpc import GRPC, MESSAGE
from tests.wire.test_http2 import STREAMED
from tests.wire.test_http2_tunnels import accepts, connect

CLOSED = ServiceSettings(callers=CallersSettings(allow=(Caller(service="orders"),)))


@pytest.fixture
def make() -> Iterator[Any]:
    yield from making(False)


@cache
def mesh() -> Authority:
    return Authority("mesh")


@cache
def web(*alpn: str) -> ssl.SSLContext:
    """A client that is `web` of the mesh."""
    shown = mesh().issue("web.mesh.local")
    context = new_client_side()
    load_pair(context, shown.cert, shown.key)
    context.set_alpn_protocols(list(alpn))
    return context


class Called:
    """Owns a worker to which `web` comes, over HTTP or by connections that are passed on."""

    def __init__(
        self, make: Any, tcp: bool = False, settings: ServiceSettings | None = None
    ) -> None:
        tls = ListenerTls(
            certificates=(Certificate(cert="c", key="k"),),
            client_ca="ca",
            trust_domain="mesh.local",
        )
        listener = ListenerSettings(tls=tls, mode_tcp="s" if tcp else None)
        self.wire: Wire = make(listener=listener, settings=settings)
        self.wire.prove(authority()[1], client_ca=mesh().ca)

    def client(self) -> Peer:
        return self.wire.secure(self.wire.silent_client(), web())

    def asked(self, data: bytes = GET) -> tuple[Peer, Peer]:
        client = self.client()
        client.send(data)
        instance = self.wire.accepted()
        assert instance.take()
        return client, instance

    def http2(self, *frames: bytes) -> tuple[H2Peer, Peer, bytes]:
        client = H2Peer(self.wire, context=web("h2"))
        client.send(*frames)
        instance = self.wire.accepted()
        return client, instance, instance.take()


def answered(called: Called) -> None:
    client, instance = called.asked()
    instance.send(OK)
    assert client.take()


def left(called: Called) -> None:
    client, _ = called.asked()
    client.reset()


def cut_in_the_middle(called: Called) -> None:
    client, instance = called.asked()
    instance.send(OK[:-1])
    instance.reset()
    client.take()


def unreachable(called: Called) -> None:
    called.wire.network.refuse(called.wire.address("a"), REFUSED)
    client = called.client()
    client.send(GET)
    client.take()
    called.wire.network.errors.clear()


def refused(called: Called) -> None:
    client = called.client()
    client.send(GET)
    client.expect_problem(403, "caller_denied")


def switched(called: Called) -> None:
    client, instance = called.asked(request("GET /chat", *UPGRADE))
    instance.send(SWITCH)
    assert client.take()
    client.send(b"hello")
    instance.expect(b"hello")
    client.reset()


def not_switched(called: Called) -> None:
    client, instance = called.asked(request("GET /chat", *UPGRADE))
    instance.send(OK)
    assert client.take()


def switched_in_http2(called: Called) -> None:
    client, instance, got = called.http2(connect(1))
    instance.send(accepts(got))
    assert client.take()
    client.send(reset(1))


def grpc(called: Called, status: int) -> None:
    client, instance, _ = called.http2(
        head(1, GRPC, method="POST", end=False), data(1, MESSAGE, end=True)
    )
    instance.send(STREAMED + b"0\r\ngrpc-status: %d\r\n\r\n" % status)
    assert client.take()


def grpc_left(called: Called) -> None:
    client, instance, _ = called.http2(head(1, GRPC, method="POST", end=False), data(1, MESSAGE))
    instance.send(STREAMED + b"1\r\na\r\n")
    assert client.take()
    client.send(reset(1))


@pytest.mark.parametrize(
    ("end", "code", "settings"),
    [
        (answered, 2, None),
        (left, 4, None),
        (cut_in_the_middle, 2, None),
        (unreachable, 5, None),
        (refused, 4, CLOSED),
        (switched, 1, None),
        (not_switched, 2, None),
        (switched_in_http2, 1, None),
        (lambda called: grpc(called, 0), 2, None),
        (lambda called: grpc(called, 5), 4, None),
        (lambda called: grpc(called, 14), 5, None),
        (grpc_left, 4, None),
    ],
)
def test_requests(
    make: Any, end: Callable[[Called], None], code: int, settings: ServiceSettings | None
) -> None:
    called = Called(make, settings=settings)
    end(called)
    counted_once(called, code)


def passed_on(called: Called) -> None:
    client = called.client()
    instance = called.wire.accepted()
    client.send(b"x")
    instance.expect(b"x")
    client.eof()
    instance.eof()


def nobody_there(called: Called) -> None:
    called.wire.network.refuse(called.wire.address("a"), REFUSED)
    assert called.client().closed
    called.wire.network.errors.clear()


def left_before(called: Called) -> None:
    """Nobody reads a client before there is an instance, so it is noticed then."""
    address = called.wire.address("a")
    called.wire.network.hang(address)
    called.client().reset()
    called.wire.network.answer(address)
    called.wire.settle()
    assert called.wire.accepted().closed


def worker_stops_before(called: Called) -> None:
    called.wire.network.hang(called.wire.address("a"))
    client = called.client()
    called.wire.worker.drain(30.0)
    called.wire.advance(5)
    assert client.closed


def closed_at_once(called: Called) -> None:
    assert called.client().closed


@pytest.mark.parametrize(
    ("end", "code", "settings"),
    [
        (passed_on, 2, None),
        (nobody_there, 5, None),
        (left_before, 2, None),
        (worker_stops_before, 4, ServiceSettings(timeouts=Timeouts(connect=60.0))),
        (closed_at_once, 4, CLOSED),
    ],
)
def test_connections_that_are_passed_on(
    make: Any, end: Callable[[Called], None], code: int, settings: ServiceSettings | None
) -> None:
    called = Called(make, tcp=True, settings=settings)
    end(called)
    counted_once(called, code)


def counted_once(called: Called, code: int) -> None:
    called.wire.settle()
    counters = called.wire.pool.counters
    assert counters.callers == {("web", code): 1}
    assert sum(counters.snapshot().requests.values()) == 1
