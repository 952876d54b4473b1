"""TLS with clients: handshakes, and what is not HTTP on a port that speaks it."""

from __future__ import annotations

import base64
import hashlib
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from cryptography import x509

from proxy.engine.tls.certificates import without_names
from proxy.engine.tls.connection import SLICE
from proxy.messages import AcmeChallenges, CertificatePair
from proxy.settings.edge import Hsts, Redirect
from proxy.settings.listener import ListenerLimits, ListenerSettings, ListenerTimeouts
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.tls.acme import challenge_pair
from proxy.tls.contexts import load_pair
from tests.support.certificates import UNREADABLE, Authority, Made
from tests.support.h2_peer import H2Peer, head
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


def test_plain_http_with_a_body_is_read_until_the_client_has_its_answer(make: Any) -> None:
    wire = make()
    client = wire.silent_client()
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n")
    client.expect_problem(400, "bad_request", closing=True)
    client.send(bytes(9999))
    assert client.read
    client.eof()
    assert client.closed
    assert not client.cut


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"\0" * 600, b"\x80\x2e\x01\0\x02", b"x"])
def test_garbage_is_closed(make: Any, garbage: bytes) -> None:
    wire = make()
    client = wire.silent_client()
    client.send(garbage + bytes(SLICE))
    client.take()  # An alert, perhaps.
    assert client.closed
    assert handshakes(wire) == {"refused": 1}
    assert wire.facts.counts.open == 0
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
    assert wire.facts.counts.handshakes == wire.facts.counts.open == 0


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
    wire.worker.drain(30.0)
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


def test_clients_that_are_gone_before_their_turn_delay_nobody(make: Any) -> None:
    wire = make()
    client, *peers = [begin(wire) for _ in range(50)]
    for peer in peers:
        peer.transport.raw.feed(hello(peer))
        peer.transport.raw.abort()
        peer.transport.raw.deliver_lost()
    client.transport.raw.feed(hello(client))
    wire.loop.run_turn()
    assert client.transport.raw.taken
    assert len(wire.worker.services.handshakes) == 0
    client.reset()


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


