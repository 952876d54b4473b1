"""WebSockets over HTTP/2 (RFC 8441), to instances of HTTP/1.1: streams that are tunnels."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from tests.support.h2_peer import HTTP2, H2Peer, data, frame, head, reset, trailers, window
from tests.support.wire import OK, Peer, Wire
from tests.wire.test_access_log import Logged, pick
from tests.wire.test_http2 import begun

WEBSOCKET = (("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"))


def connect(stream: int, protocol: str = "websocket", end: bool = False) -> bytes:
    return head(stream, *WEBSOCKET, method="CONNECT", protocol=protocol, end=end)


def asked(make: Any, *frames: bytes, **options: Any) -> tuple[Wire, H2Peer, Peer, bytes]:
    """The head that an instance has got."""
    wire, client = begun(make, **options)
    client.send(*(frames or (connect(1),)))
    instance = wire.accepted()
    return wire, client, instance, instance.take()


def accepts(asked: bytes) -> bytes:
    """A 101 to this."""
    match = re.search(rb"\r\nSec-WebSocket-Key: (\S+)\r\n", asked)
    assert match is not None
    proof = b64encode(sha1(match[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: chat\r\n\r\n" % proof
    )


def opened(make: Any, **options: Any) -> tuple[Wire, H2Peer, Peer]:
    wire, client, instance, got = asked(make, **options)
    instance.send(accepts(got))
    kind, _, told, ended = client.take()[0]
    assert (kind, told[":status"], ended) == ("head", "200", False)
    return wire, client, instance


def test_a_websocket_is_asked_for_as_in_http1(make: Any) -> None:
    _, _, _, got = asked(make)
    assert got.startswith(b"GET /x HTTP/1.1\r\nHost: h\r\nsec-websocket-version: 13\r\n")
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in got
    key = re.search(rb"\r\nSec-WebSocket-Key: (\S+)\r\n", got)
    assert key is not None
    assert len(b64decode(key[1])) == 16


def test_the_answer_is_one_of_http2(make: Any) -> None:
    _, client, instance, got = asked(make)
    instance.send(accepts(got) + b"early")
    assert client.take() == [
        ("head", 1, {":status": "200", "x-request-id": "r1", "sec-websocket-protocol": "chat",
                     "via": "1.1 fairlead"}, False),
        ("data", 1, b"early", False),
    ]  # fmt: skip


def test_bytes_pass_both_ways_and_others_go_on(make: Any) -> None:
    wire, client, instance = opened(make)
    client.send(data(1, b"abc"), data(1, b"def"))
    instance.expect(b"abcdef")
    instance.send(b"ghi")
    assert client.take() == [("data", 1, b"ghi", False)]
    client.send(head(3))
    other = wire.accepted()
    assert other.take()
    other.send(OK)
    assert client.answer(3)[1] == b"hi"
    assert wire.worker.counters.tunnels == 1
    client.send(reset(1))


def test_bytes_before_the_answer_wait(make: Any) -> None:
    _, client, instance, got = asked(make, connect(1) + data(1, b"abc"), data(1, b"def"))
    assert b"abc" not in got
    instance.send(accepts(got))
    instance.expect(b"abcdef")
    assert client.take()[0][2][":status"] == "200"


@pytest.mark.parametrize(
    "frames",
    [
        [connect(1, end=True)],
        [connect(1) + data(1, end=True)],
        [connect(1), data(1, b"abc", end=True)],
        [connect(1) + data(1, b"abc"), trailers(1, ("x-t", "1"))],
    ],
)
def test_an_end_before_the_answer_is_passed_on_behind_it(make: Any, frames: list[bytes]) -> None:
    wire, client, instance, got = asked(make, *frames)
    assert not instance.saw_end
    instance.send(accepts(got))
    instance.expect(b"abc" if b"abc" in b"".join(frames) else b"")
    assert instance.saw_end
    instance.send(b"goodbye")
    instance.eof()
    assert client.take()[1:] == [("data", 1, b"goodbye", True)]
    assert instance.closed
    assert wire.worker.counters.tunnels == 0
    assert wire.in_flight == 0


def test_ends_in_good_order_pass_both_ways(make: Any) -> None:
    wire, client, instance = opened(make)
    client.send(data(1, b"bye", end=True))
    instance.expect(b"bye")
    assert instance.saw_end
    instance.send(b"goodbye")
    instance.eof()
    assert client.take() == [("data", 1, b"goodbye", True)]
    assert instance.closed
    assert wire.worker.counters.tunnels == 0
    assert wire.in_flight == 0


def test_an_instance_that_ends_first_lets_the_client_speak_on(make: Any) -> None:
    _, client, instance = opened(make)
    instance.eof()
    assert client.take() == [("data", 1, b"", True)]
    client.send(data(1, b"more", end=True))
    instance.expect(b"more")
    assert instance.closed
    assert client.take() == []


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_is_gone_leaves_its_instance(make: Any, how: str) -> None:
    wire, client, instance = opened(make)
    if how == "reset":
        client.send(reset(1))
    else:
        client.peer.reset()
    assert instance.closed
    assert wire.worker.counters.tunnels == 0


def test_an_instance_that_is_gone_resets_the_stream_alone(make: Any) -> None:
    wire, client, instance = opened(make)
    instance.reset()
    assert client.take() == [("reset", 1, 8)]
    client.send(head(3))
    assert wire.accepted().take()


def test_a_side_that_does_not_read_holds_up_the_other(make: Any) -> None:
    _, client, instance = opened(make)
    instance.send(400_000 * b"x")
    taken = sum(len(one[2]) for one in client.take())
    assert taken == 65535
    assert not instance.read
    client.send(window(0, 1 << 20), window(1, 1 << 20))
    assert taken + sum(len(one[2]) for one in client.take()) == 400_000
    assert instance.read


def test_an_instance_that_does_not_read_gives_no_window(make: Any) -> None:
    _, client, instance = opened(make)
    instance.stall()
    room, sent = 65535, 0
    while room and sent < 1 << 20:
        client.send(*(data(1, min(16384, room - at) * b"x") for at in range(0, room, 16384)))
        sent += room
        room = sum(one[2] for one in client.take() if one[:2] == ("window", 1))
    assert sent < 1 << 20
    instance.read_on()
    assert len(instance.take()) == sent
    assert [one[:2] for one in client.take()] == [("window", 1)]


def test_a_proof_that_is_none_is_a_bad_answer(make: Any) -> None:
    _, client, instance, got = asked(make)
    instance.send(re.sub(rb"(Accept: )\S", rb"\1=", accepts(got)))
    assert client.take()[0][2][":status"] == "502"
    assert instance.closed


def test_an_answer_that_is_no_tunnel_does_not_look_like_one(make: Any) -> None:
    _, client, instance, _ = asked(make)
    instance.send(OK)
    frames = client.take()
    assert (frames[0][2][":status"], frames[1][2]) == ("502", b"hi")
    assert frames[-1] == ("reset", 1, 0)


def test_a_refusal_of_the_instance_passes(make: Any) -> None:
    _, client, instance, _ = asked(make)
    instance.send(OK.replace(b"200 OK", b"403 No"))
    assert client.take()[0][2][":status"] == "403"


def test_other_protocols_are_tunnels_without_a_key(make: Any) -> None:
    _, client, instance, got = asked(make, connect(1, "echo"))
    assert b"Sec-WebSocket-Key" not in got
    assert b"\r\nUpgrade: echo\r\n" in got
    instance.send(b"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert client.take()[0][2][":status"] == "200"


def test_a_tunnel_is_logged_with_its_bytes(tmp_path: Path) -> None:
    logged = Logged(tmp_path, listener=HTTP2)
    client = H2Peer(logged.wire)
    client.send(connect(1))
    instance = logged.wire.accepted()
    instance.send(accepts(instance.take()))
    client.send(data(1, b"abc"))
    instance.expect(b"abc")
    instance.send(b"hello")
    assert client.take()[-1] == ("data", 1, b"hello", False)
    client.send(reset(1))
    pick(logged.line(), status=101, bytes_received=3, bytes_sent=5, fault=None)


def test_tunnels_are_announced(make: Any) -> None:
    wire = make(listener=HTTP2)
    client = H2Peer(wire, b"")
    client.peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4))
    assert b"\0\x08\0\0\0\x01" in bytes(client.peer.transport.taken)
    client.take()
