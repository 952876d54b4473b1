"""Targets, rewriting, framing, and the proxy's own answers: pure functions, by example."""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from time import time

import pytest

from proxy.engine.http1.heads import (
    BY_CHUNKS,
    BY_CLOSE,
    BY_LENGTH,
    NO_BODY,
    interim_head,
    own_answer,
    request_head,
    response_framing,
    response_head,
    switching_head,
)
from proxy.engine.http1.parser import parse_request, parse_response
from proxy.engine.own_answers import problem
from proxy.errors import BAD_REQUEST, FAULTS, METHOD_NOT_ALLOWED, Fault, Refused
from proxy.http.client_address import ClientAddresses
from proxy.http.dates import http_date
from proxy.http.forwarding import ClientFacts, offered_upgrade
from proxy.http.messages import RequestHead
from proxy.http.properties import property_of, source_of
from proxy.http.target import as_it_came, barest, readings, resolve
from tests.support.sizes import deep_size


def get(
    target: bytes, method: bytes = b"GET", host: bytes = b"h", more: bytes = b""
) -> RequestHead:
    raw = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, more)
    return parse_request(raw, 128)


@pytest.mark.parametrize(
    ("target", "path", "query", "as_received"),
    [
        (b"/", "/", b"", True),
        (b"/a/b?c=d", "/a/b", b"?c=d", True),
        (b"/a?", "/a", b"?", True),
        (b"/a?b?/../%zz", "/a", b"?b?/../%zz", True),
        (b"//a//b/", "//a//b/", b"", True),
        (b"/%41%7e", "/A~", b"", False),
        (b"/%e2%82%ac", "/%E2%82%AC", b"", False),
        (b"/%2F", "/%2F", b"", True),
        (b"/%2f%5c", "/%2f%5c", b"", True),
        (b"/a/./b", "/a/b", b"", False),
        (b"/a/../b", "/b", b"", False),
        (b"/a/..", "/", b"", False),
        (b"/a/b/..", "/a/", b"", False),
        (b"/a/b/.", "/a/b/", b"", False),
        (b"/..", "/", b"", False),
        (b"/../../../etc/passwd", "/etc/passwd", b"", False),
        (b"/a/%2e%2e/b", "/b", b"", False),
        (b"/a/%2E./b", "/b", b"", False),
        (b"/a/.%2e/%2e/b", "/b", b"", False),
        (b"/a/%252e%252e/b", "/a/%252e%252e/b", b"", True),
        (b"/...", "/...", b"", True),
        (b"/.well-known", "/.well-known", b"", True),
        (b"/a..b/c", "/a..b/c", b"", True),
        (b"http://h/a/../b?c", "/b", b"?c", False),
        (b"http://h", "/", b"", False),
        (b"http://h?q", "/", b"?q", False),
        (b"HTTPS://H/x", "/x", b"", False),
    ],
)
def test_targets(target: bytes, path: str, query: bytes, as_received: bool) -> None:
    assert resolve(get(target))[:3] == (path, query, as_received)
    # What comes out is a fixed point: the instance resolves it to itself.
    assert resolve(get(path.encode() + query))[:3] == (path, query, True)


@pytest.mark.parametrize(
    ("method", "target", "host", "fault"),
    [
        (b"GET", b"/%", b"h", BAD_REQUEST),
        (b"GET", b"/%4", b"h", BAD_REQUEST),
        (b"GET", b"/%zz", b"h", BAD_REQUEST),
        (b"GET", b"/%00", b"h", BAD_REQUEST),
        (b"GET", b"/a\\b", b"h", BAD_REQUEST),
        (b"GET", b"/..\\..", b"h", BAD_REQUEST),
        (b"GET", b"a", b"h", BAD_REQUEST),
        (b"GET", b"?a", b"h", BAD_REQUEST),
        (b"GET", b"*", b"h", BAD_REQUEST),
        (b"GET", b"ftp://h/", b"h", BAD_REQUEST),
        (b"GET", b"http:///", b"h", BAD_REQUEST),
        (b"GET", b"http://u@h/", b"h", BAD_REQUEST),
        (b"GET", b"http://other/", b"h", BAD_REQUEST),
        (b"GET", b"http://h:80/", b"h", BAD_REQUEST),
        (b"GET", b"http:/h/", b"h", BAD_REQUEST),
        (b"CONNECT", b"h:443", b"h:443", METHOD_NOT_ALLOWED),
        (b"CONNECT", b"/", b"h", METHOD_NOT_ALLOWED),
    ],
)
def test_refused_targets(method: bytes, target: bytes, host: bytes, fault: Fault) -> None:
    with pytest.raises(Refused) as refused:
        resolve(get(target, method, host))
    assert refused.value.fault is fault


