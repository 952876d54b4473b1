"""Heads of HTTP/2: what is read of field blocks, and which blocks are written."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest

from proxy.errors import Refused
from proxy.http.fields import REQUEST_KINDS, USUAL_IDS
from proxy.http.forwarding import ClientFacts, offered_upgrade
from proxy.http.memo import Memo
from proxy.http.messages import OwnAnswer, ResponseHead
from proxy.http.request_id import IdField
from proxy.http2 import blocks, heads
from proxy.http2.blocks import answer_block, fields_block, own_block, request_block
from proxy.http2.errors import COMPRESSION_ERROR, GoAway, Malformed
from proxy.http2.heads import AnswerReader, RequestReader
from proxy.http2.hpack import encode
from tests.support.head_cases import (
    ANSWER_CASES,
    CONNECT,
    GET,
    HOST,
    OK,
    REQUEST_CASES,
    TRAILER_CASES,
    WEBSOCKET,
    HeadCase,
    Pairs,
)
from tests.support.sizes import attributes_of, deep_size

VIA = b"Via: 1.1 fairlead\r\n"
ID = b"X-Request-ID: 7\r\n"


def encoded(fields: Pairs, table: bool = True) -> bytes:
    encoder = hpack.Encoder()
    return encoder.encode([hpack.HeaderTuple(*pair) for pair in fields], huffman=table)


def decoded(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in hpack.Decoder().decode(block, raw=True)]


def requests(max_size: int = 32768, max_fields: int = 128) -> RequestReader:
    return RequestReader(USUAL_IDS, max_size, max_fields)


def answers() -> AnswerReader:
    return AnswerReader(65536, 256)


def check(case: HeadCase, read: Callable[[], tuple[bytes, ...]]) -> None:
    if case.becomes == 0:
        with pytest.raises(Malformed):
            read()
    elif isinstance(case.becomes, int):
        with pytest.raises(Refused) as refused:
            read()
        assert refused.value.fault.status == case.becomes
    else:
        assert read() == case.becomes


@pytest.mark.parametrize("case", REQUEST_CASES, ids=lambda case: case.name)
def test_requests(case: HeadCase) -> None:
    """Each is read twice, the second time from a table."""
    reader = RequestReader(USUAL_IDS, 32768, 128, case.extended_connect)
    encoder = hpack.Encoder()

    def read() -> tuple[bytes, ...]:
        block = encoder.encode([hpack.HeaderTuple(*pair) for pair in case.fields])
        head = reader.read(block, case.end)
        return head.method, head.target, head.fields.host, head.fields.passed

    check(case, read)
    check(case, read)


@pytest.mark.parametrize("case", ANSWER_CASES, ids=lambda case: case.name)
def test_answers(case: HeadCase) -> None:
    reader = answers()
    encoder = hpack.Encoder()

    def read() -> tuple[bytes, ...]:
        block = encoder.encode([hpack.HeaderTuple(*pair) for pair in case.fields])
        head = reader.read(block, case.end, USUAL_IDS)
        return head.status_line, head.fields.plain

    check(case, read)
    check(case, read)


@pytest.mark.parametrize("case", TRAILER_CASES, ids=lambda case: case.name)
def test_trailers(case: HeadCase) -> None:
    check(case, lambda: (requests().trailers(encoded(case.fields), case.end),))
    check(case, lambda: (answers().trailers(encoded(case.fields), case.end),))


def test_trailers_that_name_the_request_are_kept_back() -> None:
    block = encoded(((b"x-id", b"1"), (b"y", b"2")))
    assert requests().trailers(block, True, frozenset((b"x-id",))) == b"y: 2\r\n"


def test_a_broken_block_ends_the_connection() -> None:
    for read in (
        lambda: requests().read(b"\x80", True),
        lambda: requests().trailers(b"\x80", True),
        lambda: answers().read(b"\x80", True, USUAL_IDS),
    ):
        with pytest.raises(GoAway) as error:
            read()
        assert error.value.code == COMPRESSION_ERROR


def test_a_head_that_is_too_large_is_refused_and_the_connection_goes_on() -> None:
    fields = tuple((b"x-%d" % number, b"1") for number in range(10))
    for reader in (requests(max_fields=8), requests(max_size=500)):
        encoder = hpack.Encoder()
        with pytest.raises(Refused) as refused:
            reader.read(encoder.encode([*GET, *fields]), True)
        assert refused.value.fault.status == 431
        assert reader.read(encoder.encode([*GET, fields[9]]), True).fields.pairs == [fields[9]]
    assert requests(max_fields=10).read(encoded((*GET, *fields)), True).fields.count >= 10


def test_an_answer_that_is_too_large_is_the_instances_fault() -> None:
    fields = tuple((b"x-%d" % number, b"1") for number in range(300))
    with pytest.raises(Refused) as refused:
        answers().read(encoded((OK, *fields)), True, USUAL_IDS)
    assert refused.value.fault.status == 502


def test_a_head_that_is_malformed_does_not_harm_the_next() -> None:
    reader = requests()
    encoder = hpack.Encoder()
    bad = [*GET, (b"x-a", b"1"), (b"Bad", b"1"), (b"x-b", b"2")]
    with pytest.raises(Malformed):
        reader.read(encoder.encode(bad), True)
    head = reader.read(encoder.encode([*GET, (b"x-a", b"1"), (b"x-b", b"2")]), True)
    assert head.fields.pairs == [(b"x-a", b"1"), (b"x-b", b"2")]


def test_extended_connect_asks_for_an_upgrade() -> None:
    reader = RequestReader(USUAL_IDS, 32768, 128, extended_connect=True)
    head = reader.read(encoded(WEBSOCKET), False)
    assert offered_upgrade(head) == b"websocket"
    assert (head.fields.length, head.fields.chunked) == (None, False)
    assert offered_upgrade(requests().read(encoded(CONNECT), False)) is None


# -- memory


def test_a_block_is_remembered_until_the_table_changes() -> None:
    reader = requests()
    plain = b"\x82\x87\x84\x01\x01h"  # GET https / and the authority h, none of which is kept
    head = reader.read(plain, True)
    assert reader.read(plain, True) is head
    assert reader.read(plain, False) is not head
    added = plain + b"\x40\x01a\x01b"
    assert reader.read(added, True).fields.pairs == [(b"a", b"b")]
    again = reader.read(plain, True)
    assert again is not head
    assert reader.read(plain, True) is again


def test_a_block_means_what_the_table_says_now() -> None:
    reader = requests()
    start = b"\x82\x87\x84\x01\x01h"
    for value in (b"1", b"2"):
        reader.read(start + b"\x40\x01a\x01" + value, True)
        for _ in range(3):
            assert reader.read(start + b"\xbe", True).fields.pairs == [(b"a", value)]
    # Trailers change the table as well.
    reader.trailers(b"\x40\x01a\x013", True)
    assert reader.read(start + b"\xbe", True).fields.pairs == [(b"a", b"3")]


def test_an_answer_is_remembered_for_the_same_listener() -> None:
    reader = answers()
    other = IdField("x-id", bytes, bytes)
    block = b"\x88\x00\x04x-id\x011"
    head = reader.read(block, True, USUAL_IDS)
    assert reader.read(block, True, USUAL_IDS) is head
    assert head.fields.plain == b"x-id: 1\r\n"
    assert reader.read(block, True, other).fields.plain == b""
    with pytest.raises(Malformed):
        reader.read(b"\x08\x03103", True, USUAL_IDS)


def test_a_name_that_becomes_a_claim_is_one_on_connections_that_know_it() -> None:
    """Also where it is in a table: of a connection, and of the RFC."""
    reader = requests()
    encoder = hpack.Encoder()
    fields = [*GET, (b"x-novel-client", b"1"), (b"refresh", b"2"), (b"x", b"3")]
    for _ in range(2):
        head = reader.read(encoder.encode(fields), True)
        assert head.fields.passed == b"x-novel-client: 1\r\nrefresh: 2\r\nx: 3\r\n"
    assert REQUEST_KINDS.call_a_claim(b"x-novel-client")
    assert REQUEST_KINDS.call_a_claim(b"refresh")
    for block in (encoder.encode(fields), encoder.encode(fields)):
        assert reader.read(block, True).fields.passed == b"x: 3\r\n"
    assert requests().read(encoded(tuple(fields)), True).fields.passed == b"x: 3\r\n"


# -- writing


def test_fields_are_written_in_lower_case_without_those_of_connections() -> None:
    lines = (
        b"X-A: 1\r\nConnection: TE\r\nTE: trailers\r\nKeep-Alive: 5\r\nUpgrade: x\r\n"
        b"Transfer-Encoding: chunked\r\nProxy-Connection: close\r\nHTTP2-Settings: \r\nB: \r\n"
    )
    wanted = [(b"x-a", b"1"), (b"te", b"trailers"), (b"b", b"")]
    assert decoded(fields_block(lines)) == wanted
    assert fields_block(lines) == fields_block(lines)
    assert fields_block(b"") == b""


def test_a_request_is_written_for_an_instance() -> None:
    head = requests().read(
        encoded(
            (*GET, (b"te", b"trailers"), (b"cookie", b"a"), (b"cookie", b"b"), (b"cookie", b""))
        ),
        False,
    )
    facts = ClientFacts("10.0.0.1", 80, None, b"Via: 2 fairlead (0)\r\n")
    tail = facts.tail(head.fields, None)
    block = request_block(head.method, b"http", head.target, tail, ID)
    assert decoded(block) == [
        (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b"), (b":authority", b"h"),
        (b"cookie", b"a; b"), (b"te", b"trailers"),
        (b"x-forwarded-for", b"10.0.0.1"), (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"h"), (b"x-forwarded-port", b"80"), (b"via", b"2 fairlead (0)"),
        (b"x-request-id", b"7"),
    ]  # fmt: skip


def test_a_request_without_a_host_has_no_authority() -> None:
    block = request_block(b"GET", b"http", b"/", b"Host: \r\nA: b\r\n", b"")
    assert decoded(block)[2:] == [(b":path", b"/"), (b"a", b"b")]


def test_an_answer_is_written_for_a_client() -> None:
    fields = (OK, (b"content-length", b"5"), (b"x-a", b"1"), (b"via", b"1.1 a"), (b"date", b"d"))
    head = answers().read(encoded(fields), False, USUAL_IDS)
    for _ in range(2):
        assert decoded(answer_block(head, ID, VIA)) == [
            (b":status", b"200"), (b"x-request-id", b"7"), (b"x-a", b"1"), (b"date", b"d"),
            (b"content-length", b"5"), (b"via", b"1.1 a"), (b"via", b"1.1 fairlead"),
        ]  # fmt: skip


def test_an_answer_without_a_date_gets_one_and_names_its_trailers() -> None:
    head = answers().read(encoded((OK, (b"trailer", b"grpc-status"))), False, USUAL_IDS)
    names = [name for name, _ in decoded(answer_block(head, b"", b""))]
    assert names == [b":status", b"date", b"trailer"]


@pytest.mark.parametrize("status", [b"103", b"204"])
def test_an_answer_that_has_no_content_has_no_length(status: bytes) -> None:
    fields = ((b":status", status), (b"content-length", b"0"), (b"date", b"d"))
    head = answers().read(encoded(fields), False, USUAL_IDS)
    assert decoded(answer_block(head, b"", b"")) == [(b":status", status), (b"date", b"d")]


def test_a_block_that_is_kept_is_for_all_answers_that_have_its_fields() -> None:
    fields = ((OK, (b"content-length", b"5"), (b"date", b"d")), (OK, (b"content-length", b"5")))
    for kept, pairs in zip((True, False), fields, strict=True):
        head = answers().read(encoded(pairs), False, USUAL_IDS)
        bare = [one for one in pairs[1:] if one[0] == b"date"]
        for status in (200, 204, 304, 103, 204, 200):
            other = ResponseHead(status, b"", 1, head.fields)
            got = decoded(answer_block(other, ID, VIA if status >= 200 else b""))
            assert (b"content-length", b"5") in got or status in (103, 204)
            assert ((b"content-length", b"5") in got) == (status in (200, 304))
            assert ((b"via", b"1.1 fairlead") in got) == (status >= 200)
            assert got[:2] == [(b":status", b"%d" % status), (b"x-request-id", b"7")]
            assert sum(name == b"date" for name, _ in got) == (kept or status >= 200)
            assert [one for one in got if one in bare] == bare
        assert (head.fields.block != b"") == kept


def test_an_answer_of_our_own() -> None:
    answer = OwnAnswer(503, "Service Unavailable", ((b"Retry-After", b"1"),), b"why")
    block = decoded(own_block(answer, ID, VIA))
    assert [field for field in block if field[0] != b"date"] == [
        (b":status", b"503"), (b"x-request-id", b"7"), (b"retry-after", b"1"),
        (b"content-length", b"3"), (b"via", b"1.1 fairlead"),
    ]  # fmt: skip


# -- bounds

FLOODS: dict[str, Callable[[int], Pairs]] = {
    "paths": lambda n: ((b":path", b"/%d" % n),),
    "long paths": lambda n: ((b":path", b"/%d" % n + b"x" * 4000),),
    "values": lambda n: ((b":path", b"/"), (b"x", b"%d" % n)),
    "names": lambda n: ((b":path", b"/"), (b"x-%d" % n, b"1")),
    "claims": lambda n: ((b":path", b"/"), (b"x-forwarded-%d" % n, b"1" * 100)),
    "crumbs": lambda n: ((b":path", b"/%d" % n), *((b"cookie", b"%d" % k) for k in range(100))),
    "proxies": lambda n: ((b":path", b"/%d" % n), *((b"via", b"%d" % k) for k in range(100))),
    "long names": lambda n: ((b":path", b"/"), ((b"%d" % n).ljust(1000, b"x"), b"1")),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_memory_of_heads_is_bounded_in_bytes(flood: str) -> None:
    reader = requests()
    for number in range(400):
        fields = (*GET[:2], HOST, *FLOODS[flood](number))
        block = b"".join([encode(*field) for field in fields])  # It changes no table.
        head = reader.read(block, True)
        request_block(b"GET", b"http", b"/", b"Host: h\r\n" + head.fields.passed, b"")
    owners = (*vars(blocks).values(), *(value for _, value in attributes_of(reader)))
    memos = [value for value in owners if isinstance(value, Memo)]
    memos += [value for _, value in attributes_of(heads._REQUESTS) if isinstance(value, Memo)]
    assert len(memos) == 5
    for memo in memos:
        assert deep_size([memo.young, memo.old]) <= memo.room


def test_a_table_is_bounded_in_bytes() -> None:
    reader = requests()
    for number in range(400):
        reader.trailers(b"\x40\x01a\x03%03d" % number, True)
    table = next(value for name, value in attributes_of(reader) if name == "_decoder")
    dynamic = next(value for name, value in attributes_of(table) if name == "_dynamic")
    assert len(dynamic) == 4096 // 36
    assert deep_size(dynamic) <= 48 * 1024
