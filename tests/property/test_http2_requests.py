"""Laws of requests over HTTP/2: an instance gets what it would get over HTTP/1.1; and whatever both
sides do, everything is given back in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.settings.listener import ListenerLimits
from proxy.settings.service import QueueSettings, RetrySettings, ServiceSettings, Timeouts
from tests.support.frame_cases import PING, SETTINGS, frame
from tests.support.h2_peer import HTTP2, H2Peer, data, head, http2, number, reset, trailers, window
from tests.support.wire import OK, Peer, Wire, request

names = st.sampled_from(["x-a", "accept", "cookie", "via", "user-agent", "x-forwarded-for", "x_y"])
values = st.text("abc ;,=%", max_size=8).map(str.strip)
fields = st.lists(st.tuples(names, values), max_size=6, unique_by=lambda pair: pair[0])
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PURGE"])
paths = st.text("ab/.%2F?&", max_size=12).map("/".__add__)
bodies = st.one_of(st.none(), st.lists(st.binary(max_size=40), max_size=4))


@given(methods, paths, fields, bodies, st.booleans())
def test_an_instance_gets_the_same_over_either_version(
    method: str,
    path: str,
    sent: list[tuple[str, str]],
    body: list[bytes] | None,
    sized: bool,
) -> None:
    content = b"".join(body or [])
    more = [("content-length", str(len(content)))] if body is not None and sized else []
    lines = [f"{name}: {value}" for name, value in (*sent, *more)]
    chunked = body is not None and not sized
    if chunked:
        lines.append("transfer-encoding: chunked")
    elif body is None and method in ("POST", "PUT"):
        lines.append("content-length: 0")
    got = []
    for version in (1, 2):
        wire = Wire(listener=HTTP2)
        if version == 1:
            client = wire.client()
            end = content
            if chunked:
                end = (b"%x\r\n%b\r\n" % (len(content), content) if content else b"") + b"0\r\n\r\n"
            client.send(request(f"{method} {path}", *lines, body=end))
        else:
            peer = H2Peer(wire)
            client = peer.peer
            frames = head(1, *sent, *more, method=method, path=path, end=body is None)
            if body is not None:
                frames += b"".join(data(1, one) for one in body) + data(1, end=True)
            peer.send(frames)
        reached = bool(wire.network.accepted.get(wire.address("a")))
        instance = wire.accepted() if reached else None
        received = b"" if instance is None else instance.take()
        if chunked:  # In which chunks is each version's own affair.
            start, _, rest = received.partition(b"\r\n\r\n")
            received = start + _unchunked(rest)
        got.append(received)
        client.take()
        wire.done()
    assert got[0] == got[1]


def _unchunked(body: bytes) -> bytes:
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return content


streams = st.integers(0, 5).map(lambda at: 2 * at + 1)
acts = st.one_of(
    st.tuples(
        st.just("client"),
        st.one_of(
            st.builds(head, streams, method=st.sampled_from(["GET", "HEAD"])),
            st.builds(head, streams, method=st.just("POST"), end=st.just(False)),
            st.builds(
                head,
                streams,
                st.just(("content-length", "5")),
                method=st.just("PUT"),
                end=st.just(False),
            ),
            st.builds(data, streams, st.sampled_from([b"", b"ab", 9000 * b"x"]), st.booleans()),
            st.builds(trailers, streams, st.just(("x-t", "1"))),
            st.builds(reset, streams),
            st.builds(window, st.one_of(st.just(0), streams), st.sampled_from([1, 9000, 1 << 20])),
            st.sampled_from([PING, SETTINGS, frame(4, 0, 0, b"\0\4" + number(100))]),
        ),
    ),
    st.tuples(
        st.just("instance"),
        st.sampled_from(
            [
                OK,
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                b"0\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n",
                90000 * b"y",
            ]
        ),
    ),
    st.tuples(
        st.sampled_from(["next", "end", "stall", "read", "stall client", "read client", "gone"]),
        st.just(b""),
    ),
    st.tuples(st.just("wait"), st.sampled_from([b"0.1", b"3", b"40"])),
    st.tuples(st.sampled_from(["eof", "drain"]), st.just(b"")),
)


@given(st.lists(acts, max_size=30), st.booleans(), st.booleans())
def test_everything_is_given_back(
    script: list[tuple[str, bytes]], tls: bool, late_pause: bool
) -> None:
    settings = ServiceSettings(
        max_inflight=2,
        queue=QueueSettings(size=2),
        retry=RetrySettings(max_retries=1, on=("connect", "reset", "503"), budget=1.0),
        timeouts=Timeouts(total=60.0, first_byte=20.0, queue=5.0),
    )
    listener = http2(limits=ListenerLimits(streams=3), client_close="half_close")
    wire = Wire("a", "b", listener=listener, settings=settings, late_pause=late_pause, tls=tls)
    client = H2Peer(wire)
    instances: list[Peer] = []
    at, ended = 0, False
    for act, what in script:
        for name in ("a", "b"):
            while wire.network.accepted.get(wire.address(name)):
                instances.append(wire.accepted(name))
        instance = instances[at % len(instances)] if instances else None
        if act == "client" and not client.peer.closed and not ended:
            client.send(what)
        elif act == "instance" and instance is not None and not instance.closed:
            instance.send(what)
        elif act == "next":
            at += 1
        elif act == "end" and instance is not None and not instance.closed:
            instance.eof()
        elif act == "stall" and instance is not None:
            instance.stall()
        elif act == "read" and instance is not None:
            instance.read_on()
        elif act == "stall client":
            client.peer.stall()
        elif act == "read client":
            client.peer.read_on()
        elif act == "gone" and not client.peer.closed:
            client.peer.reset()
        elif act == "wait":
            wire.advance(float(what))
        elif act == "eof" and not client.peer.closed and not ended:
            ended = True
            client.peer.eof()
        elif act == "drain":
            wire.worker.connections.leave(30.0)
            wire.settle()
    for name in ("a", "b"):
        while wire.network.accepted.get(wire.address(name)):
            instances.append(wire.accepted(name))
    for peer in (client.peer, *instances):
        peer.transport.taken.clear()
        peer.transport.read_on()
    wire.settle()
    for peer in (client.peer, *instances):
        peer.transport.taken.clear()
    wire.advance(200.0)
    for name in ("a", "b"):
        while wire.network.accepted.get(wire.address(name)):
            wire.accepted(name)
    for peer in wire.peers:
        peer.transport.taken.clear()
    wire.done()