def test_other_readings_of_a_path_are_not_kept_with_a_request() -> None:
    """They may be sixteen paths, and a connection keeps its latest request while it is idle."""
    odd, plain = get(b"/a;b"), get(b"/a")
    assert resolve(odd)[3]
    assert odd.resolved is None
    assert resolve(plain) == plain.resolved


def test_options_about_the_server_as_a_whole() -> None:
    assert resolve(get(b"*", b"OPTIONS")) == ("/", b"", True, None)


@pytest.mark.parametrize(
    ("path", "others"),
    [
        ("/a", ()),
        ("/a/b.c/.d", ()),
        ("/caf%C3%A9/%20", ()),
        ("/a%252Fb", ()),
        ("/a%2Fb", ("/a/b",)),
        ("/a%5Cb", ("/a/b",)),
        ("/a%2f%5cb", ("/a//b", "/a/b")),
        ("/a%3Ab%40", ("/a:b@",)),
        ("//a", ("/a",)),
        ("/a//b/", ("/a/b/",)),
        ("/a;x=1/b", ("/a/b",)),
        ("/p/..%2Fa", ("/a", "/p/../a")),
        ("/p/..;x/a", ("/a", "/p/../a")),
        ("/p/%2F..", ("/", "/p/", "/p/..", "/p//..")),
    ],
)
def test_other_readings_of_a_path_are_all_found(path: str, others: tuple[str, ...]) -> None:
    assert set(readings(path)) >= set(others)
    assert bool(readings(path)) == bool(others)
    assert path not in readings(path)


@pytest.mark.parametrize(
    "path",
    [
        "/login",
        "//login",
        "/login;a=1",
        "/;b/login",
        "/x/..%2Flogin",
        "/x%5C..%5c/login;c",
        "/%2flogin",
    ],
)
def test_a_key_is_the_same_for_all_spellings_of_a_path(path: str) -> None:
    fields = get(b"/").fields
    assert property_of(source_of("path"), fields, path, b"", False) == b"/login"
    assert barest(path) in {path, *readings(path)}


def test_only_paths_that_are_unusual_are_looked_at_again() -> None:
    for plain in (b"/", b"/a/b-c_d~e.f", b"/a:b@c+d,e=f", b"/a?//%2F;x"):
        assert resolve(get(plain))[3] is None
    for odd in (b"/a%20b", b"//a", b"/a;b", b"/.a", b"/a%2fb"):
        assert resolve(get(odd))[3] is not None


def test_a_path_that_may_be_read_in_many_ways_is_refused() -> None:
    assert len(readings("/a%2Fb//c;d/e")) == 7
    with pytest.raises(Refused):
        readings(("/a/../%2F;..;/" * 600)[:8000])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/%41%7e/x", b"/%41%7e/x"),
        (b"/a%2fb?q=%41", b"/a%2fb"),
        (b"/caf%c3%a9", b"/caf%c3%a9"),
        (b"http://h/%61", b"/%61"),
        (b"//a//b", b"//a//b"),
    ],
)
def test_a_path_that_goes_on_as_it_came(target: bytes, path: bytes) -> None:
    request = get(target)
    assert as_it_came(request, resolve(request)[0]) == path


@pytest.mark.parametrize("target", [b"/a/../b", b"/a/%2e%2e/b", b"/./a", b"//a//b"])
def test_a_path_that_may_not_go_on_as_it_came(target: bytes) -> None:
    request = get(target)
    with pytest.raises(Refused) as refused:
        as_it_came(request, resolve(request, merge_slashes=True)[0])
    assert refused.value.fault is BAD_REQUEST


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"//a//b///", "/a/b/"), (b"/a//../b", "/b"), (b"/a/%2e//x", "/a/x"), (b"/a%2F/b", "/a%2F/b")],
)
def test_slashes_are_merged_before_dots_are_resolved(target: bytes, path: str) -> None:
    assert resolve(get(target), merge_slashes=True)[:3] == (path, b"", target == path.encode())


