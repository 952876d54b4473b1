"""Raw bytes and what must become of them: requests of clients, and answers of instances.

Each case names the clause that decides it. `tests/wire/test_bytes.py` plays the table in memory,
whole and cut at every place; `tests/e2e/test_bytes.py` plays it against the real process.
"""

from __future__ import annotations

from dataclasses import dataclass

NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"
"""Sent behind every request: it arrives as a request of its own, or not at all."""


@dataclass(frozen=True)
class Arrival:
    """A request as the instance understands it."""

    method: bytes = b"GET"
    target: bytes = b"/"
    body: bytes = b""
    has: tuple[tuple[bytes, bytes], ...] = ()
    """Fields that it carries exactly once, with this value."""
    lacks: tuple[bytes, ...] = ()
    trailers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Question:
    """What a client sends."""

    name: str
    clause: str
    raw: bytes
    arrives: tuple[Arrival, ...]
    statuses: tuple[int, ...]
    """What the client gets for it, in order."""
    closes: bool = False
    """The last answer says `Connection: close` and nothing that follows is served."""

    @property
    def late(self) -> bool:
        """Refused only when the client's time for a whole request is over."""
        return self.statuses[-1:] == (408,)


@dataclass(frozen=True)
class Reply:
    """What an instance sends."""

    name: str
    clause: str
    raw: bytes
    status: int
    """What the client gets in the end; 502 for what is refused."""
    body: bytes = b""
    interim: tuple[int, ...] = ()
    """1xx answers that the client gets before."""
    has: tuple[tuple[bytes, bytes], ...] = ()
    lacks: tuple[bytes, ...] = ()
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    cut: bool = False
    """The client sees that the rest is missing, or gets a 502."""
    kept: bool = False
    """The connection to the instance serves the next request."""
    ends: bool = False
    """The instance closes behind it."""
    asked: bytes = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def q(
    fields: bytes = b"",
    *,
    line: bytes = b"GET / HTTP/1.1",
    host: bytes = b"Host: h\r\n",
    body: bytes = b"",
) -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n" + body


def post(fields: bytes, body: bytes = b"") -> bytes:
    return q(fields, line=b"POST / HTTP/1.1", body=body)


def no(name: str, clause: str, raw: bytes, status: int = 400, *, stays: bool = False) -> Question:
    """Refused: not a request of it reaches an instance."""
    return Question(name, clause, raw, (), (status,), not stays)


def late(name: str, clause: str, raw: bytes) -> Question:
    """No end of a request can be seen in it: refused when the time is over."""
    return no(name, clause, raw, 408)


def ok(
    name: str, clause: str, raw: bytes, *arrives: Arrival, closes: bool = False
) -> Question:  # fmt: skip
    """Reaches the instance; one request unless several are given."""
    arrives = arrives or (Arrival(),)
    return Question(name, clause, raw, arrives, (200,) * len(arrives), closes)


def posted(body: bytes = b"", *, length: bool = False, **more: object) -> Arrival:
    has = ((b"content-length", b"%d" % len(body)),) if length else ()
    lacks = (b"transfer-encoding",) if length else (b"content-length",)
    return Arrival(b"POST", b"/", body, has, lacks, **more)  # type: ignore[arg-type]


HELLO = b"hello"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"

