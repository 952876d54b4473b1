"""Field blocks, by the examples of RFC 7541 and by what it forbids."""

from __future__ import annotations

import tracemalloc

import pytest

from proxy.http2 import huffman
from proxy.http2.hpack import TABLE_SIZE, BlockError, Decoder, Field, encode, static_fields

SIZE_256 = "3fe101"
"""The table of the last examples has 256 bytes, which a peer of ours has to say first."""
C_2 = (
    "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
    "040c2f73616d706c652f70617468",
    "100870617373776f726406736563726574",
    "82",
)
C_3 = (
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
C_4 = (
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
C_5 = (
    SIZE_256 + "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a32"
    "3120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d"
    "4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b20766572"
    "73696f6e3d31",
)
C_6 = (
    SIZE_256 + "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad17"
    "1863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdf"
    "cd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
)
FIRST = [
    (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"),
    (b":authority", b"www.example.com"),
]  # fmt: skip
REQUESTS = (
    FIRST,
    [*FIRST, (b"cache-control", b"no-cache")],
    [
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"),
        (b":authority", b"www.example.com"), (b"custom-key", b"custom-value"),
    ],
)  # fmt: skip
PRIVATE = (b"cache-control", b"private")
DATE = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
LOCATION = (b"location", b"https://www.example.com")
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
ANSWERS = (
    [(b":status", b"302"), PRIVATE, DATE, LOCATION],
    [(b":status", b"307"), PRIVATE, DATE, LOCATION],
    [
        (b":status", b"200"), PRIVATE, (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"), LOCATION,
        (b"content-encoding", b"gzip"), (b"set-cookie", COOKIE),
    ],
)  # fmt: skip


def decoder(max_size: int = 65536, max_fields: int = 128) -> Decoder:
    return Decoder(static_fields(), max_size, max_fields)


def pairs(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    return [(field.name, field.value) for field in fields]


def decode(*blocks: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of the last block."""
    reader = decoder()
    return [pairs(reader.decode(block)) for block in blocks][-1]


@pytest.mark.parametrize(
    ("block", "field"),
    [
        (C_2[0], (b"custom-key", b"custom-header")),
        (C_2[1], (b":path", b"/sample/path")),
        (C_2[2], (b"password", b"secret")),
        (C_2[3], (b":method", b"GET")),
    ],
)
def test_single_fields_of_the_rfc(block: str, field: tuple[bytes, bytes]) -> None:
    assert decode(bytes.fromhex(block)) == [field]


@pytest.mark.parametrize(
    ("blocks", "fields"),
    [(C_3, REQUESTS), (C_4, REQUESTS), (C_5, ANSWERS), (C_6, ANSWERS)],
    ids=["C.3", "C.4", "C.5", "C.6"],
)
def test_sequences_of_the_rfc(
    blocks: tuple[str, ...], fields: tuple[list[tuple[bytes, bytes]], ...]
) -> None:
    reader = decoder()
    assert [pairs(reader.decode(bytes.fromhex(block))) for block in blocks] == list(fields)


def test_numbers_of_the_rfc() -> None:
    """C.1: 1337 in a prefix of 5 bits is a size of the table, 10 fits, and an index of 8 bits."""
    assert decode(b"\x3f\x9a\x0a", b"\x2a") == []
    assert decode(b"\x82") == [(b":method", b"GET")]


INDEXED = b"\x40\x01a\x01b"
BROKEN = {
    "index 0": b"\x80",
    "an index beyond the table": b"\xbe",
    "an index beyond what was added": INDEXED + b"\xbf",
    "a name beyond the table": b"\x7f\x00\x01b",
    "an index that breaks off": b"\xff",
    "a number that never ends": b"\xff\x80\x80\x80\x80\x00",
    "a literal without a name": b"\x40",
    "a name that breaks off": b"\x40\x02a",
    "a value that breaks off": b"\x40\x01a\x02b",
    "a literal without a value": b"\x40\x01a",
    "a length beyond the block": b"\x40\x7f\xff\xff\xff\x7f",
    "a size of the table above ours": b"\x3f\xe2\x1f",
    "a size of the table behind a field": b"\x82\x20",
    "eight bits of padding": b"\x40\x01a\x82\x1f\xff",
    "padding of zeros": b"\x40\x01a\x81\x18",
    "the end as a symbol": b"\x40\x01a\x84\xff\xff\xff\xff",
    "a symbol that breaks off": b"\x40\x01a\x81\xfe",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_block_ends_the_connection(case: str) -> None:
    with pytest.raises(BlockError) as error:
        decode(BROKEN[case])
    assert not error.value.too_large


def test_a_padding_of_seven_ones_is_none() -> None:
    assert huffman.decode(b"\x1f") == b"a"
    assert huffman.decode(b"\xf8") == b"&"


def test_old_fields_leave_the_table() -> None:
    large = b"\x40\x01a\x7f" + bytes([0x80 | (2000 - 127) & 0x7F, (2000 - 127) >> 7]) + b"v" * 2000
    assert decode(INDEXED + large, b"\xbf") == [(b"a", b"b")]
    with pytest.raises(BlockError):
        decode(INDEXED + large + large, b"\xc0")


def test_a_field_larger_than_the_table_empties_it() -> None:
    huge = encode(b"a", b"v" * TABLE_SIZE)
    assert len(decode(INDEXED + b"\x40" + huge[1:])) == 2
    with pytest.raises(BlockError):
        decode(INDEXED + b"\x40" + huge[1:], b"\xbe")


def test_a_smaller_table_holds_less() -> None:
    assert decode(INDEXED * 3, b"\x3f\x25\xbe\xbf") == [(b"a", b"b")] * 2  # 68 bytes
    with pytest.raises(BlockError):
        decode(INDEXED * 3, b"\x3f\x25\xc0")
    with pytest.raises(BlockError):
        decode(INDEXED, b"\x20\x3f\xe1\x1f", b"\xbe")


@pytest.mark.parametrize(
    ("limit", "block"),
    [
        ({"max_fields": 2}, b"\x82\x86\x84"),
        ({"max_size": 34 * 3}, INDEXED * 4),
        ({"max_size": 4096}, b"\x40\x01a" + encode(b"", b"v" * 3000)[2:] + b"\xbe" * 30_000),
    ],
)
def test_a_block_that_says_too_much_leaves_the_table_as_its_peer_believes(
    limit: dict[str, int], block: bytes
) -> None:
    reader = decoder(**limit)
    with pytest.raises(BlockError, match=str(next(iter(limit.values())))) as error:
        reader.decode(block + b"\x40\x01x\x01y")
    assert error.value.too_large
    assert pairs(reader.decode(b"\xbe")) == [(b"x", b"y")]


def test_changes_of_the_table_are_counted() -> None:
    reader = decoder()
    for block, changes in (
        (b"\x82\x86", 0),
        (b"\x00\x01a\x01b\x10\x01a\x01b", 0),
        (INDEXED, 1),
        (b"\xbe", 1),
        (b"\x3f\xe1\x1f", 1),  # It has this size.
        (b"\x20", 2),
    ):
        reader.decode(block)
        assert reader.changes == changes


def test_a_field_is_written_so_that_no_table_keeps_it() -> None:
    """RFC 7541 §6.2.3: a field that must not be indexed stays so whoever passes it on."""
    assert encode(b":status", b"200") == b"\x88"
    assert encode(b":status", b"201") == b"\x18\x03201"
    assert encode(b"authorization", b"x") == b"\x1f\x08\x01x"
    assert encode(b"x-name", b"") == b"\x10\x06x-name\x00"


def test_a_block_of_references_to_a_large_field_takes_no_memory() -> None:
    """CVE-2016-6581: each byte of it is worth three thousand."""
    reader = decoder(max_size=4096)
    reader.decode(b"\x40\x01a" + encode(b"", b"v" * 3000)[2:])
    block = b"\xbe" * 30_000
    peaks = []
    for _ in range(5):  # Of which one at least has the process for itself: xdist has a thread here.
        tracemalloc.start()
        with pytest.raises(BlockError):
            reader.decode(block)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < 16 * 1024
