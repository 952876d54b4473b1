"""The TLS layer as a transport and as a protocol: calls and callbacks in an awkward order."""

from __future__ import annotations

import ssl

import pytest

from proxy.engine.tls.connection import SLICE
from proxy.engine.tls.handshakes import Handshakes
from tests.support.loop_and_network import SteppedLoop
from tests.support.tls_layer import Above, Layer

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
SIDES = pytest.mark.parametrize("server_side", [True, False])
ALERT = 21
BAD_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)


# -- reading


def test_a_protocol_that_is_paused_when_it_is_made_misses_nothing() -> None:
    above = Above()
    above.on_made = above.hold
    layer = Layer(above=above, shake=False)
    far = layer.far
    with pytest.raises(ssl.SSLWantReadError):
        far.ssl.do_handshake()
    far._send()
    layer.settle()
    far._receive()
    far.ssl.do_handshake()
    far.feed(b"early")  # In one read with the end of the handshake.
    layer.settle()
    assert above.said == []
    above.release()
    layer.settle()
    assert above.heard == b"early"


@SIDES
@VERSIONS
def test_bytes_in_front_of_a_bad_record_are_passed_on(
    server_side: bool, version: ssl.TLSVersion
) -> None:
    layer = Layer(server_side, version=version)
    layer.raw.feed(layer.far.encrypt(b"good") + BAD_RECORD)
    layer.settle()
    assert layer.above.said == [b"good"]
    assert isinstance(layer.above.lost[0], ssl.SSLError)


def test_a_protocol_that_closes_hears_no_more() -> None:
    layer = Layer()
    layer.above.on_data = lambda: layer.above.transport.close()
    layer.raw.feed(layer.far.encrypt(bytes(4 * SLICE)))
    layer.settle()
    assert len(layer.above.said) == 1
    assert layer.above.lost == [None]


def test_an_instance_that_is_gone_has_said_what_it_said() -> None:
    layer = Layer(False)
    answer = bytes(range(256)) * 800
    layer.above.on_data = layer.above.hold  # Each time: the client is slow.
    layer.raw.feed(layer.far.encrypt(answer))
    layer.settle()
    assert len(layer.above.heard) < len(answer)
    layer.raw._end(ConnectionResetError("reset by peer"))
    layer.settle()
    assert layer.above.heard == answer
    assert isinstance(layer.above.lost[0], ConnectionResetError)


def test_an_instance_that_said_its_end_and_reset_has_said_all() -> None:
    layer = Layer(False)
    layer.above.on_data = layer.above.hold
    ended = layer.far.encrypt(bytes(3 * SLICE))
    layer.raw.feed(ended + layer.far.end())
    layer.settle()
    layer.raw._end(ConnectionResetError("reset by peer"))
    layer.settle()
    assert len(layer.above.heard) == 3 * SLICE
    assert layer.above.ends == 1
    assert layer.above.lost == [None]


# -- writing