@pytest.mark.parametrize(
    ("more", "minor", "offered"),
    [
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 1, b"websocket"),
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 0, None),
        (b"Upgrade: websocket\r\n", 1, None),
        (b"Connection: upgrade\r\nUpgrade: H2C , a,, HTTP/2.0, tls/1.2, b\r\n", 1, b"a, b"),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n", 1, None),
        (b"Connection: upgrade\r\nUpgrade: " + b"a," * 15 + b"b\r\n", 1, b"a, " * 15 + b"b"),
        (b"Connection: upgrade\r\nUpgrade: " + b"a," * 16 + b"b\r\n", 1, None),
        (b"Connection: upgrade\r\nUpgrade:\r\n", 1, None),
        (b"Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 1\r\n", 1, None),
        (b"Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 0\r\n", 1, b"a"),
    ],
)
def test_offered_upgrades(more: bytes, minor: int, offered: bytes | None) -> None:
    raw = b"GET / HTTP/1.%d\r\nHost: h\r\n%b\r\n" % (minor, more)
    assert offered_upgrade(parse_request(raw, 128)) == offered


def test_the_memory_of_a_clients_facts_follows_what_it_depends_on() -> None:
    """Each combination twice, in both orders, against facts that remember nothing."""
    requests = [
        get(b"/", host=host, more=more)
        for host in (b"a", b"b")
        for more in (b"", b"X: 1\r\n", b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: s\r\n")
    ]
    for trusted in (None, ClientAddresses((), "X-Forwarded-For", 0)):
        memory = ClientFacts("10.0.0.9", 80, trusted, b"Via: 1.1 x\r\n")
        cases = [(request, set_host) for request in requests for set_host in (None, "in", "out")]
        for request, set_host in (*cases, *reversed(cases), *cases[::2]):
            fresh = ClientFacts("10.0.0.9", 80, trusted, b"Via: 1.1 x\r\n")
            assert memory.tail(request.fields, set_host) == fresh.tail(request.fields, set_host)


@pytest.mark.parametrize("trusted", [None, ClientAddresses((), "X-Forwarded-For", 0)])
def test_a_client_does_not_keep_a_head_of_many_kilobytes(trusted: ClientAddresses | None) -> None:
    facts = ClientFacts("10.0.0.9", 80, trusted, b"Via: 1.1 x\r\n")
    small = get(b"/", more=b"X: 1\r\n").fields
    kept = facts.tail(small, None)
    large = b"y" * 30_000
    for more in (b"X: " + large, b"X-Forwarded-For: " + large, b"X-Client-DN: " + large):
        fields = get(b"/", more=more + b"\r\n").fields
        tail = facts.tail(fields, None)
        assert (large in tail) == (trusted is not None or more.startswith(b"X:"))
        assert facts.tail(fields, None) == tail
        assert deep_size(facts) < 30_000
    assert large in facts.tail(get(b"/", host=large).fields, None)
    assert deep_size(facts) < 30_000
    assert facts.tail(small, None) == kept


def test_clients_that_share_a_block_do_not_share_an_address() -> None:
    heads = set()
    for address in ("10.0.0.1", "10.0.0.2"):
        facts = ClientFacts(address, 80, None, b"")
        heads.add(request_head(get(b"/"), b"/", None, b"id", b"", facts))
    assert len(heads) == 2


@pytest.mark.parametrize(
    ("method", "minor", "answer", "framing"),
    [
        (b"GET", 1, b"200 OK\r\nContent-Length: 3\r\n", BY_LENGTH),
        (b"GET", 1, b"200 OK\r\nTransfer-Encoding: chunked\r\n", BY_CHUNKS),
        (b"GET", 1, b"200 OK\r\n", BY_CHUNKS),
        (b"GET", 0, b"200 OK\r\n", BY_CLOSE),
        (b"GET", 0, b"200 OK\r\nTransfer-Encoding: chunked\r\n", BY_CLOSE),
        (b"GET", 0, b"200 OK\r\nContent-Length: 3\r\n", BY_LENGTH),
        (b"HEAD", 1, b"200 OK\r\nContent-Length: 3\r\n", NO_BODY),
        (b"GET", 1, b"204 No\r\n", NO_BODY),
        (b"GET", 1, b"304 No\r\nContent-Length: 3\r\n", NO_BODY),
        (b"POST", 1, b"205 Reset\r\nContent-Length: 0\r\n", BY_LENGTH),
    ],
)
@pytest.mark.parametrize("keep_alive", [True, False])
def test_framing_of_answers(
    method: bytes, minor: int, answer: bytes, framing: int, keep_alive: bool
) -> None:
    response = parse_response(b"HTTP/1.1 " + answer + b"\r\n")
    assert response_framing(response, method, minor) == framing
    raw = response_head(response, b"X-Request-ID: r\r\n", framing, minor, keep_alive)
    parsed = parse_response(raw)  # What we write, we accept.
    assert parsed.fields.chunked == (framing == BY_CHUNKS)
    assert (b"Connection: close" in raw) == (not keep_alive)
    assert (b"Connection: keep-alive" in raw) == (keep_alive and minor == 0)
    assert raw.endswith(b"Via: 1.1 fairlead\r\n\r\n")
    assert raw.count(b"\r\nX-Request-ID: r\r\n") == 1
    if framing == BY_LENGTH:
        assert parsed.fields.length == response.fields.length
    if framing in (BY_CHUNKS, BY_CLOSE):
        assert parsed.fields.length is None


DATED = "Date: Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("status", [200, 204, 304, 404, 426, 503])
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ("", False),
        ("Content-Length: 0", False),
        ("Last-Modified: Date: x\r\nX-Date: y\r\nUp-Date: z", False),
        ("Upgrade: x", False),
        (f"{DATED}\r\nConnection: Date", False),
        (DATED, True),
        (f"A: b\r\n{DATED}\r\nContent-Length: 0", True),
        (f"A: b\r\n{DATED.lower()}", True),
        (f"{DATED}\r\n{DATED}", True),
    ],
)
def test_an_answer_without_a_date_gets_one(
    fields: str, kept: bool, status: int, keep_alive: bool, minor: int
) -> None:
    block = f"{fields}\r\n\r\n" if fields else "\r\n"
    response = parse_response(f"HTTP/1.1 {status} X\r\n{block}".encode())
    framing = response_framing(response, b"GET", minor)
    before = time()
    raw = response_head(response, b"", framing, minor, keep_alive)
    dates = re.findall(rb"(?<=\n)date:([^\r]*)", raw, re.IGNORECASE)
    if kept:
        assert dates == re.findall(rb"(?<=\n)date:([^\r]*)", b"\n" + block.encode(), re.IGNORECASE)
    else:
        [date] = dates
        assert int(before) <= parsedate_to_datetime(date.decode()).timestamp() <= time()


