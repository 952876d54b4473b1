"""What clients say of themselves, and what is told of them in its place."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.balancer import BalancerSpec
from proxy.settings.listener import ClientIpSettings, ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from tests.support.wire import CLIENT, forwarded, request
from tests.wire.scenes import TRUSTING, answered, asked, reached

CLAIMS = (
    *(f"X-Forwarded-{x}: said" for x in ("Server", "Ssl", "Scheme", "Uri", "User", "Client-Cert")),
    "X-Forwarded: said", "X-Real-IP: said", "True-Client-IP: said", "CF-Connecting-IP: said",
    "X-Cluster-Client-IP: said", "Client-Cert: said", "Client-Cert-Chain: said",
    "X-SSL-Client-Verify: said", "X-Client-Cert: said", "X-Original-URL: /said",
    "X-Rewrite-URL: /said", "X-Envoy-External-Address: said", "x-FORWARDED-anything: said",
)  # fmt: skip


def test_an_untrusted_client_gets_no_claim_through(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /", *CLAIMS, "X-Forwarded-Prefix: /said", "Proxy: said"))
    a.expect(forwarded("GET /"))
    answered(client, a)


def test_from_a_trusted_proxy_claims_pass_but_for_one_that_nobody_may_make(make: Any) -> None:
    wire = make(listener=TRUSTING)
    client, a = reached(wire, request("GET /", *CLAIMS, "Proxy: said"))
    a.expect(forwarded("GET /", *CLAIMS))
    answered(client, a)


def test_a_trusted_proxy_may_call_its_claims_hop_by_hop(make: Any) -> None:
    wire = make(listener=TRUSTING)
    client = wire.client()
    client.send(
        request("GET /", "Connection: X-Real-IP, X-Forwarded-For, X-Forwarded-Prefix",
                "X-Real-IP: 198.51.100.9", "X-Forwarded-For: 198.51.100.9",
                "X-Forwarded-Prefix: /said", "X-SSL-Cert: kept")
    )  # fmt: skip
    a = wire.accepted()
    a.expect(forwarded("GET /", "X-SSL-Cert: kept"))
    answered(client, a)


@pytest.mark.parametrize("listener", [ListenerSettings(), TRUSTING])
def test_trailers_make_no_claims(make: Any, listener: ListenerSettings) -> None:
    wire = make(listener=listener)
    client = wire.client()
    chunks = b"0\r\n%b\r\nProxy: said\r\nX_Real_IP: said\r\nX-Sum: 1\r\n\r\n" % (
        "\r\n".join((*CLAIMS, "X-Forwarded-For: said", "Forwarded: for=said")).encode()
    )
    client.send(request("POST /", "Transfer-Encoding: chunked", body=chunks))
    a = wire.accepted()
    a.expect(forwarded("POST /", "Transfer-Encoding: chunked", body=b"0\r\nX-Sum: 1\r\n\r\n"))
    answered(client, a)


def test_names_of_a_listeners_own_are_no_trailers_either(make: Any) -> None:
    named = ListenerSettings(
        client_ip=ClientIpSettings(header="X-Edge-Peer"), request_id_header="X-Ticket"
    )
    wire = make(listener=named)
    client = wire.client()
    chunks = b"0\r\nX-Edge-Peer: said\r\nx-ticket: said\r\nX-Sum: 1\r\n\r\n"
    fields = ("Connection: TE", "TE: trailers", "Transfer-Encoding: chunked", "X-Ticket: t1")
    client.send(request("POST /", *fields, body=chunks))
    a = wire.accepted()
    assert a.take().endswith(b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")
    a.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert client.take().endswith(b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_no_punctuation_makes_a_name_another_one(make: Any) -> None:
    wire = make()
    client = wire.client()
    disguised = ("X.Real.IP: said", "x!forwarded-for: said", "Content.Length: 5", "Client'Cert: a")
    trailers = "".join(line + "\r\n" for line in (*disguised, "Set.Cookie: a", "X.Sum: 1"))
    body = f"0\r\n{trailers}\r\n".encode()
    chunked = "Transfer-Encoding: chunked"
    client.send(request("POST /", *disguised, "a.b: kept", "X.Sum: kept", chunked, body=body))
    a = wire.accepted()
    kept = ("a.b: kept", "X.Sum: kept", chunked)
    a.expect(forwarded("POST /", *kept, body=b"0\r\nX.Sum: 1\r\n\r\n"))
    answered(client, a)
    assert wire.worker.counters.underscored == len(disguised)


@pytest.mark.parametrize(("listener", "service"), [(ListenerSettings(), "b"), (TRUSTING, "a")])
def test_routes_look_at_claims_of_trusted_proxies_only(
    make: Any, listener: ListenerSettings, service: str
) -> None:
    routes = (
        RouteSpec(path_prefix="/", headers={"X-SSL-Client-Verify": "SUCCESS"}, service="a"),
        RouteSpec(path_prefix="/", service="b"),
    )
    services = {name: ServiceSettings() for name in "abs"}
    wire = make(routes=routes, services=services, listener=listener)
    wire.serve("a", service="a")
    wire.serve("b", service="b")
    client, instance = asked(wire, request("GET /", "X-SSL-Client-Verify: SUCCESS"), at=service)
    answered(client, instance)
    instance.eof()


def test_hash_keys_are_not_taken_from_claims_of_clients(make: Any) -> None:
    hashing = ServiceSettings(balancer=BalancerSpec(type="consistent_hash", key="header:x-real-ip"))
    for listener, keyed in ((ListenerSettings(), False), (TRUSTING, True)):
        wire = make("a", "b", settings=hashing, listener=listener)
        client = wire.client()
        client.send(request("GET /", "X-Real-IP: 198.51.100.9"))
        [connection] = wire.worker.connections.clients
        assert (connection.exchange.key >= 0) is keyed
        instance = wire.connected()
        instance.take()
        answered(client, instance)


def test_fields_with_an_underscore_are_counted_for_each_request(make: Any) -> None:
    wire = make()
    client, a = reached(wire, request("GET /", "Plain: 1"))
    a.expect(forwarded("GET /", "Plain: 1"))
    answered(client, a)
    for _ in range(2):
        client.send(request("GET /", "X_Real_IP: 1", "x_real_ip: 1", "A_B: 1"))
        a.expect(forwarded("GET /"))
        answered(client, a)
    assert wire.worker.counters.underscored == 6


@pytest.mark.parametrize(
    ("route", "path", "told"),
    [
        (RouteSpec(path_prefix="/api", strip_prefix=True, service="s"), "/api/x", "/api"),
        (RouteSpec(path_prefix="/api", strip_prefix=True, service="s"), "/api", "/api"),
        (RouteSpec(path_prefix="/api/", strip_prefix=True, service="s"), "/api/x", "/api"),
        (RouteSpec(path_prefix="/svc/{service}", strip_prefix=True), "/svc/s/x", "/svc/s"),
        (RouteSpec(path_prefix="/api", rewrite_prefix="/", service="s"), "/api/x", "/api"),
        (RouteSpec(path_prefix="/api", rewrite_prefix="/v2", service="s"), "/api/x", None),
        (RouteSpec(path_prefix="/api", service="s"), "/api/x", None),
        (RouteSpec(path_prefix="/", strip_prefix=True, service="s"), "/api/x", None),
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_the_instance_is_told_of_the_prefix_that_was_stripped(
    make: Any, route: RouteSpec, path: str, told: str | None, trusted: bool
) -> None:
    wire = make(routes=(route,), listener=TRUSTING if trusted else None)
    client = wire.client()
    for said, before in (((), ""), (("X-Forwarded-Prefix: /outer/, /inner",), "/outer/inner")):
        client.send(request(f"GET {path}", *said))
        instance = wire.connected()
        sent = instance.take()
        expected = told
        if trusted and before:
            expected = "/outer/, /inner" if told is None else before + told
        lines = [line for line in sent.split(b"\r\n") if line.startswith(b"X-Forwarded-Prefix")]
        assert lines == ([] if expected is None else [f"X-Forwarded-Prefix: {expected}".encode()])
        answered(client, instance)
        instance.eof()


def test_a_stripped_prefix_is_told_beside_an_offered_upgrade(make: Any) -> None:
    wire = make(routes=(RouteSpec(path_prefix="/ws", strip_prefix=True, service="s"),))
    client, a = reached(wire, request("GET /ws/x", "Connection: Upgrade", "Upgrade: websocket"))
    a.expect(
        forwarded("GET /x", after=("Connection: Upgrade", "Upgrade: websocket",
                                   "X-Forwarded-Prefix: /ws"))
    )  # fmt: skip
    answered(client, a)


def test_chains_of_trusted_proxies_are_extended(make: Any) -> None:
    wire = make(listener=TRUSTING)
    client, a = reached(
        wire, request("GET /", "X-Forwarded-For: 198.51.100.9", "Forwarded: for=198.51.100.9")
    )
    a.expect(forwarded("GET /", "Forwarded: for=198.51.100.9", for_=f"198.51.100.9, {CLIENT[0]}"))
    answered(client, a)
