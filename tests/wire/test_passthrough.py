"""TLS that goes to an instance as it is, by the name that the client asks for."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.settings.balancer import BalancerSpec
from proxy.settings.listener import ListenerSettings, ListenerTimeouts
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings
from tests.support.tls_far_end import TlsFarEnd, client_side, server_side
from tests.support.wire import OK, Peer, Wire, request
from tests.wire.conftest import making
from tests.wire.scenes import REFUSED, answered, faulty

ROUTES = (
    RouteSpec(path_prefix="/", service="s"),
    RouteSpec(sni="db.example.com", service="s"),
    RouteSpec(sni="*.nobody.example", service="gone"),
)
LISTENER = ListenerSettings(tls_passthrough=True)
BOTH = ListenerSettings(
    tls_passthrough=True,
    tls=ListenerTls(certificates=(Certificate(cert="c", key="k"),)),
)


@pytest.fixture
def make() -> Iterator[Any]:
    yield from making(False)


def asking(wire: Wire, name: str | None) -> Peer:
    """A client that has said its hello."""
    client = wire.silent_client()
    client.transport = far_end = TlsFarEnd(client.transport, client_side(), server_hostname=name)
    far_end.step()
    wire.settle()
    return client


def joined(wire: Wire, client: Peer, at: str = "a") -> Peer:
    """The instance that the connection went to, once both have shaken hands with each other."""
    instance = wire.accepted(at)
    instance.transport = TlsFarEnd(instance.transport, server_side(), server_side=True)
    for _ in range(4):
        instance.transport.step()
        client.transport.step()
        wire.settle()
    return instance


def test_the_connection_goes_to_the_service_of_its_name(make: Any) -> None:
    wire = make(routes=ROUTES, listener=LISTENER)
    client = asking(wire, "db.example.com")
    instance = joined(wire, client)
    assert wire.in_flight == 1
    client.send(b"SELECT 1")
    instance.expect(b"SELECT 1")
    instance.send(b"1")
    client.expect(b"1")
    client.eof()
    assert instance.saw_end
    instance.eof()
    assert client.closed
    assert wire.pool.nodes["a@10.0.0.1:80"].outcomes == {"ok": 1}


def test_connections_are_balanced_and_counted_like_tunnels(make: Any) -> None:
    settings = ServiceSettings(balancer=BalancerSpec(type="least_connections"))
    wire = make("a", "b", routes=ROUTES, listener=LISTENER, settings=settings)

    def joining() -> tuple[Peer, Peer, str]:
        client = asking(wire, "db.example.com")
        [name] = [one for one in "ab" if wire.network.accepted.get(wire.address(one))]
        return client, joined(wire, client, name), name

    first, other = joining(), joining()
    assert {first[2], other[2]} == {"a", "b"}
    assert [wire.node(name).in_flight for name in "ab"] == [1, 1]
    assert len(wire.worker.connections.tunnels) == 2
    for peer in other[:2]:
        peer.eof()
    assert len(wire.worker.connections.tunnels) == 1
    again = joining()
    assert again[2] == other[2]
    for client, instance, _ in (first, again):
        instance.eof()
        client.eof()
    assert not wire.worker.connections.tunnels


def test_other_names_are_for_the_listener_itself(make: Any) -> None:
    wire = make(routes=ROUTES, listener=BOTH)
    client = asking(wire, "h")
    client.transport.shake(wire.settle)
    client.send(request("GET /x"))
    instance = wire.accepted()
    assert b"\r\nX-Forwarded-Proto: https\r\n" in instance.take()
    answered(client, instance)
    plain = wire.silent_client()
    plain.send(b"GET / HTTP/1.1\r\n\r\n")
    plain.expect_problem(400, "bad_request", closing=True)
    plain.eof()


@pytest.mark.parametrize("name", ["other.example", None, "a.b.nobody.example"])
def test_without_a_certificate_other_names_get_an_alert(make: Any, name: str | None) -> None:
    wire = make(routes=ROUTES, listener=LISTENER)
    client = asking(wire, name)
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        client.transport.step()
    assert client.closed
    assert wire.worker.counters.service("").faults == {"handshake_failed": 1}


def test_a_service_without_instances_ends_the_connection(make: Any) -> None:
    wire = make(routes=ROUTES, listener=LISTENER)
    assert asking(wire, "x.nobody.example").cut


def test_a_hello_in_pieces_is_waited_for_up_to_a_limit(make: Any) -> None:
    listener = ListenerSettings(tls_passthrough=True, timeouts=ListenerTimeouts(handshake=5.0))
    wire = make(routes=ROUTES, listener=listener)
    client = wire.silent_client()
    client.send(b"\x16")
    wire.advance(4.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.cut
    garbage = wire.silent_client()
    garbage.send(b"SSH-2.0\r\n")
    assert garbage.cut


def test_an_instance_that_cannot_be_reached_costs_a_second_attempt(make: Any) -> None:
    wire = make("a", "b", routes=ROUTES, listener=LISTENER)
    wire.network.refuse(wire.address("a"), REFUSED)
    clients = [asking(wire, "db.example.com") for _ in range(2)]
    for client in clients:
        instance = joined(wire, client, "b")
        client.send(b"x")
        instance.expect(b"x")
        instance.eof()
        client.eof()
    assert wire.node("a").unreachable


def test_a_last_attempt_that_fails_ends_the_connection(make: Any) -> None:
    settings = ServiceSettings(retry=RetrySettings(max_retries=0))
    wire = make(routes=ROUTES, listener=LISTENER, settings=settings)
    wire.network.refuse(wire.address("a"), REFUSED)
    assert asking(wire, "db.example.com").cut
    assert wire.pool.counters.faults == {"connect_refused": 1}


def test_a_client_that_leaves_while_it_is_connected_leaves_nothing(make: Any) -> None:
    wire = make(routes=ROUTES, listener=LISTENER)
    wire.network.hang(wire.address("a"))
    client = asking(wire, "db.example.com")
    assert wire.in_flight == 1
    client.raw.abort()
    wire.settle()
    wire.network.answer(wire.address("a"))
    wire.settle()
    assert wire.in_flight == 0
    left = wire.accepted()
    assert left.closed


def test_a_service_that_is_full_ends_the_connection(make: Any) -> None:
    wire = make(routes=ROUTES, listener=LISTENER, settings=ServiceSettings(max_inflight=1))
    first = asking(wire, "db.example.com")
    instance = joined(wire, first)
    assert asking(wire, "db.example.com").cut
    assert wire.pool.counters.faults == {"queue_full": 1}
    instance.eof()
    first.eof()


def test_early_words_of_an_instance_are_kept(make: Any) -> None:
    wire = make(routes=ROUTES, listener=LISTENER)
    client = asking(wire, "db.example.com")
    instance = wire.accepted()
    instance.send(OK)
    assert client.raw.taken == OK
    client.raw.taken.clear()
    assert instance.take()
    client.raw.abort()
    wire.settle()


@pytest.mark.parametrize("spared", [0, 1])
def test_an_error_inside_ends_the_connection_and_gives_back_what_was_counted(
    make: Any, spared: int
) -> None:
    wire = make("a", "b", routes=ROUTES, listener=LISTENER)
    wire.network.refuse(wire.address("a"), REFUSED)
    wire.network.refuse(wire.address("b"), REFUSED)
    faulty(wire, "pick").spared = spared
    client = asking(wire, "db.example.com")
    assert client.cut
    assert wire.in_flight == 0
    assert wire.pool.counters.faults == {"internal": 1}