def test_interim_answers_get_no_date() -> None:
    early = parse_response(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n")
    assert b"Date" not in interim_head(early)
    switch = parse_response(b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n")
    assert b"Date" not in switching_head(switch, b"")


def test_a_date_is_that_of_its_second() -> None:
    assert http_date(784111777.0) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(784111777.9) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(784111778.0) == b"Sun, 06 Nov 1994 08:49:38 GMT"
    assert http_date(0.0) == b"Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_reply_for_every_fault(fault: Fault) -> None:
    answer = problem(fault, 'why "quoted" é', "r")
    raw = own_answer(answer, b"X-ID: r\r\n", False, 1, not fault.closes)
    head, _, body = raw.partition(b"\r\n\r\n")
    response = parse_response(head + b"\r\n\r\n")
    assert response.status == fault.status
    assert response.fields.length == len(body)
    assert response.fields.get(b"x-id") == b"r"
    assert response.fields.get(b"content-type") == b"application/problem+json"
    said = f'fairlead; error={fault.error}; details="{fault.code}"'
    assert response.fields.get(b"proxy-status") == said.encode()
    assert response.fields.keeps_alive[1] is not fault.closes
    document = json.loads(body)
    assert document["status"] == fault.status
    assert (document["error"], document["code"]) == (fault.error, fault.code)
    assert document["detail"] == 'why "quoted" é'
    if fault.status in (429, 503):
        assert int(response.fields.get(b"retry-after") or b"0") > 0
    for_head = own_answer(answer, b"", True, 0, True)
    assert for_head.endswith(b"\r\n\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in for_head


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (("Cookie: id=1",), b"1"),
        (("Cookie: a=b; id=1",), b"1"),
        (("Cookie: a=b", "Cookie: id=1"), b"1"),
        (("Cookie: a=b", "X: y", "cookie: c=d;id=1;e=f"), b"1"),
        (("Cookie: id=1", "Cookie: id=2"), b"1"),
        (("Cookie: id=1; id=2",), b"1"),
        (("Cookie: id=a,b",), b"a,b"),
        (("Cookie: id=",), b""),
        (("Cookie: id",), None),
        (("Cookie: Id=1", "Cookie: xid=1"), None),
        (("Cookie: a=1, id=1",), None),
        ((), None),
    ],
)
def test_a_cookie_may_stand_in_any_cookie_line(lines: tuple[str, ...], value: bytes | None) -> None:
    block = "".join(f"{line}\r\n" for line in lines).encode()
    fields = parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n" + block + b"\r\n", 128).fields
    assert property_of(source_of("cookie:id"), fields, "/", b"", False) == value
