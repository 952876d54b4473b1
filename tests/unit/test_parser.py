"""Raw heads: which are accepted and what is understood, which are refused and with what fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.engine.http1 import parser
from proxy.engine.http1.parser import (
    ANSWER_FIELDS,
    TooManyFields,
    parse_request,
    parse_response,
    read_request_fields,
)
from proxy.errors import (
    BAD_ANSWER,
    BAD_REQUEST,
    CODING_NOT_SUPPORTED,
    VERSION_NOT_SUPPORTED,
    Fault,
    Refused,
)
from proxy.http import fields
from proxy.http.memo import Memo
from proxy.http.request_id import IdField
from tests.support.sizes import attributes_of, deep_size

H = b"Host: h\r\n"


def head(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", host: bytes = H) -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n"


REFUSED: list[tuple[bytes, Fault]] = [
    # request lines
    (b"\r\n\r\n", BAD_REQUEST),
    (head(line=b"GET /"), BAD_REQUEST),
    (head(line=b"GET  / HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET / HTTP/1.1 "), BAD_REQUEST),
    (head(line=b" GET / HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET\t/ HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET / x HTTP/1.1"), BAD_REQUEST),
    (head(line=b"G@T / HTTP/1.1"), BAD_REQUEST),
    (head(line=b"G\x00T / HTTP/1.1"), BAD_REQUEST),
    (head(line=b"G\xc3\xa9T / HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET  HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET /\x00 HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET /\x7f HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET /\xc3\xa9 HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET /a#b HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET /a\tb HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET /a\rb HTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET / HTTP/1.1\nX: y"), BAD_REQUEST),
    (head(line=b"GET / http/1.1"), BAD_REQUEST),
    (head(line=b"GET / HTTP/11"), BAD_REQUEST),
    (head(line=b"GET / HTTP/1.10"), BAD_REQUEST),
    (head(line=b"GET / HTTP/1."), BAD_REQUEST),
    (head(line=b"GET / HTTP/+1.1"), BAD_REQUEST),
    (head(line=b"GET / XTTP/1.1"), BAD_REQUEST),
    (head(line=b"GET / HTTP/0.9"), VERSION_NOT_SUPPORTED),
    (head(line=b"GET / HTTP/2.0"), VERSION_NOT_SUPPORTED),
    (head(line=b"GET / HTTP/3.1"), VERSION_NOT_SUPPORTED),
    (head(line=b"PRI * HTTP/2.0", host=b""), VERSION_NOT_SUPPORTED),
    # Host
    (head(host=b""), BAD_REQUEST),
    (head(b"Host: h\r\n"), BAD_REQUEST),
    (head(b"hOST: other\r\n"), BAD_REQUEST),
    (head(b"Host: h\r\n", line=b"GET / HTTP/1.0"), BAD_REQUEST),
    (head(host=b"Host: a b\r\n"), BAD_REQUEST),
    (head(host=b"Host: a/b\r\n"), BAD_REQUEST),
    (head(host=b"Host: user@h\r\n"), BAD_REQUEST),
    (head(host=b"Host: h:80:80\r\n"), BAD_REQUEST),
    (head(host=b"Host: h:x\r\n"), BAD_REQUEST),
    (head(host=b"Host: h:123456\r\n"), BAD_REQUEST),
    (head(host=b"Host: [::1\r\n"), BAD_REQUEST),
    (head(host=b"Host: h\xff\r\n"), BAD_REQUEST),
    (head(host=b"Host: h?x\r\n"), BAD_REQUEST),
    (head(host=b"Host: h\\x\r\n"), BAD_REQUEST),
    # field lines
    (head(b"X : y\r\n"), BAD_REQUEST),
    (head(b"X\t: y\r\n"), BAD_REQUEST),
    (head(b" X: y\r\n"), BAD_REQUEST),
    (head(b"X: y\r\n z\r\n"), BAD_REQUEST),
    (head(b"X: y\r\n\tz\r\n"), BAD_REQUEST),
    (head(b"X: y\r\n \r\n"), BAD_REQUEST),
    (head(host=b" Host: h\r\n"), BAD_REQUEST),
    (head(b": y\r\n"), BAD_REQUEST),
    (head(b"X\r\n"), BAD_REQUEST),
    (head(b"X-Known: y\r\nX-Known\r\n"), BAD_REQUEST),
    (head(b"X: y\nZ: y\r\n"), BAD_REQUEST),
    (head(b"X: y\rZ: y\r\n"), BAD_REQUEST),
    (head(b"X: y\r\r\n"), BAD_REQUEST),
    (head(b"X\nY: y\r\n"), BAD_REQUEST),
    (head(b"\nX: y\r\n"), BAD_REQUEST),
    (head(b"X: y\n\n\r\n"), BAD_REQUEST),
    (head(b"X: a\x00b\r\n"), BAD_REQUEST),
    (head(b"X: a\x01b\r\n"), BAD_REQUEST),
    (head(b"X: a\x0bb\r\n"), BAD_REQUEST),
    (head(b"X: a\x7fb\r\n"), BAD_REQUEST),
    (head(b"X\x00: y\r\n"), BAD_REQUEST),
    (head(b"X\xe9: y\r\n"), BAD_REQUEST),
    (head(b"X(y): y\r\n"), BAD_REQUEST),
    (head(b'"X": y\r\n'), BAD_REQUEST),
    (head(b"X/Y: y\r\n"), BAD_REQUEST),
    # framing
    (head(b"Content-Length: 5\r\nContent-Length: 5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 5\r\nContent-Length: 6\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 5, 5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: +5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: -5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 0x5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 5 5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 5.0\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 1_0\r\n"), BAD_REQUEST),
    (head(b"Content-Length: \xb2\r\n"), BAD_REQUEST),
    (head(b"Content-Length:\r\n"), BAD_REQUEST),
    (head(b"Content-Length\r\n"), BAD_REQUEST),
    (head(b"Content-Length : 5\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 5x\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 9999999999999999999\r\n"), BAD_REQUEST),
    (head(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked, identity\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: identity\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: gzip\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding:\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: xchunked\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked x\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked;x=y\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: \x0bchunked\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding : chunked\r\n"), BAD_REQUEST),
    (head(b"Transfer-Encoding: chunked\r\n", line=b"POST / HTTP/1.0"), BAD_REQUEST),
    (head(b"Transfer-Encoding: gzip, chunked\r\n"), CODING_NOT_SUPPORTED),
    (head(b"Transfer-Encoding: chunked, chunked\r\n"), CODING_NOT_SUPPORTED),
    (head(b"Transfer-Encoding: ,chunked\r\n"), CODING_NOT_SUPPORTED),
]


@pytest.mark.parametrize(("raw", "fault"), REFUSED)
def test_refused_requests(raw: bytes, fault: Fault) -> None:
    for _ in range(2):  # Remembering anything of it must not make it good.
        with pytest.raises(Refused) as refused:
            parse_request(raw, 128)
        assert refused.value.fault is fault
        # Nor must it spoil what comes after it.
        assert parse_request(head(b"X-After: 1\r\n"), 128).fields.get(b"x-after") == b"1"


@pytest.mark.parametrize(
    ("raw", "method", "target", "minor"),
    [
        (head(), b"GET", b"/", 1),
        (head(line=b"GET / HTTP/1.0", host=b""), b"GET", b"/", 0),
        (head(line=b"GET / HTTP/1.9"), b"GET", b"/", 1),
        (head(line=b"get / HTTP/1.1"), b"get", b"/", 1),
        (head(line=b"PROPFIND /x HTTP/1.1"), b"PROPFIND", b"/x", 1),
        (head(line=b"M-SEARCH / HTTP/1.1"), b"M-SEARCH", b"/", 1),
        (head(line=b"BREW /pot HTTP/1.1"), b"BREW", b"/pot", 1),
        (head(line=b"GET http://h/x?y HTTP/1.1"), b"GET", b"http://h/x?y", 1),
        (head(line=b"GET /a[]{}|\"<>^`'?[]{} HTTP/1.1"), b"GET", b"/a[]{}|\"<>^`'?[]{}", 1),
        (head(line=b"CONNECT h:443 HTTP/1.1"), b"CONNECT", b"h:443", 1),
    ],
)
def test_request_lines(raw: bytes, method: bytes, target: bytes, minor: int) -> None:
    request = parse_request(raw, 128)
    assert (request.method, request.target, request.minor) == (method, target, minor)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"", ""), (b"h", "h"), (b"H.Example.COM", "h.example.com"), (b"h:80", "h"), (b"h:", "h"),
        (b"h.:80", "h"), (b"[::1]:80", "[::1]"), (b"[::1]", "[::1]"), (b"10.0.0.1:8", "10.0.0.1"),
        (b" h\t", "h"), (b"a_b.c", "a_b.c"), (b"xn--a", "xn--a"), (b"a%20b", "a%20b"),
    ],
)  # fmt: skip
def test_hosts(host: bytes, name: str) -> None:
    fields = parse_request(head(host=b"Host:" + host + b"\r\n"), 128).fields
    assert fields.host_name == name
    assert fields.host == host.strip()


def test_fields_keep_spelling_order_and_value() -> None:
    fields = parse_request(
        head(b"X-B: 1\r\nx-a:2\r\nX-B:  3 \t\r\nX-E:\r\nX-F: \xe9\xff\tz\r\n"), 128
    ).fields
    assert list(fields.pairs) == [
        (b"X-B", b"1"), (b"x-a", b"2"), (b"X-B", b"3"), (b"X-E", b""), (b"X-F", b"\xe9\xff\tz"),
    ]  # fmt: skip
    assert fields.get(b"x-b") == b"1, 3"
    assert fields.get(b"x-e") == b""
    assert fields.get(b"x-none") is None
    assert fields.count == 6


@pytest.mark.parametrize(
    ("block", "length", "chunked"),
    [
        (b"", None, False),
        (b"Content-Length: 0\r\n", 0, False),
        (b"Content-Length:5\r\n", 5, False),
        (b"Content-Length: 005 \r\n", 5, False),
        (b"content-LENGTH: 999999999999999999\r\n", 999999999999999999, False),
        (b"Transfer-Encoding: chunked\r\n", None, True),
        (b"transfer-encoding:\tCHUNKED \t\r\n", None, True),
        (b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\n", None, False),
        (b"X-Content-Length: 5\r\n", None, False),
    ],
)
def test_framing(block: bytes, length: int | None, chunked: bool) -> None:
    fields = parse_request(head(block), 128).fields
    assert (fields.length, fields.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("block", "in_1_0", "in_1_1"),
    [
        (b"", False, True),
        (b"Connection: keep-alive\r\n", True, True),
        (b"Connection: Keep-Alive\r\n", True, True),
        (b"Connection: close\r\n", False, False),
        (b"Connection: CLOSE\r\n", False, False),
        (b"Connection: x, Close\r\n", False, False),
        (b"Connection: keep-alive\r\nConnection: close\r\n", False, False),
        (b"Connection: keep-alive, close\r\n", False, False),
        (b"Connection: closed\r\n", False, True),
        (b"Connection: close x\r\n", False, True),
        (b"Connection:\r\n", False, True),
        (b"Connection: ,, ,keep-alive,\r\n", True, True),
        (b"Proxy-Connection: close\r\n", False, True),
    ],
)
def test_keep_alive_and_that_no_block_spoils_the_next(
    block: bytes, in_1_0: bool, in_1_1: bool
) -> None:
    for number in range(3):
        # A new block each time, and one after it: llhttp must never be left in a state in
        # which it refuses what follows.
        unique = block + b"X-Unique-%d: %d\r\n" % (number, hash(block))
        assert parse_request(head(unique), 128).fields.keeps_alive == (in_1_0, in_1_1)
        response = parse_response(b"HTTP/1.1 200 OK\r\n" + unique + b"\r\n")
        assert response.fields.keeps_alive == (in_1_0, in_1_1)
        after = b"X-After-%d: %d\r\n" % (number, hash(block))
        assert parse_request(head(after), 128).fields.keeps_alive == (False, True)
        parse_response(b"HTTP/1.1 200 OK\r\n" + after + b"\r\n")


def test_field_names_with_underscores_are_dropped_from_requests_only() -> None:
    fields = parse_request(head(b"X_Forwarded_For: 1\r\nHos_t: 1\r\nA-B: 1\r\n"), 128).fields
    assert list(fields.pairs) == [(b"A-B", b"1")]
    response = parse_response(b"HTTP/1.1 200 OK\r\nX_Y: 1\r\n\r\n")
    assert list(response.fields.pairs) == [(b"X_Y", b"1")]


def test_the_number_of_fields_is_limited_also_for_a_block_that_is_known() -> None:
    raw = head(b"".join(b"X-%d: 1\r\n" % number for number in range(9)))
    assert parse_request(raw, 10).fields.count == 10
    for _ in range(2):
        with pytest.raises(TooManyFields):
            parse_request(raw, 9)
    dropped = head(b"A_B: 1\r\n" * 10)
    with pytest.raises(TooManyFields):
        parse_request(dropped, 10)


def test_a_block_is_judged_anew_behind_another_request_line() -> None:
    block = b"Host: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert parse_request(b"POST / HTTP/1.1\r\n" + block, 128).fields.chunked
    with pytest.raises(Refused):
        parse_request(b"POST / HTTP/1.0\r\n" + block, 128)
    bare = b"X-Bare: 1\r\n\r\n"
    assert parse_request(b"GET / HTTP/1.0\r\n" + bare, 128).fields.hosts == 0
    with pytest.raises(Refused):
        parse_request(b"GET / HTTP/1.1\r\n" + bare, 128)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    assert parse_response(b"HTTP/1.1 200 OK\r\n" + chunked).fields.chunked
    with pytest.raises(Refused):
        parse_response(b"HTTP/1.0 200 OK\r\n" + chunked)


@pytest.mark.parametrize(
    ("line", "status", "relayed", "minor"),
    [
        (b"HTTP/1.1 200 OK", 200, b"HTTP/1.1 200 OK\r\n", 1),
        (b"HTTP/1.0 404 Not Found", 404, b"HTTP/1.1 404 Not Found\r\n", 0),
        (b"HTTP/1.1 204 ", 204, b"HTTP/1.1 204 \r\n", 1),
        (b"HTTP/1.1 204", 204, b"HTTP/1.1 204 \r\n", 1),
        (b"HTTP/1.1 299 D\xc3\xa9j\xe0 \tvu", 299, b"HTTP/1.1 299 D\xc3\xa9j\xe0 \tvu\r\n", 1),
        (b"HTTP/1.1 999 Odd", 999, b"HTTP/1.1 999 Odd\r\n", 1),
    ],
)
def test_status_lines(line: bytes, status: int, relayed: bytes, minor: int) -> None:
    response = parse_response(line + b"\r\n\r\n")
    assert (response.status, response.status_line, response.minor) == (status, relayed, minor)


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_refused_responses(raw: bytes) -> None:
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            parse_response(raw)
        assert refused.value.fault is BAD_ANSWER
        assert parse_response(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n").status == 200


FLOODS: dict[str, Callable[[int], bytes]] = {
    "names": lambda n: b"X-%d: 1\r\n" % n,
    "long names": lambda n: (b"x%d" % n).ljust(30_000, b"x") + b": 1\r\n",
    "names of a kilobyte": lambda n: (b"x%d" % n).ljust(700, b"x") + b": 1\r\n",
    "values": lambda n: b"X: " + (b"%d" % n).ljust(600, b"x") + b"\r\n",
    "large values": lambda n: b"X: " + (b"%d" % n).ljust(3500, b"x") + b"\r\n",
    "many fields": lambda n: b"".join(b"a%d: %d\r\n" % (k, n) for k in range(100)),
    "members": lambda n: b"Connection: " + b",".join(b"%x" % (n + k) for k in range(900)) + b"\r\n",
    "proxies": lambda n: b"".join(b"Via: %d %d\r\n" % (k, n) for k in range(100)),
    "claims": lambda n: b"".join(b"X-Forwarded-%d-%d: 1\r\n" % (k, n) for k in range(100)),
    "underscores": lambda n: b"".join(b"_%d_%d: 1\r\n" % (k, n) for k in range(100)),
    "lengths": lambda n: b"Content-Length: %d\r\n" % n,
}


@pytest.mark.drill
@pytest.mark.parametrize("flood", FLOODS)
def test_remembered_heads_are_bounded_in_bytes(flood: str) -> None:
    other = IdField("X-Other", lambda: b"", lambda: b"")
    # Some times more than there is room for.
    for number in range(1000 if len(FLOODS[flood](0)) > 800 else 4000):
        block = FLOODS[flood](number)
        host = b"Host: " + (b"h%d" % number).ljust(300, b"h") + b"\r\n"
        read_request_fields(host + block + b"\r\n", other, 128)
        status = b"HTTP/1.1 200 " + (b"%d" % number).ljust(number % 600, b"x") + b"\r\n"
        parse_response(status + block + b"\r\n", other)
    owners = (*vars(parser).values(), *vars(fields).values())
    memos = [value for value in owners if isinstance(value, Memo)]
    for scan in (parser._scan_request, parser._scan_response):
        scanner = scan.__self__
        memos += [value for _, value in attributes_of(scanner) if isinstance(value, Memo)]
    assert len(memos) >= 2
    for memo in memos:
        assert deep_size([memo.young, memo.old]) <= memo.room
    assert sum(memo.room for memo in memos) <= 512 * 1024


def test_an_answer_has_a_bounded_number_of_fields() -> None:
    fields = b"".join(b"X-%d: 1\r\n" % number for number in range(ANSWER_FIELDS))
    assert parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").fields.count == ANSWER_FIELDS
    with pytest.raises(Refused, match=rf"\b{ANSWER_FIELDS}\b") as refused:
        parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"Y: 1\r\n\r\n")
    assert refused.value.fault is BAD_ANSWER


def test_a_list_of_thousands_in_connection_is_honoured_whole() -> None:
    names = [b"x%d" % number for number in range(5000)]
    listed = b"Connection: " + b", ".join(names) + b"\r\n"
    fields = b"X4999: 1\r\nx5000: 2\r\nX0: 3\r\n"
    parsed = parse_request(head(fields + listed + b"Connection:close ,\tX5000\r\n"), 128)
    assert parsed.fields.plain == b""
    assert parsed.fields.keeps_alive == (False, False)
    answer = parse_response(b"HTTP/1.1 200 OK\r\n" + fields + listed + b"\r\n")
    assert answer.fields.plain == b"x5000: 2\r\n"
