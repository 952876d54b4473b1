"""TLS with clients: handshakes, and what is not HTTP on a port that speaks it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from proxy.engine.tls.connection import SLICE
from proxy.messages import CertificatePair
from proxy.settings.listener import ListenerLimits, ListenerSettings, ListenerTimeouts
from proxy.settings.listener_tls import Certificate, ListenerTls
from tests.support.certificates import Authority
from tests.support.tls_far_end import TlsFarEnd, authority, client_side
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.conftest import making
from tests.wire.scenes import GET, answered, asked

KEYS = bytes(range(80))
"""For tickets, as the control process hands them out."""


def listener(*, tls: dict[str, Any] | None = None, **more: Any) -> ListenerSettings:
    files = Certificate(cert="c.pem", key="c.key")
    return ListenerSettings(tls=ListenerTls(certificates=(files,), **(tls or {})), **more)


@pytest.fixture
def make() -> Iterator[Any]:
    yield from making(True)


@cache
def other_pair() -> CertificatePair:
    """A certificate for other names, of the same authority as none that is believed."""
    made = Authority("other").issue("other.example", "*.other.example")
    return CertificatePair(made.cert, made.key, made.names, made.kind)


def handshakes(wire: Wire) -> dict[str, int]:
    return wire.worker.counters.handshakes.get("web", {})


def begin(wire: Wire, context: ssl.SSLContext | None = None, **options: Any) -> Peer:
    """A client that has sent its hello, and no more."""
    client = wire.silent_client()
    far_end = TlsFarEnd(client.transport, context or client_side(), **options)
    with pytest.raises(ssl.SSLWantReadError):
        far_end.ssl.do_handshake()
    client.transport = far_end
    return client


def serve(wire: Wire, client: Peer) -> None:
    """One request of a client is served over a new connection."""
    client.send(GET)
    instance = wire.accepted()
    instance.expect(forwarded("GET /x"))
    answered(client, instance)
    instance.eof()


def hello(client: Peer) -> bytes:
    return client.transport._outgoing.read()


# -- what is not TLS


@pytest.mark.parametrize("asked_for", ["GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST /x HTTP/1.0\r\n"])
def test_plain_http_is_told_so_in_plain_http(make: Any, asked_for: str) -> None:
    wire = make()
    client = wire.silent_client()
    client.send(asked_for.encode())
    client.expect_problem(400, "bad_request", closing=True)
    assert client.saw_end
    assert handshakes(wire) == {"plain_http": 1}
    client.eof()


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"\0" * 600, b"\x80\x2e\x01\0\x02", b"x"])
def test_garbage_is_closed(make: Any, garbage: bytes) -> None:
    wire = make()
    client = wire.silent_client()
    client.send(garbage + bytes(SLICE))
    client.take()  # An alert, perhaps.
    assert client.closed
    assert handshakes(wire) == {"refused": 1}
    assert wire.facts.open == 0
    assert wire.worker.counters.service("").faults == {"handshake_failed": 1}


def test_a_client_that_only_looks_whether_the_port_is_open_is_no_fault(make: Any) -> None:
    wire = make()
    client = wire.silent_client()
    client.eof()
    assert client.closed
    assert handshakes(wire) == {"closed": 1}
    assert wire.worker.counters.service("").faults == {}


# -- limits


def test_half_a_hello_has_until_the_limit(make: Any) -> None:
    wire = make(listener=listener(timeouts=ListenerTimeouts(handshake=5.0)))
    client = begin(wire)
    client.transport.raw.feed(hello(client)[:100])
    wire.settle()
    wire.advance(4.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.cut
    assert handshakes(wire) == {"timeout": 1}
    assert wire.facts.handshakes == wire.facts.open == 0


def test_a_hello_may_come_byte_by_byte(make: Any) -> None:
    wire = make()
    client = begin(wire)
    for byte in hello(client):
        client.transport.raw.feed(bytes([byte]))
        wire.settle()
    client.transport.shake(wire.settle)
    serve(wire, client)


def test_a_listener_has_room_for_so_many_handshakes(make: Any) -> None:
    wire = make(listener=listener(limits=ListenerLimits(handshakes=2)))
    first, second = wire.silent_client(), wire.silent_client()
    third = wire.silent_client()
    assert third.cut
    assert handshakes(wire) == {"too_many": 1}
    wire.secure(first)
    fourth = wire.client()  # There is room again.
    serve(wire, fourth)
    second.reset()


def test_handshakes_take_turns_and_who_is_served_goes_between(make: Any) -> None:
    wire = make()
    client, instance = asked(wire)
    waiting = [begin(wire) for _ in range(5)]
    for peer in waiting:
        peer.transport.raw.feed(hello(peer))
    instance.transport.feed(OK)
    client.expect(OK_RELAYED)
    steps = []
    for _ in range(6):
        wire.loop.run_turn()
        steps.append(sum(bool(peer.transport.raw.taken) for peer in waiting))
    assert steps == [1, 2, 3, 4, 5, 5]
    for peer in waiting:
        peer.reset()


def test_a_worker_that_stops_waits_for_a_handshake_for_a_moment(make: Any) -> None:
    wire = make()
    quick, silent = begin(wire), wire.silent_client()
    wire.worker.connections.draining = True
    for arrival in list(wire.worker.connections.arrivals):
        arrival.drain()
    quick.transport.shake(wire.settle)
    quick.send(GET)
    instance = wire.accepted()
    assert instance.take()
    instance.send(OK)
    assert b"Connection: close" in quick.take()
    assert not wire.worker.connections.quiet.is_set()
    wire.advance(1.1)
    assert silent.cut
    quick.eof()
    assert wire.worker.connections.quiet.is_set()


# -- which certificate


def seen(wire: Wire, name: str | None) -> str:
    """The first name of the certificate that a client gets who asks for this one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = wire.secure(wire.silent_client(), context, server_hostname=name)
    certificate = client.transport.ssl.getpeercert(binary_form=True)
    client.eof()
    pairs = [authority()[1], other_pair()]
    return next(
        pair.names[0]
        for pair in pairs
        if ssl.PEM_cert_to_DER_cert(pair.cert.decode().partition("-----END")[0] + _END)
        == certificate
    )


