"""Connections that say whose they are."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.proxy_protocol import ProxyProtocol
from proxy.settings.listener import ListenerLimits, ListenerSettings
from proxy.settings.service import Keepalive, ServiceSettings
from tests.support.wire import CLIENT, PROXY, Peer, Wire, forwarded, request
from tests.wire.scenes import answered

LINE = b"PROXY TCP4 198.51.100.7 198.51.100.1 5000 443\r\n"
LISTENER = ListenerSettings(proxy_protocol=True, trusted_proxies=("198.51.100.9/32",))


def connect(wire: Wire) -> Peer:
    protocol = ProxyProtocol(wire.worker.services, wire.facts)
    transport = wire.network.open(wire.loop, protocol, peer=CLIENT, own=PROXY)
    wire.settle()
    return wire.adopt(transport, "client")


@pytest.mark.parametrize("cut", [0, 5, len(LINE) - 1, len(LINE), len(LINE) + 9])
def test_the_announced_address_is_the_clients(make: Any, cut: int) -> None:
    wire = make(listener=LISTENER)
    client = connect(wire)
    if wire.tls:
        first = LINE[:cut]
        if first:
            client.send(first)
        wire.secure(client, before=LINE[cut:])  # With the beginning of the handshake.
        client.send(request("GET /"))
    else:
        data = LINE + request("GET /")
        client.send(data[:cut], data[cut:]) if cut else client.send(data)
    instance = wire.accepted()
    instance.expect(forwarded("GET /", for_="198.51.100.7", port="443"))
    answered(client, instance)
    client.send(request("GET /2"))
    instance.expect(forwarded("GET /2", for_="198.51.100.7", port="443"))
    answered(client, instance)


def test_trust_goes_by_the_announced_address(make: Any) -> None:
    wire = make(listener=LISTENER)
    client = connect(wire)
    client.send(LINE.replace(b"100.7 ", b"100.9 "))
    wire.secure(client).send(request("GET /", "X-Forwarded-For: 6.6.6.6"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /", for_="6.6.6.6, 198.51.100.9", port="443"))
    answered(client, instance)


def test_a_sender_that_speaks_for_itself(make: Any) -> None:
    wire = make(listener=LISTENER)
    client = connect(wire)
    client.send(b"PROXY UNKNOWN\r\n")
    wire.secure(client).send(request("GET /"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /"))
    answered(client, instance)


def test_a_client_that_does_not_announce_is_closed_without_a_word(make: Any) -> None:
    wire = make(listener=LISTENER)
    client = connect(wire)
    client.send(request("GET /"))
    client.expect_nothing()
    assert client.cut
    assert wire.worker.counters.service("").faults == {"bad_request": 1}


def test_a_silent_client_is_closed_in_time(make: Any) -> None:
    wire = make(listener=LISTENER)
    client = connect(wire)
    client.send(LINE[:9])
    wire.advance(9.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.cut


@pytest.mark.parametrize("said", [b"", LINE[:9]])
def test_a_client_that_hangs_up_before_the_announcement_is_let_go(make: Any, said: bytes) -> None:
    wire = make(listener=LISTENER)
    client = connect(wire)
    if said:
        client.send(said)
    client.eof()
    client.expect_nothing()
    assert client.closed
    assert wire.facts.counts.open == len(wire.worker.connections.arrivals) == 0
    assert wire.worker.counters.service("").faults == {}


def test_a_silent_client_counts_among_the_connections_of_the_listener(make: Any) -> None:
    limits = ListenerLimits(connections=4)  # Of two workers.
    wire = make(listener=ListenerSettings(proxy_protocol=True, limits=limits))
    silent = connect(wire)
    talking = connect(wire)
    talking.send(LINE)
    third = connect(wire)
    assert third.cut
    assert not silent.closed
    assert not talking.closed
    silent.reset()
    fourth = connect(wire)
    assert not fourth.closed
    assert wire.facts.counts.open == 2
    talking.reset()
    fourth.reset()


def test_a_silent_client_takes_no_descriptor_that_others_need(make: Any) -> None:
    wire = make(listener=LISTENER)
    wire.worker.connections.descriptors = 5
    silent = [connect(wire) for _ in range(3)]
    assert [one.closed for one in silent] == [False, False, True]
    for one in silent:
        one.reset()
    assert wire.worker.connections.arrivals == set()


OURS = b"PROXY TCP4 192.0.2.7 %b %d %d\r\n" % (PROXY[0].encode(), CLIENT[1], PROXY[1])
TELLING = ServiceSettings(send_proxy_protocol="v1", keepalive=Keepalive(max_idle=0))


def test_an_instance_is_told_whose_connection_it_is_and_gets_no_other_request(make: Any) -> None:
    wire = make("a", settings=TELLING, tls=False)
    client = wire.client()
    for _ in range(2):
        client.send(request("GET /"))
        instance = wire.accepted()
        instance.expect(OURS + forwarded("GET /"))
        answered(client, instance)
        wire.settle()
        assert instance.closed


def test_an_instance_is_told_whose_tcp_connection_it_is(make: Any) -> None:
    wire = make("a", listener=ListenerSettings(mode_tcp="s"), settings=TELLING, tls=False)
    client = wire.silent_client()
    instance = wire.accepted()
    client.send(b"x")
    instance.expect(OURS + b"x")


@pytest.mark.parametrize("cut", [5, len(LINE), len(LINE) + 4])
def test_a_tcp_connection_is_announced_in_one_piece_with_what_is_said(make: Any, cut: int) -> None:
    listener = ListenerSettings(mode_tcp="s", proxy_protocol=True)
    wire = make("a", listener=listener, settings=TELLING, tls=False)
    client = connect(wire)
    said = LINE + b"SELECT 1"
    client.send(said[:cut], said[cut:])
    instance = wire.accepted()
    announced = LINE.replace(b" 5000 ", b" 0 ").replace(b"198.51.100.1", PROXY[0].encode())
    instance.expect(announced + b"SELECT 1")
    instance.send(b"1")
    client.expect(b"1")