def test_a_name_that_is_not_ascii_is_refused_and_told_once(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", without_names(told.append))
    wire = make()
    client = begin(wire, server_hostname="other.example")
    client.transport.raw.feed(hello(client).replace(b"other.example", b"\xff\xfe\xfder.example"))
    wire.settle()
    client.take()  # An alert.
    assert client.closed
    assert handshakes(wire) == {"refused": 1}
    assert told == []


def test_other_errors_that_nobody_can_catch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", without_names(told.append))

    class Failing:
        def __del__(self) -> None:
            b"\xff".decode("ascii")

    Failing()
    assert isinstance(told[0].exc_value, UnicodeDecodeError)


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


def test_protocols_that_nobody_here_speaks_are_passed_over(make: Any) -> None:
    wire = make()
    context = client_context()
    context.set_alpn_protocols(["foo"])
    client = wire.secure(wire.silent_client(), context)
    assert client.transport.ssl.selected_alpn_protocol() is None
    serve(wire, client)


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


# -- clients with certificates


def with_client_ca(**tls: Any) -> ListenerSettings:
    return listener(tls={"client_ca": "ca", **tls})


def showing(certificate: Made | None) -> ssl.SSLContext:
    context = client_context()
    if certificate is not None:
        load_pair(context, certificate.cert, certificate.key)
    return context


@cache
def clients() -> tuple[Authority, Made, Made]:
    """An authority for clients, one of its clients, and one of somebody else's."""
    ours = Authority("clients")
    return ours, ours.issue("client.example"), Authority("others").issue("client.example")


def refuses(wire: Wire, context: ssl.SSLContext, **options: Any) -> bool:
    """Whether a client is let go without an answer. Under TLS 1.3 it hears of that late."""
    try:
        client = wire.secure(wire.silent_client(), context, **options)
        client.send(GET)
        client.take()
    except ssl.SSLError:
        return True
    return False


@VERSIONS
@pytest.mark.parametrize("auth", ["require", "request"])
def test_clients_without_a_good_certificate_are_refused(
    make: Any, version: ssl.TLSVersion, auth: str
) -> None:
    authority_, good, bad = clients()
    wire = make(listener=with_client_ca(client_auth=auth))
    wire.prove(authority()[1], client_ca=authority_.ca)
    contexts = [showing(one) for one in (bad, None, good)]
    for context in contexts:
        context.minimum_version = context.maximum_version = version
    assert refuses(wire, contexts[0])
    assert refuses(wire, contexts[1]) == (auth == "require")
    if auth == "request":
        assert wire.accepted().take()
    client = wire.secure(wire.silent_client(), contexts[2])
    serve(wire, client)


@VERSIONS
def test_a_ticket_of_an_open_listener_does_not_open_one_that_asks_for_certificates(
    make: Any, version: ssl.TLSVersion
) -> None:
    open_, strict = make(), make(listener=with_client_ca())
    open_.prove(authority()[1], ticket_keys=KEYS, session_context=b"open")
    strict.prove(
        authority()[1], client_ca=clients()[0].ca, ticket_keys=KEYS, session_context=b"strict"
    )
    context = client_context(minimum_version=version, maximum_version=version)
    client = open_.secure(open_.silent_client(), context)
    serve(open_, client)
    session = client.transport.ssl.session
    assert refuses(strict, context, session=session)


def test_instances_are_told_of_the_certificate_and_not_of_what_clients_say_of_theirs(
    make: Any,
) -> None:
    authority_, good, _ = clients()
    trusting = {"trusted_proxies": ("192.0.2.0/24",)}
    wire = make(listener=listener(
        tls={"client_ca": "ca", "forward_client_cert": "rfc9440"}, **trusting
    ))  # fmt: skip
    wire.prove(authority()[1], client_ca=authority_.ca)
    client = wire.secure(wire.silent_client(), showing(good))
    spoofed = (
        "Client-Cert: :AAAA:",
        "client-cert-chain: :AAAA:",
        "X-Forwarded-Client-Cert: Hash=0",
    )
    client.send(request("GET /x", *spoofed))
    instance = wire.accepted()
    sent = instance.take()
    own = base64.b64encode(ssl.PEM_cert_to_DER_cert(good.cert.decode().split("-----END")[0] + _END))
    assert sent.count(b"\r\nClient-Cert: ") == 1
    assert b"\r\nClient-Cert: :%b:\r\n" % own in sent
    assert b":AAAA:" not in sent
    assert b"Hash=0" not in sent
    answered(client, instance)


def test_instances_are_told_the_same_over_http2(make: Any) -> None:
    authority_, good, _ = clients()
    trusting = {"trusted_proxies": ("192.0.2.0/24",)}
    wire = make(listener=listener(
        tls={"client_ca": "ca", "forward_client_cert": "rfc9440"}, **trusting
    ))  # fmt: skip
    wire.prove(authority()[1], client_ca=authority_.ca)
    context = showing(good)
    context.set_alpn_protocols(["h2"])
    client = H2Peer(wire, context=context)
    spoofed = ("client-cert", "client-cert-chain", "x-forwarded-client-cert")
    client.send(head(1, *((name, ":AAAA:") for name in spoofed), scheme="https"))
    instance = wire.accepted()
    sent = instance.take()
    assert sent.count(b"\r\nClient-Cert: :MI") == 1
    assert b":AAAA:" not in sent
    assert b"X-Forwarded-Client-Cert" not in sent
    instance.send(OK)
    assert client.answer(1)[1] == b"hi"


def test_xfcc_names_the_client(make: Any) -> None:
    authority_, good, _ = clients()
    wire = make(listener=with_client_ca(forward_client_cert="xfcc"))
    wire.prove(authority()[1], client_ca=authority_.ca)
    client = wire.secure(wire.silent_client(), showing(good))
    client.send(request("GET /x"))
    instance = wire.accepted()
    sent = instance.take()
    assert b';Subject="CN=client.example";DNS=client.example\r\n' in sent
    answered(client, instance)


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        ({"forward_client_cert": "xfcc"}, b"X-Forwarded-Client-Cert: Hash="),
        ({"forward_client_cert": "rfc9440"}, b"Client-Cert: :MI"),
        ({"trust_domain": "mesh.local"}, b"GET /x"),
    ],
)
def test_a_client_whose_certificate_cannot_be_read_is_served_as_one_that_names_nobody(
    make: Any, tls: dict[str, str], told: bytes
) -> None:
    authority_ = clients()[0]
    wire = make(listener=with_client_ca(**tls))
    wire.prove(authority()[1], client_ca=authority_.ca)
    odd = showing(authority_.issue(common_name="odd", extension=UNREADABLE))
    client = wire.secure(wire.silent_client(), odd)
    client.send(GET)
    instance = wire.accepted()
    assert told in instance.take()
    answered(client, instance)