@pytest.mark.parametrize("late_pause", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_protocol_may_close_while_it_is_told_to_pause(late_pause: bool, at_once: bool) -> None:
    """As uvloop does it, it is told within `write`."""
    layer = Layer(late_pause=late_pause)
    layer.above.on_full = lambda: layer.above.transport.close()
    layer.raw.stall()
    data = bytes(300 * 1024)
    if at_once:
        layer.connection.writelines([b"head", data, b"tail"])
    else:
        layer.connection.write(data)
    layer.settle()
    layer.raw.read_on()
    layer.settle()
    assert len(layer.taken()) == len(data) + 8 * at_once
    assert layer.far.heard_end
    assert layer.above.lost == [None]


def test_new_keys_behind_our_end_are_taken() -> None:
    layer = Layer()
    layer.above.transport.write_eof()
    layer.raw.feed(layer.far.key_update() + layer.far.encrypt(b"more"))
    layer.raw.feed(layer.far.key_update())
    layer.feed(b"and more")
    assert layer.above.heard == b"moreand more"
    assert layer.above.lost == []


def test_a_bad_record_behind_our_end_closes() -> None:
    layer = Layer()
    layer.above.transport.write_eof()
    layer.raw.feed(BAD_RECORD)
    layer.settle()
    assert isinstance(layer.above.lost[0], ssl.SSLError)


def test_new_keys_of_a_peer_that_reads_slowly_are_taken() -> None:
    layer = Layer()
    layer.raw.stall()
    layer.connection.write(bytes(256 * 1024))
    layer.raw.feed(layer.far.key_update(3))
    layer.feed(b"more")
    assert layer.above.lost == []
    layer.raw.read_on()
    assert len(layer.taken()) == 256 * 1024
    layer.connection.write(b"with the new keys")
    assert layer.taken() == b"with the new keys"


def test_a_peer_that_asks_for_new_keys_and_does_not_read_is_cut() -> None:
    layer = Layer()
    layer.raw.stall()
    for _ in range(10):
        layer.raw.feed(layer.far.key_update(1000))
        layer.settle()
    assert layer.raw.lost
    assert layer.raw.aborted
    assert isinstance(layer.above.lost[0], ssl.SSLError)


def test_a_bad_record_of_a_peer_that_does_not_read_is_the_end() -> None:
    layer = Layer()
    layer.raw.stall()
    layer.connection.write(b"not read")
    layer.raw.feed(BAD_RECORD)
    layer.settle()
    assert isinstance(layer.above.lost[0], ssl.SSLError)


# -- ends


def test_a_bare_end_of_a_tunnel_is_told_at_once() -> None:
    layer = Layer()
    tunnel = Above()
    layer.connection.set_protocol(tunnel)
    layer.raw.stall()
    layer.connection.write(b"not read")
    layer.raw.feed_eof()
    layer.settle()
    assert tunnel.ends == 0
    assert isinstance(tunnel.lost[0], ConnectionAbortedError)


@SIDES
def test_a_bare_end_is_answered_with_an_end_that_is_said(server_side: bool) -> None:
    layer = Layer(server_side)
    layer.raw.feed_eof()
    layer.settle()
    assert layer.taken() == b""
    assert layer.far.heard_end
    assert layer.above.ends == 1
    assert isinstance(layer.above.lost[0], ConnectionAbortedError)


@SIDES
def test_a_connection_that_is_lost_before_anybody_speaks_is_lost_to_who_does(
    server_side: bool,
) -> None:
    layer = Layer(server_side, speak=False)
    assert layer.secured == 1
    layer.raw._end(ConnectionResetError("reset by peer"))
    layer.settle()
    layer.connection.speak(layer.above)
    layer.above.transport.write(b"x")
    layer.settle()
    assert isinstance(layer.above.lost[0], ConnectionResetError)
    assert layer.not_secured == []


# -- handshakes


def test_a_handshake_whose_connection_is_closing_goes_no_further() -> None:
    layer = Layer(shake=False)
    with pytest.raises(ssl.SSLWantReadError):
        layer.far.ssl.do_handshake()
    layer.far._send()
    layer.settle()
    layer.far._receive()
    layer.far.ssl.do_handshake()
    layer.far._send()  # The last that was missing.
    layer.raw.abort()
    layer.settle()
    assert layer.secured == 0
    assert layer.not_secured == [None]


def test_handshakes_of_connections_that_are_gone_wait_for_no_turn() -> None:
    loop = SteppedLoop()
    handshakes = Handshakes(loop.call_soon)
    done: list[str] = []
    owners = [object() for _ in range(100)]
    for owner in owners:
        handshakes.want(owner, lambda: done.append("gone"))
    for owner in owners:
        handshakes.forget(owner)
    assert len(handshakes) == 0
    handshakes.want(loop, lambda: done.append("there"))
    handshakes.forget(owners[0])
    loop.run_turn()
    assert done == ["there"]
    loop.run_ready()
    assert done == ["there"]


def test_an_instance_that_wants_to_renegotiate_is_told_no() -> None:
    layer = Layer(False, version=ssl.TLSVersion.TLSv1_2)
    layer.raw.feed(layer.far.renegotiate())
    layer.settle()
    assert layer.raw.taken[0] == ALERT
    layer.feed(b"on")
    layer.connection.write(b"and on")
    assert layer.above.heard == b"on"
    assert layer.above.lost == []
