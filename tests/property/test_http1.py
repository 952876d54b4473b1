"""Laws of the HTTP/1.1 layer: cuts change nothing, memory changes nothing, and h11 agrees."""

from __future__ import annotations

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.engine.http1.body import ChunkedBody, LengthBody, UntilCloseBody, chunk, last_chunk
from proxy.engine.http1.parser import parse_request, parse_response
from proxy.errors import BAD_REQUEST, Refused
from proxy.http.properties import property_of
from tests.support.h11_peers import ANSWERS, RECEIVED, REQUESTS, SENT, converse, cut
from tests.support.wire import Wire

STREAM = b"".join(REQUESTS)

# -- bodies

tokens = st.sampled_from((b"A", b"x-B", b"a_b", b"x-forwarded-for", b"!#$%&'*+.^`|~"))
values = st.lists(
    st.sampled_from((b" ", b"\t", b"b", b":", b"\xe9", b"  c", b"\x00", b"\r", b"\x7f")), max_size=5
).map(b"".join)


@given(tokens, values, st.sampled_from((b"", b" ", b"\t")), st.booleans())
def test_a_trailer_is_written_as_the_same_field_is_in_a_head(
    name: bytes, value: bytes, before: bytes, named: bool
) -> None:
    """Or is not passed on: what was decided in the head stays so."""
    line = name + before + b":" + value + b"\r\n"
    connection = (name.lower(),) if named else ()
    body = ChunkedBody(BAD_REQUEST, frozenset(connection))
    refused = feed(body, [b"0\r\n" + line + b"\r\n"])[3]
    head = b"POST / HTTP/1.1\r\nHost: h\r\n" + b"".join(
        b"Connection: %b\r\n" % n for n in connection
    )
    try:
        fields = parse_request(head + line + b"\r\n", 128).fields
    except Refused:
        assert refused
    else:
        assert not refused
        assert body.trailers == fields.plain


def pieces_of(stream: bytes, places: list[int]) -> list[bytes]:
    return cut(stream, [place % (len(stream) + 1) for place in places])


def feed(reader: ChunkedBody | LengthBody, pieces: list[bytes]) -> tuple[bytes, bytes, bool, bool]:
    """Payload, what follows it, whether it ended, whether it was refused."""
    payload = rest = b""
    for piece in pieces:
        if reader.done:
            rest += piece
            continue
        try:
            got, rest = reader.feed(piece)
        except Refused:
            # What was handed over before depends on the cuts; that it is refused does not.
            return b"", b"", False, True
        payload += b"".join(got)
    return payload, rest, reader.done, False


