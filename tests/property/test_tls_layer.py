"""Laws of the TLS layer: cuts change nothing, and what comes out is what went in, once, in order.

The other end is OpenSSL's own, in memory. What each side says and does, how the ciphertext is cut
into reads, and what the protocol above does from within its callbacks, is hypothesis's choice.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from itertools import accumulate
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.tls.connection import SLICE
from proxy.engine.tls.transport import RECORD
from tests.support.h11_peers import ANSWERS, RECEIVED, REQUESTS, SENT, Instance, cut, understood
from tests.support.tls_layer import Above, Layer
from tests.support.wire import Wire

CONTENT = Random(1).randbytes(1 << 22)
"""Both sides say this, each from the beginning: what is missing, doubled or turned around shows."""
LARGEST = 300 * 1024

SIDES = pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)

sizes = st.one_of(
    st.integers(0, 20),
    st.sampled_from([RECORD - 1, RECORD, RECORD + 1, SLICE, 2 * SLICE + 1]),
    st.integers(0, LARGEST),
)
said_by_peer = st.one_of(
    st.tuples(st.just("say"), sizes),
    st.tuples(st.just("say"), st.integers(1, 20)),
    st.tuples(st.just("new_keys"), st.integers(1, 3)),
    st.tuples(st.just("arrive"), st.integers(1, 40)),
    st.tuples(st.just("arrive"), st.integers(1, LARGEST)),
    st.tuples(st.just("arrive"), st.just(1 << 22)),
    st.tuples(st.just("stall"), st.just(0)),
    st.tuples(st.just("read_on"), sizes),
)
done_above = st.one_of(
    st.tuples(st.just("write"), sizes),
    st.tuples(st.just("writelines"), st.lists(st.one_of(sizes, st.integers(0, 5000)), max_size=6)),
    st.tuples(st.just("hold"), st.just(0)),
    st.tuples(st.just("release"), st.just(0)),
)
turns = st.tuples(st.just("turn"), st.just(0))
reactions = st.lists(
    st.lists(st.one_of(st.sampled_from([("hold", 0), ("release", 0)]), done_above), max_size=3),
    max_size=6,
)
"""What the protocol above does within one callback after the other."""
last_words = st.sampled_from(["end", "bare_end", "reset", "close", "abort", "close_after_end"])


class Conversation:
    """One connection on which both sides do what they are told, by name.

    Owns what each of them has said.
    """

    def __init__(
        self, server_side: bool, version: ssl.TLSVersion, late_pause: bool, piece: int
    ) -> None:
        """`piece`: bytes of the handshake that arrive at once."""
        self.above = Above()
        self.layer = Layer(server_side, self.above, late_pause, version, shake=False)
        self.said = 0
        """Bytes by the peer."""
        self.written = 0
        """Bytes by the protocol above."""
        self._on_the_way = b""
        self._new_keys = version is ssl.TLSVersion.TLSv1_3
        self._writes = True
        self._shake(piece)

    def _shake(self, piece: int) -> None:
        layer, far = self.layer, self.layer.far
        layer.settle()
        while not far._secured:
            far._receive()
            try:
                far.ssl.do_handshake()
                far._secured = True
            except ssl.SSLWantReadError:
                pass
            sent = far._outgoing.read()
            for start in range(0, len(sent), piece):
                layer.raw.feed(sent[start : start + piece])
                layer.settle()

    def react(self, data: list[list[Any]], full: list[list[Any]]) -> None:
        """Do this within `data_received`, and within `pause_writing`, once each."""

        def reaction(doings: list[list[Any]]) -> Callable[[], None]:
            left = iter(doings)
            return lambda: self.do(*next(left, ()))

        self.above.on_data = reaction(data)
        self.above.on_full = reaction(full)

    def do(self, *doings: tuple[str, Any]) -> None:
        for name, value in doings:
            getattr(self, name)(value)

    def settle(self) -> None:
        self.layer.settle()

    def turn(self, _: object = None) -> None:
        self.layer.loop.run_turn()

    # -- the peer

    def say(self, size: int) -> None:
        far = self.layer.far
        self._on_the_way += far.encrypt(CONTENT[self.said : self.said + size])
        self.said += size

    def new_keys(self, times: int) -> None:
        if self._new_keys:
            self._on_the_way += self.layer.far.key_update(times)

    def arrive(self, size: int) -> None:
        piece, self._on_the_way = self._on_the_way[:size], self._on_the_way[size:]
        if piece:
            self.layer.raw.feed(piece)

    def stall(self, _: object) -> None:
        self.layer.raw.stall()

    def read_on(self, size: int | None) -> None:
        self.layer.raw.read_on(size)

    def end(self) -> None:
        self._on_the_way += self.layer.far.end()

    # -- the protocol above

    def write(self, size: int) -> None:
        self.above.transport.write(self._next(size))

    def writelines(self, sizes: list[int]) -> None:
        self.above.transport.writelines([self._next(size) for size in sizes])

    def _next(self, size: int) -> bytes:
        if not self._writes or self.above.transport.is_closing():
            return bytes(size)
        self.written += size
        return CONTENT[self.written - size : self.written]

    def hold(self, _: object = None) -> None:
        self.above.hold()

    def release(self, _: object = None) -> None:
        self.above.release()

    def write_eof(self) -> None:
        self._writes = False  # It may be told to pause from within.
        self.above.transport.write_eof()

    def close(self) -> None:
        self._writes = False
        self.above.transport.close()

    # -- what must be

    def all_said(self) -> None:
        """Everything of both has arrived, and nothing else."""
        self.arrive(1 << 22)
        self.settle()
        for _ in range(20):  # It may hold again each time.
            if self.above.holds:
                self.release()
                self.settle()
        assert self.above.heard == CONTENT[: self.said]
        self.all_written()

    def all_written(self) -> None:
        self.read_on(None)
        self.settle()
        assert bytes(self.layer.far.taken) == CONTENT[: self.written]


@SIDES
@VERSIONS
@given(
    steps=st.lists(st.one_of(said_by_peer, done_above, turns), max_size=30),
    data=reactions,
    full=reactions,
    late_pause=st.booleans(),
    half=st.booleans(),
    piece=st.sampled_from([40, 1000, 1 << 20]),
    last=last_words,
)
def test_bytes_that_go_in_come_out(
    server_side: bool,
    version: ssl.TLSVersion,
    steps: list[tuple[str, Any]],
    data: list[list[Any]],
    full: list[list[Any]],
    late_pause: bool,
    half: bool,
    piece: int,
    last: str,
) -> None:
    talk = Conversation(server_side, version, late_pause, piece)
    above, layer = talk.above, talk.layer
    talk.react(data, full)
    talk.do(*steps)
    assert above.ends == 0
    assert above.lost == []
    assert CONTENT.startswith(above.heard)
    if half:
        talk.write_eof()
        talk.write(10)  # Nobody hears of it.
    if last == "end":
        talk.end()
        talk.say(0)
        talk.all_said()
        assert above.ends == 1
        assert above.lost == [None]
        assert layer.far.heard_end
    elif last == "close_after_end":
        above.goes_on = True
        talk.end()
        talk.arrive(1 << 22)
        layer.raw.feed_eof()
        talk.all_said()
        assert above.ends >= 1
        assert above.lost == []
        talk.write(100)
        talk.close()
        talk.all_written()
        assert above.lost == [None]
        assert layer.far.heard_end
    elif last == "bare_end":
        talk.arrive(1 << 22)
        layer.raw.feed_eof()
        talk.all_said()
        assert above.ends == 1
        assert isinstance(above.lost[0], ConnectionAbortedError)
    elif last == "close":
        talk.close()
        talk.write(10)
        talk.all_written()
        assert layer.far.heard_end
        assert above.ends == 0
        assert above.lost == [None]
        assert CONTENT.startswith(above.heard)
    elif last == "abort":
        above.transport.abort()
        talk.settle()
        assert above.lost == [None]
        assert CONTENT.startswith(bytes(layer.far.taken))
        assert half or not layer.far.heard_end
    else:
        unasked = above.unasked
        talk.arrive(1 << 22)
        layer.raw._end(ConnectionResetError("reset by peer"))
        talk.settle()
        assert isinstance(above.lost[0], ConnectionResetError)
        assert CONTENT.startswith(above.heard)
        assert unasked == 0
        above.unasked = 0  # Nobody can say it later.
    assert above.unasked == 0
    assert len(above.lost) == 1
    assert layer.loop.failures == []


@SIDES
@VERSIONS
@given(
    said=st.lists(sizes, max_size=4),
    places=st.lists(st.integers(0, 1 << 20), max_size=20),
    ended=st.booleans(),
    bad=st.booleans(),
)
def test_content_does_not_depend_on_the_cuts(
    server_side: bool,
    version: ssl.TLSVersion,
    said: list[int],
    places: list[int],
    ended: bool,
    bad: bool,
) -> None:
    """Whatever is behind an end does not count, nor does a bad record take what is before it."""
    layer = Layer(server_side, version=version)
    stream = b"".join(layer.far.encrypt(CONTENT[:size]) for size in said)
    if ended:
        stream += layer.far.end()
    if bad:
        stream += b"\x17\x03\x03\x00\x20" + bytes(32)
    layer.raw.feed(*cut(stream, [place % (len(stream) + 1) for place in places]))
    layer.settle()
    assert layer.above.heard == b"".join(CONTENT[:size] for size in said)
    assert layer.above.ends == ended
    assert [type(error) for error in layer.above.lost] == (
        [type(None)] if ended else [ssl.SSLError] if bad else []
    )


# -- HTTP over it

STREAM = b"".join(REQUESTS)


def spoken(records: list[int], places: list[int]) -> tuple[object, object]:
    """A conversation whose plaintext is in records that end here, and whose ciphertext is in reads
    that end there: what the instance and the client understood."""
    wire = Wire(tls=True)
    client = wire.client()
    far: Any = client.transport
    ciphertext = b"".join(far.encrypt(piece) for piece in cut(STREAM, records))
    instance: Instance | None = None
    for piece in cut(ciphertext, places):
        far.raw.feed(piece)
        wire.settle()
        if instance is None and wire.network.accepted.get(wire.address("a")):
            instance = Instance(wire.accepted(), [[answer] for answer in ANSWERS])
        while instance is not None and instance.serve():
            pass
    assert instance is not None
    got = understood(client.take(), [method for method, _, _ in SENT])
    client.eof()
    wire.done()
    return tuple(instance.seen), tuple(got)


@given(
    st.lists(st.integers(0, len(STREAM)), max_size=6),
    st.lists(st.integers(0, 3000), max_size=12),
)
def test_a_conversation_under_tls_does_not_depend_on_the_cuts(
    records: list[int], places: list[int]
) -> None:
    assert spoken(records, places) == (SENT, RECEIVED)


def test_a_conversation_under_tls_may_be_cut_at_any_byte() -> None:
    records = list(accumulate(map(len, REQUESTS)))
    longest = len(STREAM) + 22 * len(records)
    for place in range(1, longest, 3):
        assert spoken(records, [place]) == (SENT, RECEIVED)
