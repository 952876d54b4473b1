"""The id of a request: to the instance and on every answer, of whatever kind."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.http1.parser import parse_request
from proxy.settings.listener import ListenerLimits, ListenerSettings
from proxy.settings.route import RouteSpec
from tests.support.wire import OK, Peer, Wire

ROUTES = (RouteSpec(path_prefix="/none", service="nobody"), RouteSpec(path_prefix="/", service="s"))
OURS = rb"[0-9a-f]{16}-[0-9a-f]{3,}"


def ask(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request that says no more than this."""
    lines = [line if " HTTP/" in line else f"{line} HTTP/1.1", "Host: h", *fields]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def ids_in(message: bytes, name: bytes = b"x-request-id") -> list[bytes]:
    head = message.partition(b"\r\n\r\n")[0]
    fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    return [value for said, _, value in fields if said.lower() == name]


def id_of(message: bytes, name: bytes = b"x-request-id") -> bytes:
    (value,) = ids_in(message, name)
    return value


def served(wire: Wire, client: Peer, asked: bytes, answer: bytes = OK) -> tuple[bytes, bytes]:
    """What the instance got, and what the client."""
    client.send(asked)
    if wire.network.accepted.get(wire.address("a")):
        wire.accepted("a")
    instance = next(peer for peer in wire.peers if peer.name == "a")
    got = instance.take()
    instance.send(answer)
    return got, client.take()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("GET /", OK),
        ("GET /", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        ("GET /", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
        ("DELETE /", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        ("GET /", b"HTTP/1.1 426 No\r\nUpgrade: x\r\nConnection: Upgrade\r\n"
         b"Content-Length: 0\r\n\r\n"),
        ("HEAD /", OK[:-2]),
        ("GET / HTTP/1.0", OK),
        ("GET / HTTP/1.0", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET /", b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"),
        ("GET /", b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nContent-Length: 0\r\n\r\n"),
        ("GET /", b"HTTP/1.1 200 OK\r\nx-request-id: a\r\nX-REQUEST-ID: b\r\n"
         b"Content-Length: 0\r\n\r\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("own", ["", "mine-1"])
def test_an_answer_that_is_relayed(make: Any, line: str, answer: bytes, own: str) -> None:
    wire = make()
    client = wire.client()
    client.send(ask(line, *([f"x-request-id: {own}"] if own else [])))
    instance = wire.accepted()
    id = id_of(instance.take())
    assert re.fullmatch(own.encode() or OURS, id)
    instance.send(answer)
    assert id_of(client.take()) == id


@pytest.mark.parametrize(
    "asked",
    [
        ask("GET /none"),
        ask("HEAD /none"),
        ask("GET /a%00"),
        ask("OPTIONS /", "Max-Forwards: 0"),
        ask("TRACE /", "Max-Forwards: 0"),
        ask("CONNECT h:443"),
        ask("GET /", "Expect: a miracle"),
        ask("POST /", "Content-Length: 5", body=b"12345"),
        ask("POST /", "Transfer-Encoding: chunked", body=b"zz\r\n"),
        ask("POST /", "Content-Length: 5", "Content-Length: 6"),
        ask("GET / HTTP/2.0"),
        ask("GET /" + "x" * 9000),
        ask("GET /", "X: " + "x" * 40000),
        b"\x16\x03\x01",
    ],
)
def test_an_answer_of_our_own(make: Any, asked: bytes) -> None:
    wire = make(routes=ROUTES, listener=ListenerSettings(limits=ListenerLimits(body=4)))
    client = wire.client()
    client.send(asked)
    wire.network.accepted.clear()
    answer = client.take()
    id = id_of(answer)
    assert re.fullmatch(OURS, id)
    body = answer.partition(b"\r\n\r\n")[2]
    if body.startswith(b"{"):
        assert json.loads(body)["request_id"] == id.decode()
    assert not answer.startswith(b"HTTP/1.1 200") or b"Allow" in answer or b"message/http" in answer


@pytest.mark.parametrize("asked", [ask("GET /none"), ask("OPTIONS /", "Max-Forwards: 0")])
def test_an_answer_of_our_own_has_the_clients_id(make: Any, asked: bytes) -> None:
    wire = make(routes=ROUTES)
    client = wire.client()
    client.send(asked.replace(b"\r\n\r\n", b"\r\nX-Request-ID: mine\r\n\r\n"))
    assert id_of(client.take()) == b"mine"


def test_a_time_limit_of_the_head(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(b"GET / HTTP/1.1\r\nX-Request-ID: mine\r\n")
    wire.advance(10.1)
    assert re.fullmatch(OURS, id_of(client.take()))


def test_an_upgrade(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(ask("GET /", "Connection: Upgrade", "Upgrade: x", "X-Request-ID: mine"))
    instance = wire.accepted()
    assert id_of(instance.take()) == b"mine"
    instance.send(
        b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\nX-Request-ID: theirs\r\n\r\n"
    )
    assert id_of(client.take()) == b"mine"


def test_an_answer_that_is_under_way_does_not_have_it(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(ask("GET /", "X-Request-ID: mine"))
    instance = wire.accepted()
    instance.take()
    instance.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nX-Request-ID: theirs\r\n\r\n")
    client.expect(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    instance.send(OK)
    assert id_of(client.take()) == b"mine"


def test_a_second_attempt_has_the_same(make: Any) -> None:
    wire = make("a", "b")
    client = wire.client()
    client.send(ask("GET /"))
    first = wire.connected()
    id = id_of(first.take())
    first.reset()
    second = wire.connected()
    assert id_of(second.take()) == id
    second.send(OK)
    assert id_of(client.take()) == id


def test_each_request_of_a_connection_has_another(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(ask("GET /") * 300)
    instance = wire.accepted()
    ids = set()
    for _ in range(300):
        ids.add(id_of(instance.take()))
        instance.send(OK)
        client.take()
    assert len(ids) == 300


KEPT = [
    *("a", "A" * 128, "0123456789abcdef-1", "Root=1-67891233-abcdef0123456789", "a.b_c:d+e/f"),
]
REPLACED = [
    *("", "A" * 129, "a b", "a,b", "a;b", '"a"', "a\tb", "<a>", "{a}", "$a", "`a`", "%41", "\xe9"),
]


@pytest.mark.parametrize("given", KEPT)
def test_a_clients_own_is_kept_in_a_form_that_does_no_harm(make: Any, given: str) -> None:
    wire = make()
    client = wire.client()
    got, answered = served(wire, client, ask("GET /", f"X-Request-ID: {given}"))
    assert (id_of(got), id_of(answered)) == (given.encode(), given.encode())


@pytest.mark.parametrize(
    "fields",
    [
        *([f"X-Request-ID: {given}"] for given in REPLACED),
        ["X-Request-ID: a", "X-Request-ID: b"],
        ["X-Request-ID: a", "x-request-id: a"],
        ["X-Request-ID: a", "Connection: x-request-id"],
        ["X_Request_ID: a"],
    ],
)  # fmt: skip
def test_another_one_is_replaced(make: Any, fields: list[str]) -> None:
    wire = make()
    client = wire.client()
    got, answered = served(wire, client, ask("GET /", *fields))
    assert re.fullmatch(OURS, id_of(got))
    assert id_of(answered) == id_of(got)
    assert b"_Request" not in got


@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=140))
def test_ids_that_fit_are_kept(given_: str) -> None:
    value = given_.encode("latin-1")
    if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
        return  # Refused by itself.
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-ID: %b\r\n\r\n" % value
    kept = parse_request(raw, 9).fields.request_id
    stripped = value.strip(b" \t")
    fits = re.fullmatch(rb"[A-Za-z0-9._:+/=-]{1,128}", stripped)
    assert kept == (stripped if fits else None)


class TestAnotherField:
    LISTENER = ListenerSettings(request_id_header="X-Trace")

    def test_takes_its_place(self, make: Any) -> None:
        wire = make(listener=self.LISTENER)
        client = wire.client()
        answer = (
            b"HTTP/1.1 200 OK\r\nx-trace: theirs\r\nX-Request-ID: i\r\nContent-Length: 0\r\n\r\n"
        )
        asked = ask("GET /", "x-trace: mine", "X-Request-ID: a b", "X-Other: 1")
        for _ in range(2):  # Once read, and once remembered.
            got, answered = served(wire, client, asked, answer)
            for message in (got, answered):
                assert id_of(message, b"x-trace") == b"mine"
            assert id_of(got) == b"a b"
            assert b"X-Other: 1\r\n" in got
            assert id_of(answered) == b"i"
            assert b"X-Trace: mine\r\n" in answered

    def test_made_where_there_is_none(self, make: Any) -> None:
        wire = make(listener=self.LISTENER)
        got, answered = served(wire, wire.client(), ask("GET /"))
        assert re.fullmatch(OURS, id_of(got, b"x-trace"))
        assert id_of(answered, b"x-trace") == id_of(got, b"x-trace")
        assert ids_in(got) == ids_in(answered) == []

    def test_on_what_is_refused(self, make: Any) -> None:
        wire = make(listener=self.LISTENER)
        client = wire.client()
        client.send(b"\x16\x03\x01")
        assert re.fullmatch(OURS, id_of(client.take(), b"x-trace"))

    @pytest.mark.parametrize("name", ["X-Real-IP", "x-envoy-id"])
    def test_a_field_only_trusted_proxies_set_may_carry_the_id(self, make: Any, name: str) -> None:
        wire = make(listener=ListenerSettings(request_id_header=name))
        got, answered = served(wire, wire.client(), ask("GET /", f"{name}: mine"))
        for message in (got, answered):
            assert id_of(message, name.lower().encode()) == b"mine"

    def test_is_what_a_route_sees_under_its_name(self, make: Any) -> None:
        routes = (
            RouteSpec(
                path_prefix="/", service="s", headers={"x-trace": "t", "x-request-id": "a b"}
            ),
        )
        wire = make(listener=self.LISTENER, routes=routes)
        asked = ask("GET /", "X-Trace: t", "X-Request-ID: a b")
        assert served(wire, wire.client(), asked)[1].startswith(b"HTTP/1.1 200")


class TestOff:
    LISTENER = ListenerSettings(request_id_header=None)

    def test_ids_pass_and_none_is_added(self, make: Any) -> None:
        wire = make(listener=self.LISTENER)
        client = wire.client()
        answer = b"HTTP/1.1 200 OK\r\nX-Request-ID: their own\r\nContent-Length: 0\r\n\r\n"
        asked = ask("GET /", "X-Request-ID: a b", "X-Request-ID: c")
        for _ in range(2):
            got, answered = served(wire, client, asked, answer)
            assert ids_in(got) == [b"a b", b"c"]
            assert ids_in(answered) == [b"their own"]
        got, answered = served(wire, client, ask("GET /"))
        assert ids_in(got) == ids_in(answered) == []

    def test_connection_still_takes_it_out(self, make: Any) -> None:
        wire = make(listener=self.LISTENER)
        asked = ask("GET /", "X-Request-ID: a", "Connection: x-request-id")
        got, _ = served(wire, wire.client(), asked)
        assert ids_in(got) == []

    def test_own_answers_tell_it_in_their_body(self, make: Any) -> None:
        wire = make(listener=self.LISTENER, routes=ROUTES)
        client = wire.client()
        client.send(ask("GET /none"))
        answer = client.take()
        assert ids_in(answer) == []
        id = json.loads(answer.partition(b"\r\n\r\n")[2])["request_id"]
        assert re.fullmatch(OURS, id.encode())


def test_listeners_that_disagree(make: Any) -> None:
    """The same bytes, which are remembered once, on both."""
    wires = [
        make(listener=ListenerSettings(request_id_header=name))
        for name in ("X-Trace", None, "X-Request-ID", "X-Trace")
    ]
    asked = ask("GET /", "X-Request-ID: a b", "X-Trace: t")
    for _ in range(2):
        seen = [served(wire, wire.client(), asked)[0] for wire in wires]
        told = [(ids_in(got), ids_in(got, b"x-trace")) for got in seen]
        assert told[0] == told[3] == ([b"a b"], [b"t"])
        assert told[1] == ([b"a b"], [b"t"])
        assert told[2][1] == [b"t"]
        assert re.fullmatch(OURS, told[2][0][0])