# -- hosts, HSTS, redirects


@pytest.mark.parametrize(
    "tls", [{"unknown_names": "refuse"}, {"client_ca": "ca", "client_auth": "request"}]
)
def test_a_host_that_the_certificate_does_not_cover_is_misdirected(
    make: Any, tls: dict[str, Any]
) -> None:
    wire = make(listener=listener(tls=tls))
    wire.prove(authority()[1], client_ca=clients()[0].ca if "client_ca" in tls else b"")
    client = wire.client()
    client.send(request("GET /", host="other.example"))
    client.expect_problem(421, "misdirected")
    client.send(request("GET /", host="A.Example.COM:8443"))
    instance = wire.accepted()
    assert instance.take()
    answered(client, instance)


def test_hsts_is_on_every_answer_and_an_instance_may_say_it_itself(make: Any) -> None:
    hsts = Hsts(max_age=60.0, include_subdomains=True, preload=True)
    wire = make(listener=listener(hsts=hsts))
    line = b"\r\nStrict-Transport-Security: max-age=60; includeSubDomains; preload\r\n"
    client, instance = asked(wire)
    instance.send(OK)
    assert line in client.take()
    client.send(GET)
    instance.take()
    own = b"\r\nstrict-transport-security: max-age=1\r\n"
    instance.send(OK.replace(b"\r\n", own, 1))
    answer = client.take()
    assert own in answer
    assert answer.lower().count(b"strict-transport") == 1
    client.send(b"nonsense\r\n\r\n")
    assert line in client.take()


def test_hsts_is_not_said_in_clear_text(make: Any) -> None:
    wire = make(listener=listener(hsts=Hsts(max_age=60.0)))
    client = wire.silent_client()
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"strict-transport" not in answer.lower()