_END = "-----END CERTIFICATE-----\n"


def test_the_name_that_is_asked_for_chooses(make: Any) -> None:
    wire = make()
    wire.prove(authority()[1], other_pair())
    names = {
        None: "h", "h": "h", "unknown.example": "h", "192.0.2.9": "h",
        "other.example": "other.example", "OTHER.Example.": "other.example",
        "a.other.example": "other.example", "a.b.other.example": "h",
    }  # fmt: skip
    assert {name: seen(wire, name) for name in names} == names


def test_an_unknown_name_may_be_refused(make: Any) -> None:
    wire = make(listener=listener(tls={"unknown_names": "refuse"}))
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        seen(wire, "unknown.example")
    assert handshakes(wire) == {"refused": 1}
    assert seen(wire, None) == "h"


def test_a_pair_that_cannot_be_used_leaves_the_one_before(make: Any) -> None:
    wire = make()
    wire.prove(CertificatePair(authority()[1].cert, other_pair().key, ("h",), "ec"))
    assert seen(wire, "h") == "h"
    client, instance = asked(wire)
    answered(client, instance)


def test_a_connection_from_before_goes_on_and_its_generation_ends_with_it(make: Any) -> None:
    wire = make()
    client, instance = asked(wire)
    wire.prove(other_pair())
    certificates = wire.facts.certificates
    assert certificates.alive == 2
    answered(client, instance)
    client.eof()
    wire.settle()
    wire.network.transports.clear()  # The loop forgets what is closed.
    client.transport.raw._protocol = None
    assert certificates.alive == 1


# -- versions, groups, sessions


def client_context(**more: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority()[0].decode())
    context.check_hostname = False
    for name, value in more.items():
        setattr(context, name, value)
    return context


def test_old_versions_get_an_alert(make: Any) -> None:
    wire = make(listener=listener(tls={"min_version": "1.3"}))
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        wire.secure(wire.silent_client(), client_context(maximum_version=ssl.TLSVersion.TLSv1_2))


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def resumes(first: Wire, second: Wire, version: ssl.TLSVersion) -> bool:
    """Whether the second one takes a session of the first for one of its own."""
    context = client_context(maximum_version=version, minimum_version=version)
    client = first.secure(first.silent_client(), context)
    serve(first, client)
    session = client.transport.ssl.session
    fresh = second.secure(second.silent_client(), context, session=session)
    serve(second, fresh)
    reused = fresh.transport.ssl.session_reused
    assert handshakes(second).get("resumed", 0) == reused
    return bool(reused)


@VERSIONS
@pytest.mark.parametrize(
    ("keys", "session_context", "same"),
    [(KEYS, b"a", True), (KEYS, b"b", False), (KEYS[::-1], b"a", False)],
)
def test_a_session_is_resumed_by_every_worker_with_the_same_keys_and_policy(
    make: Any, version: ssl.TLSVersion, keys: bytes, session_context: bytes, same: bool
) -> None:
    one, other = make(), make()
    one.prove(authority()[1], ticket_keys=KEYS, session_context=b"a")
    other.prove(authority()[1], ticket_keys=keys, session_context=session_context)
    assert resumes(one, one, version)
    assert resumes(one, other, version) == same


@VERSIONS
def test_without_tickets_no_session_is_resumed(make: Any, version: ssl.TLSVersion) -> None:
    wire = make(listener=listener(tls={"tickets": False}))
    assert not resumes(wire, wire, version)


def test_a_tls_end_is_passed_on_behind_an_answer(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(request("GET /x", "Connection: close"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /x"))
    instance.send(OK)
    assert b"Connection: close" in client.take()
    assert client.saw_end
    assert client.transport.heard_end