_LINES = [
    no("no version", "9112 §3", q(line=b"GET /")),
    no("two spaces before the target", "9112 §3", q(line=b"GET  / HTTP/1.1")),
    no("two spaces before the version", "9112 §3", q(line=b"GET /  HTTP/1.1")),
    no("space behind the version", "9112 §3", q(line=b"GET / HTTP/1.1 ")),
    no("space before the method", "9112 §3", q(line=b" GET / HTTP/1.1")),
    no("tab for a space", "9112 §3", q(line=b"GET\t/ HTTP/1.1")),
    no("tab before the version", "9112 §3", q(line=b"GET /\tHTTP/1.1")),
    no("vertical tab for a space", "9112 §3", q(line=b"GET\x0b/ HTTP/1.1")),
    no("form feed for a space", "9112 §3", q(line=b"GET\x0c/ HTTP/1.1")),
    no("no-break space for a space", "9112 §3", q(line=b"GET\xa0/ HTTP/1.1")),
    no("space in the target", "9112 §3.2", q(line=b"GET /a b HTTP/1.1")),
    no("empty target", "9112 §3.2", q(line=b"GET  HTTP/1.1")),
    no("method with a colon", "9110 §9.1", q(line=b"GET: / HTTP/1.1")),
    no("method in quotes", "9110 §9.1", q(line=b'"GET" / HTTP/1.1')),
    no("method with NUL", "9110 §9.1", q(line=b"G\x00T / HTTP/1.1")),
    no("method outside ASCII", "9110 §9.1", q(line=b"G\xc9T / HTTP/1.1")),
    no("no method", "9110 §9.1", q(line=b" / HTTP/1.1")),
    ok("method in lower case", "9110 §9.1", q(line=b"get / HTTP/1.1"), Arrival(b"get")),
    ok("method nobody knows", "9110 §9.1", q(line=b"BREW /pot HTTP/1.1"),
       Arrival(b"BREW", b"/pot")),
    ok("method of every token character", "9110 §5.6.2",
       q(line=b"!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"), Arrival(b"!#$%&'*+-.^_`|~09azAZ")),
    no("version in lower case", "9112 §2.3", q(line=b"GET / http/1.1")),
    no("version without a dot", "9112 §2.3", q(line=b"GET / HTTP/11")),
    no("version with two digits", "9112 §2.3", q(line=b"GET / HTTP/1.10")),
    no("version with a leading zero", "9112 §2.3", q(line=b"GET / HTTP/01.1")),
    no("version without its minor", "9112 §2.3", q(line=b"GET / HTTP/1.")),
    no("version without its name", "9112 §2.3", q(line=b"GET / 1.1")),
    no("version of another protocol", "9112 §2.3", q(line=b"GET / RTSP/1.0")),
    no("version with a comma", "9112 §2.3", q(line=b"GET / HTTP/1,1")),
    no("version outside ASCII", "9112 §2.3", q(line=b"GET / HTTP/1.\xb2")),
    ok("HTTP/1.2", "9110 §2.5", q(line=b"GET / HTTP/1.2")),
    ok("HTTP/1.9", "9110 §2.5", q(line=b"GET / HTTP/1.9")),
    no("HTTP/0.9 with fields", "9110 §15.6.6", q(line=b"GET / HTTP/0.9"), 505),
    no("HTTP/2.0", "9110 §15.6.6", q(line=b"GET / HTTP/2.0"), 505),
    no("HTTP/3.0", "9110 §15.6.6", q(line=b"GET / HTTP/3.0"), 505),
    no("HTTP/2 preface", "9113 §3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    no("PRI as a method of 1.1", "9113 §3.4", q(line=b"PRI * HTTP/1.1")),
    no("HTTP/0.9 simple request", "9112 §2.3", b"GET /\r\n"),
    no("TLS hello", "9112 §2.2", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n"),
    no("TLS hello without a line", "9112 §2.2", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    no("PROXY header nobody asked for", "9112 §3",
       b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + q()),
    no("SOCKS greeting", "9112 §2.2", b"\x05\x01\x00\r\n\r\n"),
    no("answer instead of a request", "9112 §2.1", b"HTTP/1.1 200 OK\r\nHost: h\r\n\r\n"),
    no("request in the request line", "9112 §3", q(line=b"GET / HTTP/1.1 GET /x HTTP/1.1")),
    no("only a colon", "9112 §3", b":\r\n\r\n"),
]  # fmt: skip

_ENDS = [
    ok("one empty line before", "9112 §2.2", b"\r\n" + q()),
    ok("three empty lines before", "9112 §2.2", b"\r\n\r\n\r\n" + q()),
    no("LF before", "9112 §2.2", b"\n" + q()),
    no("CR before", "9112 §2.2", b"\r" + q()),
    no("space before", "9112 §2.2", b" " + q()),
    no("byte-order mark before", "9112 §2.2", b"\xef\xbb\xbf" + q()),
    no("NUL before", "9112 §2.2", b"\x00" + q()),
    no("line of one space before", "9112 §2.2", b" \r\n" + q()),
    no("bare LF behind the request line", "9112 §2.2", b"GET / HTTP/1.1\nHost: h\r\n\r\n"),
    no("bare CR behind the request line", "9112 §2.2", b"GET / HTTP/1.1\rHost: h\r\n\r\n"),
    no("CR CR LF behind the request line", "9112 §2.2", b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n"),
    no("LF CR for CR LF", "9112 §2.2", b"GET / HTTP/1.1\n\rHost: h\r\n\r\n"),
    no("every line ends in a bare LF", "9112 §2.2", b"GET / HTTP/1.1\nHost: h\n\n"),
    no("empty line ends in a bare LF", "9112 §2.2", b"GET / HTTP/1.1\r\nHost: h\r\n\n"),
    late("empty line ends in a bare CR", "9112 §2.2", b"GET / HTTP/1.1\r\nHost: h\r\n\r"),
    no("last field ends in a bare LF", "9112 §2.2", b"GET / HTTP/1.1\r\nHost: h\n\r\n"),
    no("field ends in a bare LF", "9112 §2.2", q(b"A: b\nC: d\r\n")),
    no("field ends in a bare CR", "9112 §2.2", q(b"A: b\rC: d\r\n")),
    no("field ends in CR CR LF", "9112 §2.2", q(b"A: b\r\r\nC: d\r\n")),
    no("bare LF LF in the head", "9112 §2.2", q(b"A: b\n\n" + HIDDEN[:-4] + b"\r\n")),
    no("bare CR hides a length", "9112 §2.2", post(b"A: b\rContent-Length: 5\r\n", HELLO)),
    no("bare LF hides a length", "9112 §2.2", post(b"A: b\nContent-Length: 5\r\n", HELLO)),
    no("bare LF hides a coding", "9112 §2.2", post(b"A: b\n" + CHUNKED, b"0\r\n\r\n")),
    late("head without its end", "9112 §2.1", b"GET / HTTP/1.1\r\nHost: h\r\n"),
    late("half a request line", "9112 §2.1", b"GET / HT"),
]

_FIELDS = [
    no("space before the colon", "9112 §5.1", q(b"A : b\r\n")),
    no("tab before the colon", "9112 §5.1", q(b"A\t: b\r\n")),
    no("space before the colon of a length", "9112 §5.1", post(b"Content-Length : 5\r\n", HELLO)),
    no("space before the colon of a coding", "9112 §5.1",
       post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n")),
    no("space before the colon of Host", "9112 §5.1", q(host=b"Host : h\r\n")),
    no("space before the first field", "9112 §2.2", q(host=b" Host: h\r\n")),
    no("tab before the first field", "9112 §2.2", q(host=b"\tHost: h\r\n")),
    no("space line before the first field", "9112 §2.2", q(host=b" \r\nHost: h\r\n")),
    no("folded line", "9112 §5.2", q(b"A: b\r\n c\r\n")),
    no("folded line with a tab", "9112 §5.2", q(b"A: b\r\n\tc\r\n")),
    no("folded empty line", "9112 §5.2", q(b"A: b\r\n \r\n")),
    no("folded coding", "9112 §5.2", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n")),
    no("folded length", "9112 §5.2", post(b"Content-Length:\r\n 5\r\n", HELLO)),
    no("fold hides a coding", "9112 §5.2", post(b"A: b\r\n " + CHUNKED, b"0\r\n\r\n")),
    no("space in a name", "9110 §5.1", q(b"A B: c\r\n")),
    no("no name", "9110 §5.1", q(b": b\r\n")),
    no("no colon", "9112 §5", q(b"Abc\r\n")),
    no("NUL in a name", "9110 §5.1", q(b"A\x00: b\r\n")),
    no("obs-text in a name", "9110 §5.1", q(b"\xc3\xa9: b\r\n")),
    no("parenthesis in a name", "9110 §5.1", q(b"A(): b\r\n")),
    no("quotes around a name", "9110 §5.1", q(b'"A": b\r\n')),
    no("comma in a name", "9110 §5.1", q(b"A,B: c\r\n")),
    no("slash in a name", "9110 §5.1", q(b"A/B: c\r\n")),
    no("NUL in a value", "9110 §5.5", q(b"A: b\x00c\r\n")),
    no("control byte in a value", "9110 §5.5", q(b"A: b\x01c\r\n")),
    no("escape in a value", "9110 §5.5", q(b"A: \x1b[2J\r\n")),
    no("vertical tab in a value", "9110 §5.5", q(b"A: b\x0bc\r\n")),
    no("form feed in a value", "9110 §5.5", q(b"A: b\x0cc\r\n")),
    no("DEL in a value", "9110 §5.5", q(b"A: b\x7fc\r\n")),
    no("bare CR in a value", "9110 §5.5", q(b"A: b\rc\r\n")),
    no("bare CR at the end of a value", "9110 §5.5", q(b"A: b\r\r\n")),
    ok("obs-text in a value", "9110 §5.5", q(b"A: \xe9\xff\r\n"),
       Arrival(has=((b"a", b"\xe9\xff"),))),
    ok("empty value", "9110 §5.5", q(b"A:\r\n"), Arrival(has=((b"a", b""),))),
    ok("value of spaces", "9110 §5.5", q(b"A: \t \r\n"), Arrival(has=((b"a", b""),))),
    ok("no space behind the colon", "9112 §5", q(b"A:b\r\n"), Arrival(has=((b"a", b"b"),))),
    ok("spaces around a value", "9112 §5.1", q(b"A: \t b c \t\r\n"),
       Arrival(has=((b"a", b"b c"),))),
    ok("tab within a value", "9110 §5.5", q(b"A: b\tc\r\n"), Arrival(has=((b"a", b"b\tc"),))),
    ok("colons in a value", "9110 §5.5", q(b"A: b: c\r\n"), Arrival(has=((b"a", b"b: c"),))),
    ok("name of every token character", "9110 §5.6.2", q(b"!#$%&'*+-.^`|~09azAZ: b\r\n"),
       Arrival(has=((b"!#$%&'*+-.^`|~09azaz", b"b"),))),
    ok("underscore for a hyphen in a coding", "9110 §16.3.2.1",
       post(b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", HELLO),
       posted(HELLO, length=True)),
    ok("underscore for a hyphen in a length", "9110 §16.3.2.1",
       post(b"Content_Length: 9\r\nContent-Length: 5\r\n", HELLO),
       Arrival(b"POST", b"/", HELLO, ((b"content-length", b"5"),), (b"content_length",))),
    ok("underscore in a forwarding field", "9110 §16.3.2.1", q(b"X_Forwarded_For: 1.1.1.1\r\n"),
       Arrival(lacks=(b"x_forwarded_for",))),
    ok("name in a strange case", "9110 §5.1", post(b"cOnTeNt-lEnGtH: 5\r\n", HELLO),
       posted(HELLO, length=True)),
    ok("a field in several lines", "9110 §5.3", q(b"A: 1\r\nA: 2\r\n")),
    ok("128 fields", "9110 §5.4", q(b"A: b\r\n" * 127)),
    no("129 fields", "6585 §5", q(b"A: b\r\n" * 128), 431),
    no("long head", "9110 §5.4", q(b"A: " + b"b" * 33_000 + b"\r\n"), 431),
    no("long head without its end", "9110 §5.4",
       b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 33_000, 431),
    no("long target", "9110 §4.1", q(line=b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414),
    no("long line without its end", "9112 §3", b"GET /" + b"a" * 33_000, 414),
    no("long method", "9112 §3", b"A" * 33_000),
]  # fmt: skip

_HOSTS = [
    no("no Host", "9112 §3.2", q(host=b"")),
    no("two Hosts", "9112 §3.2", q(b"Host: h\r\n")),
    no("two different Hosts", "9112 §3.2", q(b"host: other\r\n")),
    no("two Hosts in 1.0", "9112 §3.2", q(b"Host: h\r\n", line=b"GET / HTTP/1.0")),
    ok("no Host in 1.0", "9112 §3.2", q(host=b"", line=b"GET / HTTP/1.0"),
       Arrival(has=((b"host", b""),)), closes=True),
    ok("empty Host", "9112 §3.2", q(host=b"Host:\r\n"), Arrival(has=((b"host", b""),))),
    *(no(f"Host {host.decode('latin-1')!r}", "9112 §3.2", q(host=b"Host: " + host + b"\r\n"))
      for host in (b"a b", b"a/b", b"user@h", b"user:pass@h", b"h:80:80", b"h:x", b"h:-1", b"h:+80",
                   b"h:65536", b"h:99999", b"h:123456",
                   b"[::1]:65536", b"[::1", b"::1", b"[::1]x", b"[::g]", b"h\xff", b"h?x", b"h#x",
                   b"h\\x", b"http://h", b"h, i", b'"h"', b"<h>", b"h\x0b", b"h\x00", b"{h}",
                   b"h:80 ,i")),
    *(ok(f"Host {host.decode('latin-1')!r}", "9110 §7.2", q(host=b"Host: " + host + b"\r\n"),
         Arrival(has=((b"host", host),)))
      for host in (b"h:0", b"h:80", b"h:65535", b"h:00080", b"h:", b"H.EXAMPLE.",
                   b"[::1]", b"[::1]:8080", b"127.0.0.1:1", b"xn--bcher-kva.example",
                   b"a_b.example")),
    ok("Connection names Host", "9110 §7.6.1", q(b"Connection: Host\r\n"),
       Arrival(has=((b"host", b"h"),), lacks=(b"connection",))),
]  # fmt: skip

_TARGETS = [
    no("fragment", "9112 §3.2", q(line=b"GET /a#b HTTP/1.1")),
    no("NUL in the target", "9112 §3.2", q(line=b"GET /\x00 HTTP/1.1")),
    no("DEL in the target", "9112 §3.2", q(line=b"GET /\x7f HTTP/1.1")),
    no("UTF-8 in the target", "9112 §3.2", q(line=b"GET /\xc3\xa9 HTTP/1.1")),
    no("tab in the target", "9112 §3.2", q(line=b"GET /a\tb HTTP/1.1")),
    no("bare CR in the target", "9112 §3.2", q(line=b"GET /a\rb HTTP/1.1")),
    no("bare LF in the target", "9112 §3.2", q(line=b"GET /a\nb HTTP/1.1")),
    no("target without a slash", "9112 §3.2.1", q(line=b"GET a HTTP/1.1")),
    no("target of a query", "9112 §3.2.1", q(line=b"GET ?a HTTP/1.1")),
    no("relative target", "9112 §3.2.1", q(line=b"GET ../a HTTP/1.1")),
    no("encoded NUL", "3986 §2.1", q(line=b"GET /%00 HTTP/1.1"), stays=True),
    no("percent sign alone", "3986 §2.1", q(line=b"GET /% HTTP/1.1"), stays=True),
    no("percent sign and one digit", "3986 §2.1", q(line=b"GET /%4 HTTP/1.1"), stays=True),
    no("percent sign and no digits", "3986 §2.1", q(line=b"GET /%zz HTTP/1.1"), stays=True),
    no("backslash in the path", "3986 §3.3", q(line=b"GET /a\\b HTTP/1.1"), stays=True),
    ok("encoded slash on a prefix route", "3986 §2.2", q(line=b"GET /a%2fb%5Cc HTTP/1.1"),
       Arrival(target=b"/a%2fb%5Cc")),
    ok("dot segments", "3986 §6.2.2.3", q(line=b"GET /a/../b/./c HTTP/1.1"),
       Arrival(target=b"/b/c")),
    ok("dot segments beyond the root", "3986 §5.2.4", q(line=b"GET /../../x HTTP/1.1"),
       Arrival(target=b"/x")),
    ok("encoded dot segments", "3986 §6.2.2", q(line=b"GET /a/%2e%2E/b HTTP/1.1"),
       Arrival(target=b"/b")),
    ok("encoded unreserved character", "3986 §6.2.2.2", q(line=b"GET /%61 HTTP/1.1"),
       Arrival(target=b"/a")),
    ok("twice encoded", "3986 §2.4", q(line=b"GET /%252e%252e/a HTTP/1.1"),
       Arrival(target=b"/%252e%252e/a")),
    ok("query as it is", "3986 §3.4", q(line=b"GET /?a=/../%00?b HTTP/1.1"),
       Arrival(target=b"/?a=/../%00?b")),
    ok("empty query", "3986 §3.4", q(line=b"GET /? HTTP/1.1"), Arrival(target=b"/?")),
    ok("two slashes", "9112 §3.2.1", q(line=b"GET //h/a HTTP/1.1"), Arrival(target=b"//h/a")),
    ok("absolute form", "9112 §3.2.2", q(line=b"GET http://h/a?b HTTP/1.1"),
       Arrival(target=b"/a?b", has=((b"host", b"h"),))),
    ok("absolute form without a path", "9112 §3.2.2", q(line=b"GET http://h HTTP/1.1"),
       Arrival()),
    ok("absolute form with a query only", "9112 §3.2.2", q(line=b"GET http://h?a HTTP/1.1"),
       Arrival(target=b"/?a")),
    ok("absolute form in capitals", "9110 §4.2.3", q(line=b"GET HTTP://H/ HTTP/1.1")),
    no("absolute form against Host", "9112 §3.2.2", q(line=b"GET http://i/ HTTP/1.1")),
    no("absolute form with another port", "9112 §3.2.2", q(line=b"GET http://h:81/ HTTP/1.1")),
    no("absolute form with a port that is none", "9110 §4.2.1",
       q(line=b"GET http://h:65536/ HTTP/1.1", host=b"Host: h:65536\r\n")),
    no("absolute form with user information", "9110 §4.2.4", q(line=b"GET http://u@h/ HTTP/1.1")),
    no("absolute form without authority", "9110 §4.2.1", q(line=b"GET http:/// HTTP/1.1")),
    no("absolute form of another scheme", "9110 §4.2", q(line=b"GET ftp://h/ HTTP/1.1")),
    no("absolute form of a file", "9110 §4.2", q(line=b"GET file:///etc/passwd HTTP/1.1")),
    no("absolute form without a scheme", "9112 §3.2.2", q(line=b"GET h/ HTTP/1.1")),
    no("absolute form with one slash", "9112 §3.2.2", q(line=b"GET http:/h/ HTTP/1.1")),
    no("absolute form with a backslash", "9112 §3.2.2", q(line=b"GET http://h\\@i/ HTTP/1.1")),
    no("absolute form without Host", "9112 §3.2.2",
       q(line=b"GET http://h/ HTTP/1.1", host=b"")),
    ok("asterisk form", "9112 §3.2.4", q(line=b"OPTIONS * HTTP/1.1"), Arrival(b"OPTIONS", b"*")),
    no("asterisk form of a GET", "9112 §3.2.4", q(line=b"GET * HTTP/1.1")),
    no("asterisk form with more", "9112 §3.2.4", q(line=b"OPTIONS *x HTTP/1.1")),
    no("CONNECT", "9112 §3.2.3", q(line=b"CONNECT h:443 HTTP/1.1", host=b"Host: h:443\r\n"), 405),
    no("CONNECT with a path", "9112 §3.2.3", q(line=b"CONNECT / HTTP/1.1"), 405),
    no("CONNECT with a body", "9110 §9.3.6",
       q(b"Content-Length: 5\r\n", line=b"CONNECT h:1 HTTP/1.1", body=HELLO), 405),
    no("authority form of a GET", "9112 §3.2.3", q(line=b"GET h:80 HTTP/1.1")),
]  # fmt: skip

_LENGTHS = [
    ok("length", "9112 §6.2", post(b"Content-Length: 5\r\n", HELLO), posted(HELLO, length=True)),
    ok("length of nothing", "9112 §6.2", post(b"Content-Length: 0\r\n"), posted(length=True)),
    ok("length with leading zeros", "9110 §8.6", post(b"Content-Length: 0005\r\n", HELLO),
       posted(HELLO, length=True)),
    ok("length with spaces around", "9110 §8.6", post(b"Content-Length: \t5 \r\n", HELLO),
       posted(HELLO, length=True)),
    ok("length on a GET", "9110 §9.3.1", q(b"Content-Length: 5\r\n", body=HELLO),
       Arrival(body=HELLO)),
    ok("length in 1.0", "9112 §6.2",
       q(b"Content-Length: 5\r\n", line=b"POST / HTTP/1.0", body=HELLO),
       posted(HELLO, length=True), closes=True),
    ok("no length", "9112 §6.3", post(b""), Arrival(b"POST")),
    *(no(f"length {value.decode('latin-1')!r}", "9110 §8.6",
         post(b"Content-Length: " + value + b"\r\n", HELLO))
      for value in (b"+5", b"-5", b"-0", b"5, 5", b"5,5", b"5,", b",5", b"5;5", b"5 5", b"5.0",
                    b"5e0", b"0x5", b"0o5", b"5_0", b"1_0", b"five", b'"5"', b"", b"\xb2",
                    b"\xd9\xa5", b"5\x0b", b"5h", b"9223372036854775808", b"18446744073709551621",
                    b"9" * 40, b"5\x00", b"0 5", b"5\t5")),
    no("two lengths", "9112 §6.3", post(b"Content-Length: 5\r\n" * 2, HELLO)),
    no("two different lengths", "9112 §6.3",
       post(b"Content-Length: 5\r\nContent-Length: 0\r\n", HELLO)),
    no("two lengths in different case", "9112 §6.3",
       post(b"Content-Length: 0\r\ncontent-length: 5\r\n", HELLO)),
    no("length in 1.0 with another", "9112 §6.3",
       q(b"Content-Length: 5\r\nContent-Length: 6\r\n", line=b"POST / HTTP/1.0", body=HELLO)),
    late("body shorter than its length", "9112 §8", post(b"Content-Length: 6\r\n", HELLO)),
    ok("request in a body", "9112 §6.3",
       post(b"Content-Length: %d\r\n" % len(HIDDEN), HIDDEN), posted(HIDDEN, length=True)),
    ok("request behind a body", "9112 §9.3.2",
       post(b"Content-Length: 5\r\n", HELLO + HIDDEN),
       posted(HELLO, length=True), Arrival(target=b"/hidden")),
    ok("request behind no body", "9112 §9.3.2", post(b"Content-Length: 0\r\n", HIDDEN),
       posted(length=True), Arrival(target=b"/hidden")),
    ok("request behind a GET", "9112 §9.3.2", q(body=HIDDEN), Arrival(),
       Arrival(target=b"/hidden")),
    ok("empty line behind a body", "9112 §2.2", post(b"Content-Length: 5\r\n", HELLO + b"\r\n"),
       posted(HELLO, length=True)),
    Question("body longer than its length", "9112 §6.3",
             post(b"Content-Length: 5\r\n", HELLO + b"x\r\n\r\n"),
             (posted(HELLO, length=True),), (200, 400), True),
    ok("Connection names Content-Length", "9110 §7.6.1",
       post(b"Connection: Content-Length\r\nContent-Length: 5\r\n", HELLO),
       posted(HELLO, length=True)),
]  # fmt: skip

_CODINGS = [
    ok("chunked", "9112 §7.1", post(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), posted(HELLO)),
    ok("CHUNKED", "9112 §7", post(b"Transfer-Encoding: CHUNKED\r\n", b"0\r\n\r\n"), posted()),
    ok("chunked with spaces around", "9112 §5.1",
       post(b"Transfer-Encoding: \t chunked\t \r\n", b"5\r\nhello\r\n0\r\n\r\n"), posted(HELLO)),
    ok("request in a chunked body", "9112 §7.1",
       post(CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)), posted(HIDDEN)),
    ok("request behind a chunked body", "9112 §9.3.2",
       post(CHUNKED, b"0\r\n\r\n" + HIDDEN), posted(), Arrival(target=b"/hidden")),
    no("CL.TE", "9112 §6.1", post(b"Content-Length: 6\r\n" + CHUNKED, b"0\r\n\r\nG")),
    no("TE.CL", "9112 §6.1", post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n")),
    no("CL.TE of nothing", "9112 §6.1", post(b"Content-Length: 0\r\n" + CHUNKED, b"0\r\n\r\n")),
    no("CL.TE with a hidden request", "9112 §6.1",
       post(b"Content-Length: 40\r\n" + CHUNKED, b"0\r\n\r\n" + HIDDEN)),
    no("TE.CL with a hidden request", "9112 §6.1",
       post(CHUNKED + b"Content-Length: 4\r\n", b"24\r\n" + HIDDEN + b"\r\n0\r\n\r\n")),
    no("TE and CL on a GET", "9112 §6.1", q(CHUNKED + b"Content-Length: 0\r\n", body=b"0\r\n\r\n")),
    no("TE and a bad CL", "9112 §6.1", post(CHUNKED + b"Content-Length: x\r\n", b"0\r\n\r\n")),
    no("TE and CL in 1.0", "9112 §6.1",
       q(CHUNKED + b"Content-Length: 0\r\n", line=b"POST / HTTP/1.0")),
    no("TE in 1.0", "9112 §6.1", q(CHUNKED, line=b"POST / HTTP/1.0", body=b"0\r\n\r\n")),
    no("chunked twice", "9112 §6.1", post(CHUNKED * 2, b"0\r\n\r\n")),
    no("chunked, then identity in a line of its own", "9112 §6.1",
       post(CHUNKED + b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n")),
    no("chunked behind identity in a line of its own", "9112 §6.1",
       post(b"Transfer-Encoding: identity\r\n" + CHUNKED, b"0\r\n\r\n")),
    *(no(f"coding {value.decode('latin-1')!r}", "9112 §6.1",
         post(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n"))
      for value in (b"xchunked", b"chunkedx", b"chunked, identity", b"chunked ;",
                    b"identity", b"gzip", b"", b"chunked x", b"chunked;q=1", b'"chunked"', b"chunk",
                    b"\x0bchunked", b"\x0cchunked", b"chunked\x00", b"chunked\x0b", b"\xa0chunked",
                    b"\xffchunked", b"chunked\x7f", b"ch\tunked", b"chunked\xa0", b"c hunked")),
    *(no(f"coding {value.decode('latin-1')!r}", "9112 §6.1",
         post(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n"), 501)
      for value in (b"gzip, chunked", b"gzip,chunked", b"chunked, chunked", b", chunked",
                    b"chunked,", b"identity, chunked", b"deflate, gzip, chunked", b"x, CHUNKED")),
    no("bare CR in a coding", "9112 §2.2",
       post(b"Transfer-Encoding: chunked\r \r\n", b"0\r\n\r\n")),
    no("bare LF in a coding", "9112 §2.2", post(b"Transfer-Encoding:\nchunked\r\n", b"0\r\n\r\n")),
    ok("name of a coding with more behind it", "9110 §5.1",
       post(b"Transfer-Encodingx: chunked\r\nContent-Length: 5\r\n", HELLO),
       posted(HELLO, length=True)),
    ok("Connection names Transfer-Encoding", "9110 §7.6.1",
       post(b"Connection: Transfer-Encoding\r\n" + CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"),
       posted(HELLO)),
]  # fmt: skip


def chunked(
    name: str, body: bytes, wanted: bytes | None = None, clause: str = "9112 §7.1"
) -> Question:
    """A chunked body: what it says, or None where it is refused."""
    raw = post(CHUNKED, body)
    return no(name, clause, raw) if wanted is None else ok(name, clause, raw, posted(wanted))


_CHUNKS = [
    chunked("size in capitals", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    chunked("size with leading zeros", b"0005\r\nhello\r\n000\r\n\r\n", HELLO),
    chunked("extension", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", HELLO, "9112 §7.1.1"),
    chunked("quoted extension", b'5;a="b c"\r\nhello\r\n0\r\n\r\n', HELLO, "9112 §7.1.1"),
    chunked("space before an extension", b"5 ;a\r\nhello\r\n0\r\n\r\n", HELLO, "9112 §7.1.1"),
    chunked("space behind the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    chunked("space before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    chunked("tab behind the size", b"5\t\r\nhello\r\n0\r\n\r\n"),
    chunked("plus before the size", b"+5\r\nhello\r\n0\r\n\r\n"),
    chunked("minus before the size", b"-5\r\nhello\r\n0\r\n\r\n"),
    chunked("0x before the size", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunked("underscore in the size", b"0_5\r\nhello\r\n0\r\n\r\n"),
    chunked("no size", b"\r\nhello\r\n0\r\n\r\n"),
    chunked("only an extension", b";a\r\nhello\r\n0\r\n\r\n"),
    chunked("not a number", b"g\r\nhello\r\n0\r\n\r\n"),
    chunked("two numbers", b"5 5\r\nhello\r\n0\r\n\r\n"),
    chunked("comma in the size", b"5,\r\nhello\r\n0\r\n\r\n"),
    chunked("digit outside ASCII", b"\xb2\r\nhello\r\n0\r\n\r\n"),
    chunked("NUL in the size", b"5\x00\r\nhello\r\n0\r\n\r\n"),
    chunked("NUL in an extension", b"5;\x00\r\nhello\r\n0\r\n\r\n", None, "9112 §7.1.1"),
    chunked("bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", None, "9112 §7.1.1"),
    chunked("bare LF in an extension", b"5;a\nhello\r\n0\r\n\r\n", None, "9112 §7.1.1"),
    chunked("vertical tab in an extension", b"5;\x0b\r\nhello\r\n0\r\n\r\n", None, "9112 §7.1.1"),
    chunked("long extension", b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n", None, "9112 §7.1.1"),
    chunked("size beyond 64 bits", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunked("size of 2 to the 64th less one", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    chunked("size of 2 to the 63rd", b"8000000000000000\r\nhello\r\n0\r\n\r\n"),
    chunked("long size", b"0" * 40 + b"5\r\nhello\r\n0\r\n\r\n"),
    chunked("bare LF behind a size", b"5\nhello\r\n0\r\n\r\n"),
    chunked("bare CR behind a size", b"5\rhello\r\n0\r\n\r\n"),
    chunked("CR CR LF behind a size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    chunked("bare LF behind a chunk", b"5\r\nhello\n0\r\n\r\n"),
    chunked("bare CR behind a chunk", b"5\r\nhello\r0\r\n\r\n"),
    chunked("nothing behind a chunk", b"5\r\nhello0\r\n\r\n"),
    chunked("two bytes other than CR LF behind a chunk", b"5\r\nhelloXX0\r\n\r\n"),
    chunked("chunk longer than its size", b"4\r\nhello\r\n0\r\n\r\n"),
    chunked("chunk shorter than its size", b"6\r\nhello\r\n0\r\n\r\n"),
    chunked("bare LF behind the last size", b"0\n\r\n"),
    chunked("bare LF for the last line", b"0\r\n\n"),
    chunked("trailer ends in a bare LF", b"0\r\nA: b\n\r\n", None, "9112 §7.1.2"),
    chunked("trailer without a colon", b"0\r\nAbc\r\n\r\n", None, "9112 §7.1.2"),
    chunked("trailer with a space before the colon", b"0\r\nA : b\r\n\r\n", None, "9112 §7.1.2"),
    chunked("folded trailer", b"0\r\nA: b\r\n c\r\n\r\n", None, "9112 §7.1.2"),
    chunked("NUL in a trailer", b"0\r\nA: \x00\r\n\r\n", None, "9112 §7.1.2"),
    chunked("request for a trailer", b"0\r\nGET /hidden HTTP/1.1\r\n\r\n", None, "9112 §7.1.2"),
    chunked("long trailer", b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n", None, "9112 §7.1.2"),
    late("no last chunk", "9112 §8", post(CHUNKED, b"5\r\nhello\r\n")),
    late("no last line", "9112 §8", post(CHUNKED, b"5\r\nhello\r\n0\r\n")),
    late("no CR LF behind a chunk", "9112 §8", post(CHUNKED, b"5\r\nhello")),
    late("size without its end", "9112 §8", post(CHUNKED, b"5")),
    ok("trailer", "9110 §6.5", post(CHUNKED, b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
       posted(HELLO, trailers=((b"a", b"b"),))),
    *(ok(f"{name.decode()} for a trailer", "9110 §6.5.1",
         post(CHUNKED, b"5\r\nhello\r\n0\r\n" + name + b": 5\r\nA: b\r\n\r\n"),
         posted(HELLO, trailers=((b"a", b"b"),)))
      for name in (b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization",
                   b"Connection", b"X-Forwarded-For", b"Content_Length", b"Cookie",
                   b"Content-Type")),
    ok("last chunk first", "9112 §7.1", post(CHUNKED, b"0\r\n\r\n" + HIDDEN),
       posted(), Arrival(target=b"/hidden")),
    Question("chunk behind the last one", "9112 §7.1",
             post(CHUNKED, b"0\r\n\r\n5\r\nhello\r\n\r\n"), (posted(),), (200, 400), True),
]  # fmt: skip

_CONNECTIONS = [
    ok("close", "9112 §9.6", q(b"Connection: close\r\n"), Arrival(lacks=(b"connection",)),
       closes=True),
    ok("close among others", "9110 §7.6.1", q(b"Connection: A, CLOSE\r\nA: b\r\n"),
       Arrival(lacks=(b"connection", b"a")), closes=True),
    ok("close in a second line", "9110 §5.3", q(b"Connection: A\r\nConnection: close\r\n"),
       Arrival(lacks=(b"connection",)), closes=True),
    ok("close and what follows", "9112 §9.6", q(b"Connection: close\r\n", body=HIDDEN),
       closes=True),
    ok("keep-alive", "9112 §9.3", q(b"Connection: keep-alive\r\nKeep-Alive: timeout=9\r\n"),
       Arrival(lacks=(b"connection", b"keep-alive"))),
    ok("1.0", "9112 §9.3", q(line=b"GET / HTTP/1.0"), closes=True),
    ok("1.0 with keep-alive", "9112 §9.3",
       q(b"Connection: keep-alive\r\n", line=b"GET / HTTP/1.0")),
    ok("Proxy-Connection", "9110 §7.6.1", q(b"Proxy-Connection: close\r\n"),
       Arrival(lacks=(b"proxy-connection",))),
    ok("Connection of empty members", "9110 §5.6.1", q(b"Connection: ,, ,\r\n"),
       Arrival(lacks=(b"connection",))),
    ok("Connection names a field in another case", "9110 §7.6.1",
       q(b"Connection: x-SECRET\r\nX-Secret: 1\r\n"), Arrival(lacks=(b"x-secret",))),
    ok("Connection names our fields", "9110 §7.6.1",
       q(b"Connection: X-Forwarded-Proto, Via\r\nX-Forwarded-Proto: https\r\n"),
       Arrival(has=((b"x-forwarded-proto", b"http"),))),
    ok("h2c is not offered", "9110 §7.8",
       q(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"),
       Arrival(lacks=(b"upgrade", b"connection", b"http2-settings"))),
    ok("H2C among others", "9110 §7.8",
       q(b"Connection: Upgrade\r\nUpgrade: H2C, x\r\n"),
       Arrival(has=((b"upgrade", b"x"), (b"connection", b"Upgrade")))),
    ok("h2c with a version", "9110 §7.8", q(b"Connection: Upgrade\r\nUpgrade: h2c/2\r\n"),
       Arrival(lacks=(b"upgrade", b"connection"))),
    ok("h2c behind a space", "9110 §7.8", q(b"Connection: Upgrade\r\nUpgrade: x h2c\r\n"),
       Arrival(lacks=(b"upgrade", b"connection"))),
    ok("h2c in a second line", "9110 §7.8",
       q(b"Connection: Upgrade\r\nUpgrade: x\r\nUpgrade: h2c\r\n"),
       Arrival(has=((b"upgrade", b"x"),))),
    ok("upgrade that Connection does not name", "9110 §7.8", q(b"Upgrade: websocket\r\n"),
       Arrival(lacks=(b"upgrade", b"connection"))),
    ok("upgrade in 1.0", "9110 §7.8",
       q(b"Connection: keep-alive, Upgrade\r\nUpgrade: x\r\n", line=b"GET / HTTP/1.0"),
       Arrival(lacks=(b"upgrade", b"connection"))),
    ok("upgrade with a body", "9110 §7.8",
       post(b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n", HELLO),
       posted(HELLO, length=True)),
    ok("upgrade declined, and what follows", "9110 §7.8",
       q(b"Connection: Upgrade\r\nUpgrade: x\r\n", body=HIDDEN),
       Arrival(has=((b"upgrade", b"x"),)), Arrival(target=b"/hidden")),
    ok("TE: trailers", "9110 §10.1.4", q(b"TE: trailers\r\n"),
       Arrival(has=((b"te", b"trailers"), (b"connection", b"TE")))),
    ok("TE of other codings", "9110 §10.1.4", q(b"Connection: TE\r\nTE: gzip;q=1, deflate\r\n"),
       Arrival(lacks=(b"te", b"connection"))),
    ok("TE of trailers and more", "9110 §10.1.4", q(b"TE: gzip, trailers\r\n"),
       Arrival(has=((b"te", b"trailers"),))),
    ok("Expect", "9110 §10.1.1",
       post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", HELLO),
       Arrival(b"POST", b"/", HELLO, ((b"expect", b"100-continue"),))),
    ok("Expect in capitals", "9110 §10.1.1",
       post(b"Expect: 100-CONTINUE\r\nContent-Length: 5\r\n", HELLO),
       Arrival(b"POST", b"/", HELLO, ((b"expect", b"100-continue"),))),
    ok("Expect without a body", "9110 §10.1.1", q(b"Expect: 100-continue\r\n"),
       Arrival(lacks=(b"expect",))),
    ok("Expect in 1.0", "9110 §10.1.1",
       q(b"Expect: 100-continue\r\nContent-Length: 5\r\n", line=b"POST / HTTP/1.0", body=HELLO),
       Arrival(b"POST", b"/", HELLO, lacks=(b"expect",)), closes=True),
    ok("Expect of nobody in 1.0", "9110 §10.1.1",
       q(b"Expect: magic\r\n", line=b"GET / HTTP/1.0"), Arrival(lacks=(b"expect",)), closes=True),
    no("Expect of a miracle", "9110 §10.1.1", q(b"Expect: a miracle\r\n"), 417),
    no("Expect twice", "9110 §10.1.1",
       q(b"Expect: 100-continue\r\nExpect: 100-continue\r\n"), 417),
    no("Expect of two", "9110 §10.1.1", q(b"Expect: 100-continue, x\r\n"), 417),
    ok("Max-Forwards", "9110 §7.6.2", q(b"Max-Forwards: 3\r\n", line=b"OPTIONS / HTTP/1.1"),
       Arrival(b"OPTIONS", has=((b"max-forwards", b"2"),))),
    Question("OPTIONS that goes no further", "9110 §7.6.2",
             q(b"Max-Forwards: 0\r\n", line=b"OPTIONS / HTTP/1.1"), (), (200,)),
    Question("TRACE that goes no further", "9110 §9.3.8",
             q(b"Max-Forwards: 0\r\nCookie: a\r\n", line=b"TRACE / HTTP/1.1"), (), (200,)),
    ok("HEAD", "9110 §9.3.2", q(line=b"HEAD / HTTP/1.1"), Arrival(b"HEAD")),
    ok("Via of others", "9110 §7.6.3", q(b"Via: 1.0 x\r\n")),
    no("our own Via", "9110 §7.6.3", q(b"Via: 1.1 fairlead (t0k3n)\r\n"), 502, stays=True),
    ok("Proxy-Authorization", "9110 §11.7.2", q(b"Proxy-Authorization: Basic eDp5\r\n"),
       Arrival(lacks=(b"proxy-authorization",))),
]  # fmt: skip

QUESTIONS: tuple[Question, ...] = (
    *_LINES, *_ENDS, *_FIELDS, *_HOSTS, *_TARGETS, *_LENGTHS, *_CODINGS, *_CHUNKS, *_CONNECTIONS,
)  # fmt: skip

# -- answers


def r(fields: bytes = b"", body: bytes = b"", *, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + fields + b"\r\n" + body


LENGTH = b"Content-Length: 5\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
TRAILERS = b"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n"


def bad(name: str, clause: str, raw: bytes, *, ends: bool = False) -> Reply:
    """Answered 502; not a byte of it reaches a client."""
    return Reply(name, clause, raw, 502, ends=ends)


def good(
    name: str,
    clause: str,
    raw: bytes,
    body: bytes = HELLO,
    *,
    status: int = 200,
    kept: bool = True,
    **more: object,
) -> Reply:
    """Relayed; `kept`: nothing is in doubt, so the connection is used again."""
    return Reply(name, clause, raw, status, body, kept=kept, **more)  # type: ignore[arg-type]


def cut(name: str, clause: str, raw: bytes, *, ends: bool = False, **more: object) -> Reply:
    """The client sees that the body is not complete; or, when that was known before a byte was
    relayed, gets a 502."""
    return Reply(name, clause, raw, 200, cut=True, ends=ends, **more)  # type: ignore[arg-type]


FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

REPLIES: tuple[Reply, ...] = (
    good("length", "9112 §6.2", r(LENGTH, HELLO)),
    good("length with leading zeros", "9110 §8.6", r(b"Content-Length: 005\r\n", HELLO),
         has=((b"content-length", b"5"),)),
    good("chunked", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")),
    good("chunked with extensions", "9112 §7.1.1", r(CHUNKED, b"5;a=b\r\nhello\r\n0;c\r\n\r\n")),
    good("until the end", "9112 §6.3", r(b"", HELLO), kept=False, ends=True),
    good("until the end, in 1.0", "9112 §6.3", r(b"", HELLO, line=b"HTTP/1.0 200 OK"),
         kept=False, ends=True),
    good("until the end, for a 1.0 client", "9112 §6.3", r(b"", HELLO), kept=False, ends=True,
         asked=OLD),
    good("chunked, for a 1.0 client", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"),
         asked=OLD, lacks=(b"transfer-encoding",)),
    good("1.0 with a length", "9112 §9.3", r(LENGTH, HELLO, line=b"HTTP/1.0 200 OK"), kept=False),
    good("1.0 with keep-alive", "9112 §9.3",
         r(LENGTH + b"Connection: keep-alive\r\n", HELLO, line=b"HTTP/1.0 200 OK")),
    good("close", "9112 §9.6", r(LENGTH + b"Connection: close\r\n", HELLO), kept=False,
         lacks=(b"connection",)),
    good("close in capitals among others", "9112 §9.6",
         r(LENGTH + b"Connection: A, CLOSE\r\nA: b\r\n", HELLO), kept=False,
         lacks=(b"connection", b"a")),
    good("Connection names Content-Length", "9110 §7.6.1",
         r(LENGTH + b"Connection: Content-Length\r\n", HELLO), has=((b"content-length", b"5"),)),
    # -- what has no body
    good("HEAD", "9110 §9.3.2", r(LENGTH), b"", asked=HEAD, has=((b"content-length", b"5"),)),
    good("HEAD with a body all the same", "9112 §6.3", r(LENGTH, HELLO), b"", asked=HEAD,
         kept=False),
    good("HEAD with an answer behind it", "9112 §9.2", r(LENGTH, FORGED), b"", asked=HEAD,
         kept=False),
    good("HEAD of a chunked answer", "9112 §6.3", r(CHUNKED), b"", asked=HEAD,
         lacks=(b"transfer-encoding",)),
    good("204", "9110 §15.3.5", r(line=b"HTTP/1.1 204 No Content"), b"", status=204),
    good("204 with a length", "9110 §8.6", r(LENGTH, line=b"HTTP/1.1 204 No Content"), b"",
         status=204, lacks=(b"content-length",)),
    good("204 with a body", "9112 §6.3", r(LENGTH, HELLO, line=b"HTTP/1.1 204 No Content"), b"",
         status=204, kept=False, lacks=(b"content-length",)),
    good("204 that says chunked", "9112 §6.1", r(CHUNKED, line=b"HTTP/1.1 204 No Content"), b"",
         status=204, lacks=(b"transfer-encoding",)),
    good("304", "9110 §15.4.5", r(LENGTH, line=b"HTTP/1.1 304 Not Modified"), b"", status=304,
         has=((b"content-length", b"5"),)),
    good("304 with a body", "9112 §6.3", r(LENGTH, HELLO, line=b"HTTP/1.1 304 Not Modified"), b"",
         status=304, kept=False),
    good("304 that says chunked", "9112 §6.1", r(CHUNKED, line=b"HTTP/1.1 304 Not Modified"), b"",
         status=304, lacks=(b"transfer-encoding",)),
    good("205 with a length of nothing", "9110 §15.3.6",
         r(b"Content-Length: 0\r\n", line=b"HTTP/1.1 205 Reset"), b"", status=205),
    # -- what comes behind
    good("a byte behind a length", "9112 §6.3", r(LENGTH, HELLO + b"x"), kept=False),
    good("an answer behind a length", "9112 §9.2", r(LENGTH, HELLO + FORGED), kept=False),
    good("an empty line behind a length", "9112 §9.2", r(LENGTH, HELLO + b"\r\n"), kept=False),
    good("a byte behind the last chunk", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\n0\r\n\r\nx"),
         kept=False),
    good("an answer behind the last chunk", "9112 §9.2",
         r(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n" + FORGED), kept=False),
    good("an answer behind no body", "9112 §9.2", r(b"Content-Length: 0\r\n", FORGED), b"",
         kept=False),
    good("an answer behind a 204", "9112 §9.2",
         r(line=b"HTTP/1.1 204 No Content", body=FORGED), b"", status=204, kept=False),
    good("an answer in a body", "9112 §6.3", r(b"Content-Length: %d\r\n" % len(FORGED), FORGED),
         FORGED),
    good("an interim answer behind a length", "9112 §9.2",
         r(LENGTH, HELLO + b"HTTP/1.1 100 Continue\r\n\r\n"), kept=False),
    # -- lengths
    good("the same length twice", "9110 §8.6", r(LENGTH * 2, HELLO), kept=False),
    bad("two different lengths", "9112 §6.3", r(LENGTH + b"Content-Length: 6\r\n", HELLO)),
    *(bad(f"length {value.decode('latin-1')!r}", "9110 §8.6",
          r(b"Content-Length: " + value + b"\r\n", HELLO))
      for value in (b"+5", b"-5", b"5, 5", b"5,6", b"0x5", b"5 5", b"", b"five", b"1_0",
                    b"18446744073709551621")),
    cut("shorter than its length", "9112 §8", r(b"Content-Length: 6\r\n", HELLO), ends=True),
    bad("TE and CL", "9112 §6.1", r(CHUNKED + LENGTH, b"0\r\n\r\n")),
    bad("CL and TE", "9112 §6.1", r(LENGTH + CHUNKED, b"0\r\n\r\n")),
    bad("TE in 1.0", "9112 §6.1", r(CHUNKED, b"0\r\n\r\n", line=b"HTTP/1.0 200 OK")),
    bad("chunked twice", "9112 §6.1", r(CHUNKED * 2, b"0\r\n\r\n")),
    *(bad(f"coding {value.decode('latin-1')!r}", "9112 §6.1",
          r(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n"))
      for value in (b"gzip", b"gzip, chunked", b"identity", b"xchunked", b"chunked, identity",
                    b"\x0bchunked", b"", b"chunked;a")),
    # -- chunks
    cut("bad chunk size", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\nzz\r\n")),
    cut("sign before a chunk size", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\n-1\r\n")),
    cut("chunk longer than its size", "9112 §7.1", r(CHUNKED, b"4\r\nhello\r\n0\r\n\r\n")),
    cut("bare LF behind a chunk size", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\n0\n\n")),
    cut("size beyond 64 bits", "9112 §7.1", r(CHUNKED, b"5\r\nhello\r\n10000000000000000\r\n")),
    cut("no last chunk", "9112 §8", r(CHUNKED, b"5\r\nhello\r\n"), ends=True),
    cut("no last line", "9112 §8", r(CHUNKED, b"5\r\nhello\r\n0\r\n"), ends=True),
    cut("no last chunk, for a 1.0 client", "9112 §8", r(CHUNKED, b"5\r\nhello\r\n"), ends=True,
        asked=OLD),
    cut("folded trailer", "9112 §7.1.2", r(CHUNKED, b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n")),
    good("trailer that nobody takes", "9110 §6.5.1",
         r(CHUNKED, b"5\r\nhello\r\n0\r\nA: b\r\n\r\n")),
    good("trailer", "9110 §6.5", r(CHUNKED, b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"), asked=TRAILERS,
         trailers=((b"a", b"b"),)),
    good("length for a trailer", "9110 §6.5.1",
         r(CHUNKED, b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nA: b\r\n\r\n"), asked=TRAILERS,
         trailers=((b"a", b"b"),)),
    good("cookie for a trailer", "9110 §6.5.1",
         r(CHUNKED, b"5\r\nhello\r\n0\r\nSet-Cookie: a\r\nA: b\r\n\r\n"), asked=TRAILERS,
         trailers=((b"a", b"b"),)),
    # -- status lines
    good("no reason", "9112 §4", r(LENGTH, HELLO, line=b"HTTP/1.1 200 ")),
    good("no reason and no space", "9112 §4", r(LENGTH, HELLO, line=b"HTTP/1.1 200")),
    good("obs-text in the reason", "9112 §4", r(LENGTH, HELLO, line=b"HTTP/1.1 200 \xe9")),
    good("status 299", "9110 §15", r(LENGTH, HELLO, line=b"HTTP/1.1 299 Odd"), status=299),
    good("status 599", "9110 §15", r(LENGTH, HELLO, line=b"HTTP/1.1 599 Odd"), status=599),
    good("status 600", "9110 §15", r(LENGTH, HELLO, line=b"HTTP/1.1 600 Odd"), status=600),
    good("status 999", "9110 §15", r(LENGTH, HELLO, line=b"HTTP/1.1 999 Odd"), status=999),
    *(bad(f"status line {line.decode('latin-1')!r}", "9112 §4", r(LENGTH, HELLO, line=line))
      for line in (b"HTTP/1.1 99 Low", b"HTTP/1.1 099 Low", b"HTTP/1.1 000 Low",
                   b"HTTP/1.1 1000 High", b"HTTP/1.1 20 OK", b"HTTP/1.1 2xx OK", b"HTTP/1.1 -20 OK",
                   b"HTTP/1.1 +200 OK", b"HTTP/1.1 200OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK",
                   b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/2 200 OK", b"HTTP/2.0 200 OK",
                   b"HTTP/1.2 200 OK", b"http/1.1 200 OK", b" HTTP/1.1 200 OK", b"ICY 200 OK",
                   b"HTTP/1.1 \xb2\xb2\xb2 OK", b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\rK",
                   b"HTTP/1.1 200 OK\r", b"HTTP/1.1 200 O\x0bK", b"GET / HTTP/1.1")),
    bad("empty line first", "9112 §4", b"\r\n" + r(LENGTH, HELLO)),
    bad("TLS alert", "9112 §2.2", b"\x15\x03\x01\x00\x02\x02\x16"),
    bad("HTTP/0.9", "9112 §2.3", b"<html>hello</html>\n"),
    bad("greeting of SSH", "9112 §2.2", b"SSH-2.0-OpenSSH_9.6\r\n"),
    bad("greeting of SMTP", "9112 §2.2", b"220 mail.example ESMTP\r\n"),
    bad("HTTP/2 settings", "9113 §3.4", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
    # -- fields
    bad("bare LF behind the status line", "9112 §2.2",
        b"HTTP/1.1 200 OK\n" + LENGTH + b"\r\nhello"),
    bad("bare LF behind a field", "9112 §2.2", r(b"A: b\n" + LENGTH, HELLO)),
    bad("bare CR behind a field", "9112 §2.2", r(b"A: b\r" + LENGTH, HELLO)),
    good("every line ends in a bare LF", "9112 §2.2",
         b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", kept=False),
    bad("all lines but one end in a bare LF", "9112 §2.2",
        b"HTTP/1.1 200 OK\nA: b\r\nContent-Length: 5\n\nhello", ends=True),
    bad("splitting by a bare CR", "9112 §2.2",
        r(b"Location: /\rSet-Cookie: a\r\n" + LENGTH, HELLO)),
    bad("splitting by a bare LF", "9112 §2.2",
        r(b"Location: /\nSet-Cookie: a\r\n" + LENGTH, HELLO)),
    bad("folded field", "9112 §5.2", r(b"A: b\r\n c\r\n" + LENGTH, HELLO)),
    bad("folded coding", "9112 §5.2", r(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n")),
    bad("space before the colon", "9112 §5.1", r(b"Content-Length : 5\r\n", HELLO)),
    bad("space before the first field", "9112 §2.2", r(b" A: b\r\n" + LENGTH, HELLO)),
    bad("no colon", "9112 §5", r(b"Abc\r\n" + LENGTH, HELLO)),
    bad("no name", "9110 §5.1", r(b": b\r\n" + LENGTH, HELLO)),
    bad("NUL in a value", "9110 §5.5", r(b"A: \x00\r\n" + LENGTH, HELLO)),
    bad("control byte in a value", "9110 §5.5", r(b"A: \x1b\r\n" + LENGTH, HELLO)),
    bad("obs-text in a name", "9110 §5.1", r(b"\xe9: b\r\n" + LENGTH, HELLO)),
    bad("head of 65 KB", "9110 §5.4", r(b"A: " + b"b" * 66_000 + b"\r\n" + LENGTH, HELLO)),
    bad("head without an end", "9110 §5.4", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000),
    bad("half a head", "9112 §8", b"HTTP/1.1 200 OK\r\nConte", ends=True),
    good("obs-text in a value", "9110 §5.5", r(b"A: \xe9\r\n" + LENGTH, HELLO),
         has=((b"a", b"\xe9"),)),
    good("name with an underscore", "9110 §5.1", r(b"A_B: c\r\n" + LENGTH, HELLO),
         has=((b"a_b", b"c"),)),
    good("hop-by-hop fields", "9110 §7.6.1",
         r(LENGTH + b"Keep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nTE: x\r\n"
           b"Upgrade: x\r\n", HELLO),
         lacks=(b"keep-alive", b"proxy-authenticate", b"te", b"upgrade")),
    # -- interim answers
    good("100", "9110 §15.2.1", b"HTTP/1.1 100 Continue\r\n\r\n" + r(LENGTH, HELLO),
         interim=(100,)),
    good("103", "8297 §2", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + r(LENGTH, HELLO),
         interim=(103,)),
    good("twenty interim answers", "9110 §15.2",
         b"HTTP/1.1 102 Wait\r\n\r\n" * 20 + r(LENGTH, HELLO), interim=(102,) * 20),
    good("interim answers for a 1.0 client", "9110 §15.2",
         b"HTTP/1.1 100 Continue\r\n\r\n" + r(LENGTH, HELLO), asked=OLD),
    good("interim answer with a length", "9110 §8.6",
         b"HTTP/1.1 103 Early\r\n" + LENGTH + b"\r\n" + r(LENGTH, HELLO), interim=(103,)),
    good("interim answer that says chunked", "9112 §6.1",
         b"HTTP/1.1 103 Early\r\n" + CHUNKED + b"\r\n" + r(LENGTH, HELLO), interim=(103,)),
    Reply("interim answer with a body", "9112 §6.3",
          b"HTTP/1.1 103 Early\r\n" + LENGTH + b"\r\nhello" + r(LENGTH, HELLO), 502,
          interim=(103,)),
    Reply("interim answer and nothing more", "9110 §15.2", b"HTTP/1.1 103 Early\r\n\r\n", 502,
          interim=(103,), ends=True),
    bad("101 that nobody asked for", "9110 §15.2.2",
        b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
    bad("101 to something else", "9110 §7.8", b"HTTP/1.1 101 Go\r\nUpgrade: h2c\r\n\r\n" + FORGED),
)  # fmt: skip