@pytest.mark.parametrize(
    ("target", "host", "location"),
    [
        ("/a%2fb/%41?c=%41", "h", b"https://h/a%2fb/A?c=%41"),
        ("/", "h:8080", b"https://h/"),
        ("/../x/", "[2001:db8::7]:80", b"https://[2001:db8::7]/x/"),
        ("//evil.example/", "h", b"https://h//evil.example/"),
        ("http://h/abs", "h", b"https://h/abs"),
    ],
)
def test_a_redirect_keeps_host_and_target(
    make: Any, target: str, host: str, location: bytes
) -> None:
    wire = make(tls=False, listener=ListenerSettings(redirect_to_https=Redirect()))
    client = wire.client()
    client.send(request(f"POST {target}", "Content-Length: 2", host=host, body=b"hi"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert b"\r\nLocation: %b\r\n" % location in answer


@pytest.mark.parametrize("said", [b"GET /x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1\r\nHost:\r\n\r\n"])
def test_a_client_that_cannot_be_sent_to_https_is_not_served_in_clear_text(
    make: Any, said: bytes
) -> None:
    redirect = Redirect(excepted=("/health",))
    wire = make(tls=False, listener=ListenerSettings(redirect_to_https=redirect))
    client = wire.client()
    client.send(said)
    client.expect_problem(400, "bad_request", closing=True)
    wire.expect_no_dial()
    client = wire.client()
    client.send(said.replace(b"/x", b"/health"))
    instance = wire.accepted()
    assert instance.take().startswith(b"GET /health ")


def challenge(wire: Wire, **tokens: str) -> None:
    """The control process wants these challenges to be answered."""
    wire.worker.on_message(AcmeChallenges(number=1, tokens=tokens, certificates={}))


def test_challenges_are_answered_before_all_else(make: Any) -> None:
    wire = make(tls=False, listener=ListenerSettings(redirect_to_https=Redirect()))
    challenge(wire, token="token.thumbprint")
    client = wire.client()
    client.send(request("GET /.well-known/acme-challenge/token"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\ntoken.thumbprint")
    for line in ("GET /.well-known/acme-challenge/other", "POST /.well-known/acme-challenge/token"):
        client.send(request(line))
        assert client.take().startswith(b"HTTP/1.1 308 ")
    challenge(wire)
    client.send(request("GET /.well-known/acme-challenge/token"))
    assert client.take().startswith(b"HTTP/1.1 308 ")
    assert wire.worker.services.challenges is None


def test_challenges_of_others_go_where_routes_say(make: Any) -> None:
    wire = make(tls=False)
    challenge(wire, token="token.thumbprint")
    client = wire.client()
    client.send(request("GET /.well-known/acme-challenge/other"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /.well-known/acme-challenge/other"))
    answered(client, instance)


@cache
def for_acme(*protocols: str) -> ssl.SSLContext:
    """A context of a client that offers these protocols, and believes everybody."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([*protocols])
    return context


def shown(client: Peer) -> bytes:
    return client.transport.ssl.getpeercert(binary_form=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_first", [False, True])
def test_a_hello_for_the_challenge_alone_gets_its_certificate(make: Any, is_first: bool) -> None:
    settings = ListenerSettings(tls=ListenerTls(certificates=(Certificate(acme=True),)))
    wire = make(listener=settings if is_first else listener())
    pair = CertificatePair(*challenge_pair("h", "token.thumbprint"), ("h",), "ec")
    wire.worker.on_message(AcmeChallenges(number=1, tokens={}, certificates={"h": pair}))
    client = begin(wire, for_acme("acme-tls/1"), server_hostname="h")
    client.transport.shake(wire.settle)
    certificate = x509.load_der_x509_certificate(shown(client))
    [identifier] = [
        one for one in certificate.extensions if one.oid.dotted_string == "1.3.6.1.5.5.7.1.31"
    ]
    assert identifier.critical
    digest = hashlib.sha256(b"token.thumbprint").digest()
    assert identifier.value.public_bytes() == b"\x04\x20" + digest
    assert client.transport.ssl.selected_alpn_protocol() == "acme-tls/1"
    wire.settle()
    assert client.closed
    assert handshakes(wire) == {"challenge": 1}


@pytest.mark.parametrize(
    ("name", "protocols"),
    [("h", ()), ("h", ("acme-tls/1", "http/1.1")), ("other.example", ("acme-tls/1",))],
)
def test_other_hellos_get_what_they_always_get(
    make: Any, name: str, protocols: tuple[str, ...]
) -> None:
    wire = make()
    pair = CertificatePair(*challenge_pair("h", "token.thumbprint"), ("h",), "ec")
    wire.worker.on_message(AcmeChallenges(number=1, tokens={}, certificates={"h": pair}))
    client = begin(wire, for_acme(*protocols), server_hostname=name)
    client.transport.shake(wire.settle)
    usual = x509.load_pem_x509_certificate(authority()[1].cert)
    assert x509.load_der_x509_certificate(shown(client)) == usual
    serve(wire, client)
    assert handshakes(wire) == {"full": 1}


@pytest.mark.parametrize("name", ["h", None])
def test_a_listener_without_a_certificate_yet_refuses_with_an_alert(
    make: Any, name: str | None
) -> None:
    waiting = ListenerTls(certificates=(Certificate(acme=True),))
    wire = make(listener=ListenerSettings(tls=waiting))
    client = begin(wire, server_hostname=name)
    with pytest.raises(ssl.SSLError, match="ALERT"):
        client.transport.shake(wire.settle)
    assert client.closed
    assert handshakes(wire) == {"refused": 1}
    assert wire.worker.counters.service("").faults == {"handshake_failed": 1}
    wire.prove(authority()[1])
    wire.client()
    assert handshakes(wire) == {"refused": 1, "full": 1}


def test_a_redirect_has_exceptions_a_port_and_a_status(make: Any) -> None:
    redirect = Redirect(port=8443, status=302, excepted=("/.well-known/acme-challenge/", "/x"))
    wire = make(tls=False, listener=ListenerSettings(redirect_to_https=redirect))
    client = wire.client()
    for target in ("/xy", "/.well-known/acme-challenge"):
        client.send(request(f"GET {target}"))
        assert b"\r\nLocation: https://h:8443%b\r\n" % target.encode() in client.take()
    client.send(request("GET /x/y"))
    instance = wire.accepted()
    instance.expect(forwarded("GET /x/y"))
    answered(client, instance)
