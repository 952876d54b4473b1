"""Laws of requests to instances of HTTP/2: they get what instances of HTTP/1.1 would get; whatever
both sides do, everything is given back in the end; and no client gets another one's answer."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.settings.service import (
    Keepalive,
    QueueSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.frame_cases import PING, SETTINGS, frame
from tests.support.h2_peer import (
    H2Instance,
    answer,
    data,
    number,
    reset,
    trailers,
    window,
)
from tests.support.wire import Peer, Wire, request

names = st.sampled_from(["X-A", "Accept", "Cookie", "Via", "User-Agent", "X-Forwarded-For"])
values = st.text("abc ;,=%", max_size=8).map(str.strip)
fields = st.lists(st.tuples(names, values), max_size=6, unique_by=lambda pair: pair[0])
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PURGE"])
paths = st.text("ab/.%2F?&", max_size=12).map("/".__add__)
bodies = st.one_of(st.none(), st.binary(max_size=80))


@given(methods, paths, fields, bodies, st.booleans())
def test_an_instance_of_either_version_gets_the_same(
    method: str, path: str, sent: list[tuple[str, str]], body: bytes | None, sized: bool
) -> None:
    lines = [f"{name}: {value}" for name, value in sent]
    raw = body or b""
    if body is not None and sized:
        lines.append(f"Content-Length: {len(body)}")
    elif body is not None:
        lines.append("Transfer-Encoding: chunked")
        raw = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    got: list[Any] = []
    for http2 in (False, True):
        wire = Wire(http2=http2)
        client = wire.client()
        client.send(request(f"{method} {path}", *lines, body=raw))
        if not wire.network.accepted.get(wire.address("a")):
            got.append(None)  # It was refused.
        elif http2:
            frames = H2Instance(wire).take()
            told = frames[0][2]
            start = [told.pop(":method"), told.pop(":path"), told.pop(":authority")]
            del told[":scheme"]
            content = b"".join(one[2] for one in frames if one[0] == "data")
            got.append((start, told, content))
        else:
            lines_, _, content = wire.accepted().take().partition(b"\r\n\r\n")
            first, *rest = lines_.decode().split("\r\n")
            pairs = [line.partition(": ") for line in rest]
            told = {name.lower(): value for name, _, value in pairs}
            if told.pop("transfer-encoding", ""):
                content = body or b""
            got.append(([*first.split(" ")[:2], told.pop("host")], told, content))
        client.take()
        wire.done()
    assert got[0] == got[1]


streams = st.integers(0, 5).map(lambda at: 2 * at + 1)
codes = st.sampled_from([0, 1, 2, 7, 8, 11, 13])


def goaway(last: int, code: int) -> bytes:
    return frame(7, 0, 0, number(last) + number(code))


def hello(stream: int) -> bytes:
    return answer(stream, ("content-length", "2")) + data(stream, b"hi", True)


acts = st.one_of(
    st.tuples(
        st.just("ask"),
        st.sampled_from(
            [
                request("GET /x"),
                request("HEAD /x"),
                request("POST /x", "Content-Length: 3", body=b"abc"),
                request("PUT /x", "Content-Length: 90000", body=70000 * b"x"),
                request("POST /x", "Transfer-Encoding: chunked"),
                request("GET /x", "Connection: Upgrade", "Upgrade: x"),
            ]
        ),
    ),
    st.tuples(st.just("body"), st.sampled_from([b"3\r\nabc\r\n", b"0\r\n\r\n", 9000 * b"x"])),
    st.tuples(
        st.just("instance"),
        st.one_of(
            st.builds(hello, streams),
            st.builds(answer, streams, status=st.sampled_from([100, 103, 200, 204, 503])),
            st.builds(answer, streams, status=st.sampled_from([200, 503]), end=st.just(True)),
            st.builds(data, streams, st.sampled_from([b"", b"ab", 9000 * b"x"]), st.booleans()),
            st.builds(trailers, streams, st.just(("x-t", "1"))),
            st.builds(reset, streams, codes),
            st.builds(goaway, st.one_of(streams, st.just(0), st.just(0x7FFFFFFF)), codes),
            st.builds(window, st.one_of(st.just(0), streams), st.sampled_from([1, 9000, 1 << 20])),
            st.sampled_from(
                [
                    PING,
                    SETTINGS,
                    frame(4, 0, 0, b"\0\4" + number(100)),
                    frame(4, 0, 0, b"\0\3" + number(0)),
                    frame(4, 0, 0, b"\0\3" + number(2)),
                    frame(6, 1, 0, bytes(8)),
                    b"HTTP/1.1 400 Bad Request\r\n\r\n",
                ]
            ),
        ),
    ),
    st.tuples(
        st.sampled_from(
            ["next", "other", "end", "stall", "read", "stall client", "read client", "gone",
             "refuse", "accept", "change", "drain"]
        ),
        st.just(b""),
    ),
    st.tuples(st.just("wait"), st.sampled_from([b"0.1", b"3", b"40"])),
)  # fmt: skip


@given(st.lists(acts, max_size=40), st.booleans(), st.booleans())
def test_everything_is_given_back_by_instances_of_http2(
    script: list[tuple[str, bytes]], tls: bool, settles: bool
) -> None:
    settings = ServiceSettings(
        max_inflight=3,
        queue=QueueSettings(size=2),
        keepalive=Keepalive(max_requests=5, streams=2),
        retry=RetrySettings(max_retries=1, on=("connect", "reset", "503"), budget=1.0),
        timeouts=Timeouts(total=60.0, first_byte=50.0, queue=5.0),
    )
    wire = Wire("a", "b", settings=settings, tls=tls, http2=True)
    clients = [wire.client()]
    instances: list[Peer] = []
    at = who = 0
    http2 = True
    for act, what in script:
        adopt(wire, instances, settles)
        instance = instances[at % len(instances)] if instances else None
        client = clients[who % len(clients)]
        if act == "ask":
            if client.closed:
                client = wire.client()
                clients.append(client)
            client.send(what)
        elif act == "body" and not client.closed:
            client.send(what)
        elif act == "instance" and instance is not None and not instance.closed:
            instance.send(what)
        elif act == "next":
            at += 1
        elif act == "other":
            who += 1
            if len(clients) < 6:
                clients.append(wire.client())
        elif act == "end" and instance is not None and not instance.closed:
            instance.eof()
        elif act == "stall" and instance is not None:
            instance.stall()
        elif act == "read" and instance is not None:
            instance.read_on()
        elif act == "stall client":
            client.stall()
        elif act == "read client":
            client.read_on()
        elif act == "gone" and not client.closed:
            client.reset()
        elif act == "refuse":
            wire.network.refuse(wire.address("a"))
        elif act == "accept":
            wire.network.errors.pop(wire.address("a"), None)
        elif act == "change":
            http2 = not http2
            wire.serve("a", "b", http2=http2)
        elif act == "drain":
            wire.serve("b", a="draining")
        elif act == "wait":
            wire.advance(float(what))
    finish(wire, instances)


def adopt(wire: Wire, instances: list[Peer], settles: bool) -> None:
    for name in ("a", "b"):
        while wire.network.accepted.get(wire.address(name)):
            instances.append(wire.accepted(name))
            if settles and not instances[-1].closed:
                instances[-1].send(SETTINGS)


def finish(wire: Wire, instances: list[Peer]) -> None:
    """Everybody reads on, and time passes: nothing may be left of what was begun."""
    for _ in range(3):
        adopt(wire, instances, False)
        for peer in wire.peers:
            peer.transport.taken.clear()
            if not peer.closed:
                peer.transport.read_on()
        wire.settle()
        wire.advance(200.0)
    adopt(wire, instances, False)
    for peer in wire.peers:
        peer.transport.taken.clear()
    wire.done()


@given(st.permutations(range(6)), st.lists(st.integers(1, 40), max_size=6))
def test_no_client_gets_the_answer_of_another(order: list[int], cuts: list[int]) -> None:
    wire = Wire(http2=True)
    clients = [wire.client() for _ in order]
    for one, client in enumerate(clients):
        client.send(request(f"GET /{one}"))
    instance = H2Instance(wire)
    asked = {one[2][":path"]: one[1] for one in instance.take()}
    said = b"".join(
        answer(asked[f"/{one}"], ("content-length", "5"))
        + data(asked[f"/{one}"], b"for %d" % one, True)
        for one in order
    )
    for cut in cuts:
        instance.send(said[:cut])
        said = said[cut:]
    instance.send(said)
    for one, client in enumerate(clients):
        assert client.take().endswith(b"\r\n\r\nfor %d" % one)
    wire.done()
