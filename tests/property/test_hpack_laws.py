"""Laws of field blocks: what another implementation writes, we read, and the reverse; what either
refuses, the other refuses."""

from __future__ import annotations

import hpack
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

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
