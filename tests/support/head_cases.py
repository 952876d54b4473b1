"""Heads of HTTP/2 and what must become of them, by the clause that decides it.

`tests/unit/test_http2_heads.py` plays them through field blocks of another implementation.
"""

from __future__ import annotations

from dataclasses import dataclass

Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class HeadCase:
    """A head, or trailers, that a peer sends."""

    name: str
    clause: str
    fields: Pairs
    becomes: tuple[bytes, ...] | int = 0
    """Of a request: method, target, host, and the lines that go on to any instance; of an answer:
    the status line and the lines; of trailers: the lines. Or the status of a refusal; 0 = it is
    malformed."""
    end: bool = True
    extended_connect: bool = False


METHOD, SCHEME, PATH, HOST = (
    (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/a?b"), (b":authority", b"h"),
)  # fmt: skip
GET: Pairs = (METHOD, SCHEME, PATH, HOST)
POST: Pairs = ((b":method", b"POST"), *GET[1:])
CONNECT: Pairs = ((b":method", b"CONNECT"), HOST)
WEBSOCKET: Pairs = (
    (b":method", b"CONNECT"), (b":protocol", b"websocket"), SCHEME, PATH, HOST,
)  # fmt: skip


def get(
    name: str, clause: str, *fields: tuple[bytes, bytes], lines: bytes | int = 0, end: bool = True
) -> HeadCase:
    """A GET with these fields: the lines that go on, or why not."""
    becomes = lines if isinstance(lines, int) else (b"GET", b"/a?b", b"h", lines)
    return HeadCase(name, clause, (*GET, *fields), becomes, end)


def request(
    name: str, clause: str, *fields: tuple[bytes, bytes], becomes: tuple[bytes, ...] | int = 0,
    end: bool = True, extended: bool = False,
) -> HeadCase:  # fmt: skip
    return HeadCase(name, clause, fields, becomes, end, extended)


REQUEST_CASES = (
    get("GET", "9113 §8.3.1", lines=b""),
    get("plain fields", "9113 §8.2", (b"x-a", b"1"), (b"x-b", b""), lines=b"x-a: 1\r\nx-b: \r\n"),
    request("OPTIONS of the server", "9113 §8.3.1", (b":method", b"OPTIONS"), SCHEME,
            (b":path", b"*"), HOST, becomes=(b"OPTIONS", b"*", b"h", b"")),
    request("method of its own", "9113 §8.3.1", (b":method", b"PURGE"), *GET[1:],
            becomes=(b"PURGE", b"/a?b", b"h", b"")),
    # Pseudo-fields
    request("no method", "9113 §8.3.1", SCHEME, PATH, HOST),
    request("no scheme", "9113 §8.3.1", METHOD, PATH, HOST),
    request("no path", "9113 §8.3.1", METHOD, SCHEME, HOST),
    request("no authority and no Host", "9113 §8.3.1", METHOD, SCHEME, PATH),
    request("nothing at all", "9113 §8.3.1"),
    request("two methods", "9113 §8.3", METHOD, METHOD, SCHEME, PATH, HOST),
    request("two schemes", "9113 §8.3", METHOD, SCHEME, SCHEME, PATH, HOST),
    request("two paths", "9113 §8.3", METHOD, SCHEME, PATH, PATH, HOST),
    request("two authorities", "9113 §8.3", METHOD, SCHEME, PATH, HOST, HOST),
    request("pseudo-field behind a field", "9113 §8.3", METHOD, SCHEME, PATH, (b"a", b""), HOST),
    request("pseudo-field behind a dropped field", "9113 §8.3", METHOD, SCHEME, PATH,
            (b"proxy", b"x"), HOST),
    request("unknown pseudo-field", "9113 §8.3", *GET, (b":x", b"y")),
    request("pseudo-field of answers", "9113 §8.3", *GET, (b":status", b"200")),
    request("pseudo-field in capitals", "9113 §8.2.1", (b":Method", b"GET"), SCHEME, PATH, HOST),
    request("empty method", "9113 §8.3.1", (b":method", b""), *GET[1:]),
    request("method with a space", "9113 §8.3.1", (b":method", b"GET /x"), *GET[1:]),
    request("method with a line end", "9113 §8.3.1", (b":method", b"GET\r\n"), *GET[1:]),
    request("long method", "9113 §8.3.1", (b":method", b"G" * 65), *GET[1:]),
    request("empty path", "9113 §8.3.1", METHOD, SCHEME, (b":path", b""), HOST),
    request("path without a slash", "9113 §8.3.1", METHOD, SCHEME, (b":path", b"a"), HOST),
    request("absolute path", "9113 §8.3.1", METHOD, SCHEME, (b":path", b"http://h/"), HOST),
    request("path * of a GET", "9113 §8.3.1", METHOD, SCHEME, (b":path", b"*"), HOST),
    request("path with a fragment", "9113 §8.3.1", METHOD, SCHEME, (b":path", b"/#a"), HOST),
    request("path with a space", "9113 §8.3.1", METHOD, SCHEME, (b":path", b"/ HTTP/1.1"), HOST),
    request("path with a line end", "9113 §10.3", METHOD, SCHEME, (b":path", b"/\r\nA: b"), HOST),
    request("path with NUL", "9113 §10.3", METHOD, SCHEME, (b":path", b"/\0"), HOST),
    request("path of UTF-8", "9113 §8.3.1", METHOD, SCHEME, (b":path", b"/\xc3\xa9"), HOST),
    request("scheme of another kind", "9113 §8.3.1", METHOD, (b":scheme", b"ftp"), PATH, HOST),
    request("scheme with a line end", "9113 §10.3", METHOD, (b":scheme", b"http://\r\n"), PATH,
            HOST),
    request("empty authority", "9113 §8.3.1", METHOD, SCHEME, PATH, (b":authority", b"")),
    request("authority with user information", "9113 §8.3.1", METHOD, SCHEME, PATH,
            (b":authority", b"u@h")),
    request("authority with a line end", "9113 §10.3", METHOD, SCHEME, PATH,
            (b":authority", b"h\r\nA: b")),
    request("authority with a path", "9110 §4.2", METHOD, SCHEME, PATH, (b":authority", b"h/x"),
            becomes=400),
    request("authority with a bad port", "9110 §4.2", METHOD, SCHEME, PATH,
            (b":authority", b"h:65536"), becomes=400),
    request("authority with a port", "9113 §8.3.1", METHOD, SCHEME, PATH, (b":authority", b"h:81"),
            becomes=(b"GET", b"/a?b", b"h:81", b"")),
    # Host
    request("Host for an authority", "9113 §8.3.1", METHOD, SCHEME, PATH, (b"host", b"i"),
            becomes=(b"GET", b"/a?b", b"i", b"")),
    get("Host that is the authority", "9113 §8.3.1", (b"host", b"H"), lines=b""),
    get("Host that is not the authority", "9113 §8.3.1", (b"host", b"i"), lines=400),
    get("Host of nothing", "9113 §8.3.1", (b"host", b""), lines=400),
    get("two Hosts in HTTP/2", "9110 §7.2", (b"host", b"h"), (b"host", b"h"), lines=400),
    get("two Hosts, one of nothing", "9110 §7.2", (b"host", b""), (b"host", b"h"), lines=400),
    # Fields
    get("name in capitals", "9113 §8.2.1", (b"X-a", b"1")),
    get("empty name", "9113 §8.2.1", (b"", b"1")),
    get("name with a colon", "9113 §8.2.1", (b"a:b", b"1")),
    get("name with a space", "9113 §8.2.1", (b"a ", b"1")),
    get("name with a line end", "9113 §8.2.1", (b"a: b\r\nc", b"1")),
    get("name with NUL", "9113 §8.2.1", (b"a\0", b"1")),
    get("name of UTF-8", "9113 §8.2.1", (b"\xc3\xa9", b"1")),
    get("value with CR LF", "9113 §8.2.1", (b"a", b"1\r\nb: 2")),
    get("value with LF", "9113 §8.2.1", (b"a", b"1\nb: 2")),
    get("value with CR", "9113 §8.2.1", (b"a", b"1\rb: 2")),
    get("value with NUL", "9113 §8.2.1", (b"a", b"1\0")),
    get("value with DEL", "9110 §5.5", (b"a", b"1\x7f")),
    get("value that begins with a space", "9113 §8.2.1", (b"a", b" 1")),
    get("value that ends with a tab", "9113 §8.2.1", (b"a", b"1\t")),
    get("value of a space", "9113 §8.2.1", (b"a", b" ")),
    get("value with a tab and obs-text", "9110 §5.5", (b"a", b"1\t\xe9 2"),
        lines=b"a: 1\t\xe9 2\r\n"),
    get("underscore in a name", "9110 §5.1", (b"a_b", b"1"), lines=b""),
    get("claim of a client", "9110 §7.6", (b"x-real-ip", b"1"), lines=b""),
    get("connection", "9113 §8.2.2", (b"connection", b"close")),
    get("keep-alive", "9113 §8.2.2", (b"keep-alive", b"timeout=5")),
    get("proxy-connection", "9113 §8.2.2", (b"proxy-connection", b"close")),
    get("transfer-encoding", "9113 §8.2.2", (b"transfer-encoding", b"chunked"), end=False),
    get("upgrade", "9113 §8.2.2", (b"upgrade", b"websocket")),
    get("http2-settings", "9113 §8.2.2", (b"http2-settings", b"")),
    get("te of other codings", "9113 §8.2.2", (b"te", b"gzip")),
    get("te of several", "9113 §8.2.2", (b"te", b"trailers, gzip")),
    get("te: Trailers in HTTP/2", "9113 §8.2.2", (b"te", b"Trailers"),
        lines=b"Connection: TE\r\nTE: trailers\r\n"),
    get("te: trailers in HTTP/2", "9113 §8.2.2", (b"te", b"trailers"),
        lines=b"Connection: TE\r\nTE: trailers\r\n"),
    get("cookie crumbs", "9113 §8.2.3", (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"),
        (b"cookie", b"c=3"), lines=b"cookie: a=1; b=2; c=3\r\nx: y\r\n"),
    get("one cookie", "9113 §8.2.3", (b"cookie", b"a=1; b=2"), lines=b"cookie: a=1; b=2\r\n"),
    # Content
    request("POST with a length", "9113 §8.1.1", *POST, (b"content-length", b"5"), end=False,
            becomes=(b"POST", b"/a?b", b"h", b"Content-Length: 5\r\n")),
    request("POST without a length", "9113 §8.1", *POST, end=False,
            becomes=(b"POST", b"/a?b", b"h", b"Transfer-Encoding: chunked\r\n")),
    request("POST of nothing", "9110 §8.6", *POST,
            becomes=(b"POST", b"/a?b", b"h", b"Content-Length: 0\r\n")),
    request("POST of length 0", "9113 §8.1.1", *POST, (b"content-length", b"0"),
            becomes=(b"POST", b"/a?b", b"h", b"Content-Length: 0\r\n")),
    request("length and no content", "9113 §8.1.1", *POST, (b"content-length", b"5")),
    request("two lengths in HTTP/2", "9110 §8.6", *POST, (b"content-length", b"5"),
            (b"content-length", b"6"), end=False),
    request("the same length twice in HTTP/2", "9110 §8.6", *POST, (b"content-length", b"5"),
            (b"content-length", b"5"), end=False),
    request("length that is none", "9110 §8.6", *POST, (b"content-length", b"+5"), end=False,
            becomes=400),
    request("length of a list", "9110 §8.6", *POST, (b"content-length", b"5, 5"), end=False,
            becomes=400),
    request("empty length", "9110 §8.6", *POST, (b"content-length", b""), end=False, becomes=400),
    request("expectation", "9110 §10.1.1", *POST, (b"expect", b"100-continue"), end=False,
            becomes=(b"POST", b"/a?b", b"h",
                     b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n")),
    request("names of trailers", "9110 §6.6.2", *POST, (b"trailer", b"x"), end=False,
            becomes=(b"POST", b"/a?b", b"h", b"Transfer-Encoding: chunked\r\nTrailer: x\r\n")),
    get("Via", "9110 §7.6.3", (b"via", b"2 a"), (b"via", b"2 b"),
        lines=b"Via: 2 a\r\nVia: 2 b\r\n"),
    # CONNECT
    request("CONNECT in HTTP/2", "9113 §8.5", *CONNECT, end=False,
            becomes=(b"CONNECT", b"h", b"h", b"")),
    request("CONNECT with a path", "9113 §8.5", *CONNECT, PATH, end=False),
    request("CONNECT with a scheme", "9113 §8.5", *CONNECT, SCHEME, end=False),
    request("CONNECT without authority", "9113 §8.5", (b":method", b"CONNECT"), end=False),
    request("extended CONNECT", "8441 §4", *WEBSOCKET, end=False, extended=True,
            becomes=(b"GET", b"/a?b", b"h", b"")),
    request("extended CONNECT that was not offered", "8441 §3", *WEBSOCKET, end=False),
    request("extended CONNECT without a path", "8441 §4", *WEBSOCKET[:3], HOST, end=False,
            extended=True),
    request("protocol of a GET", "8441 §4", METHOD, *WEBSOCKET[1:], end=False, extended=True),
    request("protocol with a line end", "8441 §4", WEBSOCKET[0], (b":protocol", b"a\r\nb"),
            *WEBSOCKET[2:], end=False, extended=True),
)  # fmt: skip

OK = (b":status", b"200")
LINE = b"HTTP/1.1 200 OK\r\n"


def answer(
    name: str, clause: str, *fields: tuple[bytes, bytes], becomes: tuple[bytes, ...] | int = 0,
    end: bool = True,
) -> HeadCase:  # fmt: skip
    return HeadCase(name, clause, fields, becomes, end)


ANSWER_CASES = (
    answer("answer", "9113 §8.3.2", OK, (b"x-a", b"1"), becomes=(LINE, b"x-a: 1\r\n")),
    answer("status without a phrase", "9113 §8.3.2", (b":status", b"299"),
           becomes=(b"HTTP/1.1 299 \r\n", b"")),
    answer("interim answer in HTTP/2", "9113 §8.1", (b":status", b"103"), end=False,
           becomes=(b"HTTP/1.1 103 Early Hints\r\n", b"")),
    answer("interim answer that ends", "9113 §8.1", (b":status", b"103")),
    answer("no status", "9113 §8.3.2", (b"a", b"1")),
    answer("two statuses", "9113 §8.3", OK, OK),
    answer("status behind a field", "9113 §8.3", (b"a", b"1"), OK),
    answer("status of two digits", "9113 §8.3.2", (b":status", b"20")),
    answer("status of four digits", "9113 §8.3.2", (b":status", b"2000")),
    answer("status below 100", "9113 §8.3.2", (b":status", b"099")),
    answer("status with a sign", "9113 §8.3.2", (b":status", b"+20")),
    answer("status with a line end", "9113 §10.3", (b":status", b"200\r\n")),
    answer("status 101", "9113 §8.6", (b":status", b"101"), end=False),
    answer("path in an answer", "9113 §8.3", OK, PATH),
    answer("connection in an answer", "9113 §8.2.2", OK, (b"connection", b"close")),
    answer("transfer-encoding in an answer", "9113 §8.2.2", OK, (b"transfer-encoding", b"chunked")),
    answer("te in an answer", "9113 §8.2.2", OK, (b"te", b"trailers")),
    answer("name of an answer in capitals", "9113 §8.2.1", OK, (b"X-A", b"1")),
    answer("splitting in HTTP/2", "9113 §10.3", OK, (b"a", b"1\r\nb: 2")),
    answer("two lengths of an answer", "9110 §8.6", OK, (b"content-length", b"5"),
           (b"content-length", b"5")),
    answer("length of an answer that is none", "9110 §8.6", OK, (b"content-length", b"x"),
           becomes=502),
    answer("cookies that are set", "9110 §5.3", OK, (b"set-cookie", b"a=1"), (b"set-cookie", b"b"),
           becomes=(LINE, b"set-cookie: a=1\r\nset-cookie: b\r\n")),
    answer("underscore in an answer", "9110 §5.1", OK, (b"a_b", b"1"),
           becomes=(LINE, b"a_b: 1\r\n")),
)  # fmt: skip

TRAILER_CASES = (
    HeadCase("trailers", "9113 §8.1", ((b"grpc-status", b"0"), (b"x", b"")),
             (b"grpc-status: 0\r\nx: \r\n",)),
    HeadCase("trailers of nothing", "9113 §8.1", (), (b"",)),
    HeadCase("trailers that are not the end", "9113 §8.1", ((b"x", b"1"),), end=False),
    HeadCase("pseudo-field in trailers", "9113 §8.1", ((b":status", b"200"),)),
    HeadCase("pseudo-field of requests in trailers", "9113 §8.1", ((b":path", b"/"),)),
    HeadCase("connection in trailers", "9113 §8.2.2", ((b"connection", b"close"),)),
    HeadCase("trailer in capitals", "9113 §8.2.1", ((b"X", b"1"),)),
    HeadCase("trailer with a line end", "9113 §8.2.1", ((b"x", b"1\r\ny: 2"),)),
    HeadCase("trailers that would change the head", "9110 §6.5.1",
             ((b"content-length", b"5"), (b"x-forwarded-for", b"1"), (b"a_b", b"1"), (b"x", b"1")),
             (b"x: 1\r\n",)),
)  # fmt: skip