chunked_bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6).map(
    lambda parts: b"".join(b"".join(chunk([part])) for part in parts) + last_chunk(b"")
)
nearly_chunked = st.lists(
    st.sampled_from(
        [b"0", b"1", b"a", b"F", b"x", b"\r\n", b"\r", b"\n", b";", b" ", b"0\r\n", b"\r\n\r\n",
         b"1\r\nx\r\n", b"T: v\r\n", b"0\r\n\r\n", b"g", b"-", b"\x00", b"abcdefghijklmno"]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip
places = st.lists(st.integers(0, 10_000), max_size=8)


@given(chunked_bodies, st.binary(max_size=20), places)
def test_a_chunked_body_is_the_same_however_it_is_cut(
    body: bytes, behind: bytes, where: list[int]
) -> None:
    whole = feed(ChunkedBody(BAD_REQUEST), [body + behind])
    assert whole[1:] == (behind, True, False)
    assert feed(ChunkedBody(BAD_REQUEST), pieces_of(body + behind, where)) == whole


@given(nearly_chunked, places)
@example(b"1;" + b"x" * 254 + b"\r\nx\r\n0\r\n\r\n", [257])
@example(b"1;" + b"x" * 255 + b"\r\nx\r\n0\r\n\r\n", [258])
@example(b"0\r\nT: " + b"x" * 8189 + b"\r\n\r\n", [8196])
def test_refusals_do_not_depend_on_the_cuts(stream: bytes, where: list[int]) -> None:
    assert feed(ChunkedBody(BAD_REQUEST), pieces_of(stream, where)) == feed(
        ChunkedBody(BAD_REQUEST), [stream] if stream else []
    )


@given(nearly_chunked)
def test_other_readers_of_a_chunked_body_read_the_same(stream: bytes) -> None:
    """Wherever ours accepts, h11 finds the same payload and the same end."""
    payload, rest, done, refused = feed(ChunkedBody(BAD_REQUEST), [stream] if stream else [])
    if refused or not done:
        return
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + stream)
    assert isinstance(conn.next_event(), h11.Request)
    theirs = b""
    while isinstance(event := conn.next_event(), h11.Data):
        theirs += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert theirs == payload
    assert conn.trailing_data[0] == rest


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_chunk_and_read_is_the_identity(parts: list[bytes]) -> None:
    stream = b"".join(chunk(parts)) + last_chunk(b"")
    assert feed(ChunkedBody(BAD_REQUEST), [stream]) == (b"".join(parts), b"", True, False)


@given(st.binary(max_size=60), st.integers(1, 60), places)
def test_a_length_is_the_same_however_it_is_cut(
    stream: bytes, length: int, where: list[int]
) -> None:
    got = feed(LengthBody(length), pieces_of(stream, where))
    assert got == (stream[:length], stream[length:], len(stream) >= length, False)


@given(st.binary(min_size=1))
def test_a_body_until_close_has_no_end_of_its_own(data: bytes) -> None:
    reader = UntilCloseBody()
    assert reader.feed(data) == ([data], b"")
    assert not reader.done


# -- heads

token = st.text("abcXYZ019-!#$%&'*+.^`|~", min_size=1, max_size=8).map(str.encode)
value = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"),
                max_size=12).map(lambda text: text.encode("latin-1"))  # fmt: skip
line = st.one_of(
    st.tuples(token, value).map(lambda pair: b"%b: %b" % pair),
    st.sampled_from(
        [b"Host: h", b"Host: other", b"Content-Length: 5", b"Content-Length: 05",
         b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: ", b"content-length:6",
         b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED ", b"Transfer-Encoding: gzip",
         b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
         b"Connection: close", b"Connection: keep-alive", b"Connection: a, CLOSE",
         b"Content-Length : 5", b" folded", b"\tfolded", b"NoColon", b": none", b"X:\x00",
         b"X: a\rb", b"X: a\nb", b"X:\x0b", b"A_B: c", b"X:"]
    ),
)  # fmt: skip
request_line = st.one_of(
    st.sampled_from([b"GET / HTTP/1.1", b"POST /x?y HTTP/1.1", b"GET / HTTP/1.0"]),
    st.tuples(token, st.sampled_from([b"/", b"*", b"/%41", b"http://h/", b"/\xff", b"/a b", b""]),
              st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1"]),
              ).map(b" ".join),
)  # fmt: skip
status_line = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 404", b"HTTP/1.1 500 ", b"HTTP/1.1 2000 x",
     b"HTTP/1.1 20", b"HTTP/2.0 200 OK", b"HTTP/1.1 200 \xe9", b"HTTP/1.1 200 a\x00", b"x"]
)  # fmt: skip


def head(first: bytes, lines: list[bytes]) -> bytes:
    return b"\r\n".join([first, *lines]) + b"\r\n\r\n"


def known(fields: object) -> dict[str, object]:
    # Not vars(): a compiled class has no __dict__.
    names = [name for name in dir(fields) if not name.startswith("_")]
    values = {name: getattr(fields, name) for name in names}
    return {name: value for name, value in values.items() if not callable(value)}


