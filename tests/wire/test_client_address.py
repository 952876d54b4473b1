"""Behind a trusted proxy each client has limits and instances of its own."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.engine.proxy_protocol import ProxyProtocol
from proxy.settings.balancer import BalancerSpec
from proxy.settings.listener import ClientIpSettings, ListenerSettings
from proxy.settings.service import RateLimitSettings, ServiceSettings
from tests.support.wire import CLIENT, OK, PROXY, Peer, Wire, forwarded, request
from tests.wire.scenes import answered, reached

TRUSTED = ("192.0.2.0/24", "10.0.0.0/8")
TRUSTING = ListenerSettings(trusted_proxies=TRUSTED)
LIMITED = ServiceSettings(rate_limit=RateLimitSettings(requests=1, per=60.0))


def status(wire: Wire, client: Peer, *fields: str) -> int:
    """What a request with these fields is answered."""
    client.send(request("GET /", *fields))
    if wire.network.accepted.get(wire.address("a")):
        wire.accepted()
    for peer in wire.peers:
        if peer.name == "a" and peer.take():
            peer.send(OK)
    return int(client.take()[9:12])


def limited(make: Any, listener: ListenerSettings | None) -> Wire:
    wire: Wire = make(settings=LIMITED, listener=listener)
    return wire


def said(value: str) -> str:
    return f"X-Forwarded-For: {value}"


def test_a_limit_holds_for_each_client_however_its_address_is_spelled(make: Any) -> None:
    wire = limited(make, TRUSTING)
    client = wire.client()
    wanted = [
        ("203.0.113.9", 200), ("198.51.100.7", 200), ("203.0.113.9", 429),
        ("203.0.113.4, 10.0.0.3", 200), ("6.6.6.6, 203.0.113.4", 429), ("203.0.113.4:1", 429),
        ("[2001:db8::1]:5", 200), ("[2001:db8::2]:5", 200), ("2001:DB8:0::1", 429),
        ("::ffff:203.0.113.9", 429),
    ]  # fmt: skip
    assert [(value, status(wire, client, said(value))) for value, _ in wanted] == wanted


def test_a_client_that_is_not_trusted_has_one_limit_whatever_it_says(make: Any) -> None:
    wire = limited(make, ListenerSettings(trusted_proxies=("10.0.0.0/8",)))
    client = wire.client()
    assert status(wire, client, said("203.0.113.1")) == 200
    assert status(wire, client, said("203.0.113.2")) == 429


@pytest.mark.parametrize(
    ("client_ip", "fields"),
    [
        (ClientIpSettings(hops=2), said("203.0.113.{}, 6.6.6.6")),
        (ClientIpSettings(header="Forwarded"), 'Forwarded: for="203.0.113.{}:80";proto=https'),
        (ClientIpSettings(header="CF-Connecting-IP"), "cf-connecting-ip: 203.0.113.{}"),
        (ClientIpSettings(header="X-Our-Own"), "X-Our-Own: 203.0.113.{}"),
    ],
)
def test_the_listener_names_field_and_hop(
    make: Any, client_ip: ClientIpSettings, fields: str
) -> None:
    wire = limited(make, ListenerSettings(trusted_proxies=TRUSTED, client_ip=client_ip))
    client = wire.client()
    assert [status(wire, client, fields.format(n)) for n in (1, 2, 1)] == [200, 200, 429]


def test_the_field_that_names_clients_is_taken_from_whoever_is_not_trusted(make: Any) -> None:
    before = make()
    name = f"X-Its-Name-{before.scheme}"  # The parser knows it from the first time on.
    client = before.client()
    client.send(request("GET /", f"{name}: 203.0.113.9"))
    a = before.accepted()
    a.expect(forwarded("GET /", f"{name}: 203.0.113.9"))
    answered(client, a)
    naming = ListenerSettings(client_ip=ClientIpSettings(header=name))
    wire = make(listener=naming)
    client, a = reached(wire, request("GET /", f"{name}: 203.0.113.9"))
    a.expect(forwarded("GET /"))
    answered(client, a)


def test_announced_proxies_and_local_ones_are_believed_too(make: Any) -> None:
    wire = limited(make, ListenerSettings(trusted_proxies=TRUSTED, proxy_protocol=True))
    protocol = ProxyProtocol(wire.worker.services, wire.facts)
    transport = wire.network.open(wire.loop, protocol, peer=CLIENT, own=PROXY)
    client = wire.adopt(transport, "client")
    client.send(b"PROXY TCP6 ::ffff:10.0.0.7 ::1 5000 443\r\n")
    wire.secure(client)
    assert [status(wire, client, said(f"203.0.113.{n}")) for n in (1, 2, 1)] == [200, 200, 429]
    wire = limited(make, ListenerSettings(trusted_proxies=TRUSTED, bind="unix:/run/x"))
    client = wire.client(peer=None)
    assert [status(wire, client, said(f"203.0.113.{n}")) for n in (1, 2, 1)] == [200, 200, 429]


def test_a_mapped_peer_is_itself_in_both_families(make: Any) -> None:
    wire = make()
    client = wire.client(("::ffff:192.0.2.7", 5))
    client.send(request("GET /"))
    a = wire.accepted()
    a.expect(forwarded("GET /", for_="192.0.2.7"))
    answered(client, a)


def test_clients_are_hashed_each_by_itself(make: Any) -> None:
    hashing = ServiceSettings(balancer=BalancerSpec(type="consistent_hash", key="client_ip"))
    wire = make("a", "b", "c", settings=hashing, listener=TRUSTING)
    client = wire.client()
    keys = []
    for value in ("203.0.113.1", "203.0.113.2", "203.0.113.1:80"):
        client.send(request("GET /", said(value)))
        [connection] = wire.worker.connections.clients
        keys.append(connection.exchange.key)
        instance = wire.connected()
        instance.take()
        answered(client, instance)
        instance.eof()
    assert keys[0] == keys[2] != keys[1]


def test_the_log_names_the_client(make: Any) -> None:
    wire = make(listener=TRUSTING)
    client = wire.client()
    with capture_logs() as logs:
        client.send(request("GET /%zz", said("203.0.113.9")))
    client.expect_problem(400, "http_request_error")
    assert [line["client"] for line in logs if line["event"] == "request_failed"] == ["203.0.113.9"]
