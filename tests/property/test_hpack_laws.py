"""Laws of field blocks: what other implementations write, we read, and the reverse; what one
refuses, the others refuse. They are hpack and nghttp2."""

from __future__ import annotations

import hpack
import ngh2
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from proxy.http2 import frames
from proxy.http2.frame_list import FrameList
from proxy.http2.hpack import NO_TABLE, BlockError, Decoder, encode, static_fields

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
names = st.sampled_from((b"", b"a", b"x-name", b":path", b"cookie", b"n" * 130))
values = st.one_of(
    st.sampled_from((b"", b"GET", b"/", b"v" * 127, b"v" * 1500, b"v" * 5000)),
    st.binary(max_size=60),
)
fields = st.lists(st.tuples(names, values), max_size=12)
sizes = st.sampled_from((0, 33, 40, 300, 4096))
Pairs = list[tuple[bytes, bytes]]


def number(first: int, bits: int, value: int) -> bytes:
    coded = encode_integer(value, bits)
    return bytes((coded[0] | first,)) + bytes(coded[1:])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    text = draw(values)
    if draw(st.booleans()):
        coded = HUFFMAN.encode(text)
        return number(0x80, 7, len(coded)) + coded
    return number(0, 7, len(text)) + text


indexes = st.one_of(st.integers(0, 80), st.sampled_from((61, 62, 126, 127, 128, 190)))
representations = st.one_of(
    indexes.map(lambda index: number(0x80, 7, index)),
    st.tuples(indexes, texts()).map(lambda it: number(0x40, 6, it[0] or 1) + it[1]),
    st.tuples(texts(), texts()).map(lambda it: b"\x40" + it[0] + it[1]),
    st.tuples(indexes, texts()).map(lambda it: number(0x00, 4, it[0] or 1) + it[1]),
    st.tuples(texts(), texts()).map(lambda it: b"\x10" + it[0] + it[1]),
)
updates = st.one_of(sizes, st.just(4097)).map(lambda size: number(0x20, 5, size))
blocks = st.tuples(
    st.lists(updates, max_size=2), st.lists(st.one_of(representations, representations), max_size=8)
).map(lambda it: b"".join((*it[0], *it[1])))


def ours(decoder: Decoder, block: bytes) -> Pairs | None:
    try:
        return [(field.name, field.value) for field in decoder.decode(block)]
    except BlockError:
        return None


def theirs(decoder: hpack.Decoder, block: bytes) -> Pairs | None:
    try:
        return [(name, value) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


def compare(several: list[bytes]) -> None:
    decoder = Decoder(static_fields(), 1_000_000, 1000)
    oracle = hpack.Decoder(max_header_list_size=1_000_000)
    for block in several:
        fields = ours(decoder, block)
        assert fields == theirs(oracle, block)
        if fields is None:
            break


@given(st.lists(blocks, max_size=6))
def test_a_block_means_the_same_to_another_implementation(several: list[bytes]) -> None:
    compare(several)


@given(st.lists(st.one_of(st.binary(max_size=12), blocks), max_size=3).map(b"".join))
def test_noise_means_the_same_to_another_implementation(noise: bytes) -> None:
    compare([noise])


@given(st.lists(st.tuples(sizes, fields, st.booleans()), max_size=6))
def test_blocks_of_another_implementation_are_read(several: list[tuple[int, Pairs, bool]]) -> None:
    encoder = hpack.Encoder()
    decoder = Decoder(static_fields(), 1_000_000, 1000)
    for size, pairs, huffman in several:
        encoder.header_table_size = size
        assert ours(decoder, encoder.encode(pairs, huffman=huffman)) == pairs


@given(st.lists(fields, max_size=4))
def test_our_blocks_are_read_by_another_implementation(several: list[Pairs]) -> None:
    """Also where it has no room for a table."""
    oracle = hpack.Decoder(max_header_list_size=1_000_000)
    oracle.max_allowed_table_size = 0
    for number_, pairs in enumerate(several):
        block = b"".join([encode(name, value) for name, value in pairs])
        assert theirs(oracle, block if number_ else NO_TABLE + block) == pairs


# -- nghttp2, which reads and writes heads alone

REQUEST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"h")]
BEGINNING = b"\x82\x86\x84\x11\x01h"
"""The same, of which nothing enters the table."""
usual_names = st.sampled_from((b"a", b"x-name", b"cookie", b"n" * 130))
usual_values = st.sampled_from((b"", b"1", b"v" * 127, b"v" * 1500, b"v" * 5000, b"\xe9 \t."))
usual_fields = st.lists(st.tuples(usual_names, usual_values), max_size=12)


@st.composite
def usual_texts(draw: st.DrawFn, of: st.SearchStrategy[bytes]) -> bytes:
    text = draw(of)
    if draw(st.booleans()):
        coded = HUFFMAN.encode(text)
        return number(0x80, 7, len(coded)) + coded
    return number(0, 7, len(text)) + text


known = st.sampled_from((15, 16, 17, 24, 32, 58, 60, 62, 63, 64, 66, 70))
"""Indexes of fields that a request may have; those beyond 61 may be of none."""
usual_representations = st.one_of(
    known.map(lambda index: number(0x80, 7, index)),
    st.tuples(
        st.sampled_from(((0x40, 6), (0x10, 4), (0, 4))), known, usual_texts(usual_values)
    ).map(lambda it: number(it[0][0], it[0][1], it[1]) + it[2]),
    st.tuples(
        st.sampled_from((0x40, 0x10, 0)), usual_texts(usual_names), usual_texts(usual_values)
    ).map(lambda it: bytes((it[0],)) + it[1] + it[2]),
)
usual_blocks = st.tuples(
    st.lists(updates, max_size=2), st.lists(usual_representations, max_size=8)
).map(lambda it: b"".join((*it[0], BEGINNING, *it[1])))


@given(st.lists(usual_blocks, min_size=1, max_size=6))
def test_a_block_of_a_request_means_the_same_to_nghttp2(several: list[bytes]) -> None:
    decoder = Decoder(static_fields(), 1_000_000, 1000)
    server = ngh2.Connection(ngh2.Role.SERVER)
    server.initiate_connection()
    server.receive_data(frames.PREFACE + frames.settings([]))
    for place, block in enumerate(several):
        fields = ours(decoder, block)
        server.receive_data(frames.head_frames(2 * place + 1, block, True, 16384))
        told = [one.headers for one in server.events() if isinstance(one, ngh2.RequestReceived)]
        assert [[tuple(pair) for pair in one] for one in told] == (
            [] if fields is None else [fields]
        )
        if fields is None:
            break


@given(st.lists(usual_fields, min_size=1, max_size=6), st.lists(sizes, max_size=6))
def test_blocks_of_nghttp2_are_read(several: list[Pairs], tables: list[int]) -> None:
    """Whatever room for a table they are given meanwhile, up to what we have."""
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection()
    client.receive_data(frames.settings([]) + frames.SETTINGS_ACK)
    decoder = Decoder(static_fields(), 1_000_000, 1000)
    reader = FrameList(of_client=True, max_block=65536)
    for place, pairs in enumerate(several):
        if place < len(tables):
            client.receive_data(frames.settings([(1, tables[place])]))
        client.send_request([*REQUEST, *pairs], end_stream=True)
        reader.feed(client.data_to_send())
        while reader.behind:
            reader.feed(b"")
    blocks = [one[2] for one in reader.frames if one[0] == "head"]
    assert [ours(decoder, block) for block in blocks] == [[*REQUEST, *one] for one in several]  # type: ignore[arg-type]