@given(request_line, st.lists(line, max_size=5))
def test_requests_are_understood_as_h11_does_or_refused(first: bytes, lines: list[bytes]) -> None:
    """Ours is nowhere more lenient, but for two things that change no boundary: targets may be
    any visible ASCII but `#`, and a higher minor version is taken for 1.1 (RFC 9110 §2.5)."""
    raw = head(first, lines)
    try:
        ours = parse_request(raw, 128)
    except Refused:
        return
    if first.endswith(b"HTTP/1.2"):
        raw = head(first[:-1] + b"1", lines)
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(raw)
    theirs = conn.next_event()  # h11.RemoteProtocolError would be a finding.
    assert isinstance(theirs, h11.Request)
    assert (theirs.method, theirs.target) == (ours.method, ours.target)
    assert int(theirs.http_version[2:]) == ours.minor
    special = {b"host", b"content-length", b"transfer-encoding", b"connection"}
    plain = [(n, v) for n, v in theirs.headers if n not in special and b"_" not in n]
    hop = {b"te", b"upgrade", b"via", b"expect", b"trailer", b"keep-alive"}
    assert [(n.lower(), v) for n, v in ours.fields.pairs] == [p for p in plain if p[0] not in hop]
    lengths = [v for n, v in theirs.headers if n == b"content-length"]
    assert ours.fields.length == (int(lengths[0]) if lengths else None)
    assert ours.fields.chunked == any(n == b"transfer-encoding" for n, _ in theirs.headers)


@given(status_line, st.lists(line, max_size=5))
def test_responses_are_understood_as_h11_does_or_refused(first: bytes, lines: list[bytes]) -> None:
    raw = head(first, lines)
    try:
        ours = parse_response(raw)
    except Refused:
        return
    conn = h11.Connection(h11.CLIENT)
    conn.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    conn.send(h11.EndOfMessage())
    conn.receive_data(raw)
    theirs = conn.next_event()
    assert isinstance(theirs, h11.Response)
    assert theirs.status_code == ours.status
    lengths = [v for n, v in theirs.headers if n == b"content-length"]
    assert ours.fields.length == (int(lengths[0]) if lengths else None)
    assert ours.fields.chunked == any(n == b"transfer-encoding" for n, _ in theirs.headers)


@given(request_line, st.lists(st.lists(line, max_size=4), min_size=1, max_size=4))
def test_requests_parsed_before_change_nothing(first: bytes, blocks: list[list[bytes]]) -> None:
    def outcome(lines: list[bytes]) -> object:
        try:
            parsed = parse_request(head(first, lines), 128)
        except Refused as refusal:
            return refusal.fault, refusal.detail
        return parsed.method, parsed.target, parsed.minor, known(parsed.fields)

    before = [outcome(lines) for lines in blocks]
    for lines in reversed(blocks):
        outcome(lines)
    for number in range(600):  # More than is remembered.
        parse_request(head(b"GET / HTTP/1.1", [b"Host: h", b"X-Evict: %d" % number]), 128)
    assert [outcome(lines) for lines in blocks] == before
    assert [outcome(lines) for lines in blocks] == before


# -- everything together


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.lists(places, min_size=6, max_size=6))
def test_a_conversation_does_not_depend_on_the_cuts(
    where: list[int], answers: list[list[int]]
) -> None:
    wire = Wire()
    cut_answers = [pieces_of(answer, p) for answer, p in zip(ANSWERS, answers, strict=True)]
    seen, got = converse(wire, cut(STREAM, where), cut_answers)
    assert tuple(seen) == SENT
    assert tuple(got) == RECEIVED
    wire.done()


# -- what keys are made of


@given(
    st.sampled_from(["cookie", "query"]),
    st.sampled_from(["a", "b", "a.b", "+", ""]),
    st.lists(st.sampled_from([b"a", b"b", b".", b"+", b"=", b";", b"&", b" ", b"\t"]), max_size=30),
)
def test_a_pair_is_found_as_by_reading_one_after_the_other(
    where: str, name: str, parts: list[bytes]
) -> None:
    text = b"".join(parts).strip()
    separator = b";" if where == "cookie" else b"&"
    pairs = [pair.strip().partition(b"=") for pair in text.split(separator)]
    wanted = next((value for key, mark, value in pairs if mark and key == name.encode()), None)
    fields = parse_request(head(b"GET / HTTP/1.1", [b"Host: h", b"Cookie: " + text]), 128).fields
    query = b"?" + text if where == "query" else b""
    assert property_of((where, name), fields, "/", query, False) == wanted
