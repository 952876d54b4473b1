"""Laws of HTTP/2: cuts change nothing, memory changes nothing, other implementations agree, and
what is read can be written as HTTP/1 without becoming anything else."""

from __future__ import annotations

import hpack
import ngh2
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.http1.heads import request_head
from proxy.engine.http1.parser import parse_request, parse_response
from proxy.errors import Refused
from proxy.http.fields import USUAL_IDS
from proxy.http.forwarding import ClientFacts
from proxy.http2 import frames
from proxy.http2.blocks import answer_block, fields_block
from proxy.http2.errors import GoAway, Malformed
from proxy.http2.frame_list import FrameList
from proxy.http2.heads import AnswerReader, RequestReader
from proxy.http2.hpack import NO_TABLE, encode
from tests.support.frame_cases import FRAME_CASES, START, Frame, merged

Pairs = list[tuple[bytes, bytes]]

# -- frames

sentences = st.sampled_from([case.raw for case in FRAME_CASES if not case.bare])
scripts = st.lists(st.one_of(sentences, sentences, st.binary(max_size=20)), max_size=8)
places = st.lists(st.integers(0, 100_000), max_size=8)


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(at % (len(stream) + 1) for at in cuts)
    return [stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True) if b > a]


def heard(pieces: list[bytes]) -> tuple[list[Frame], int]:
    reader = FrameList(of_client=True, max_block=1000)
    try:
        for piece in pieces:
            reader.feed(piece)
            while reader.behind:
                reader.feed(b"")
    except GoAway as error:
        return merged(reader.frames), error.code
    return merged(reader.frames), -1


@given(scripts, places)
def test_a_connection_does_not_depend_on_the_cuts(script: list[bytes], cuts: list[int]) -> None:
    stream = START + b"".join(script)
    assert heard(pieces_of(stream, cuts)) == heard([stream])


# -- heads

NAMES = (
    b"a", b"x-long-name", b"cookie", b"te", b"content-length", b"x-forwarded-for", b"x_y", b"host",
    b"via", b"expect", b"connection", b"transfer-encoding", b"Upper", b"", b"n\r\nx", b"n: x",
)  # fmt: skip
VALUES = (
    b"", b"1", b"5", b"trailers", b"h", b"v" * 60, b" v", b"v\t", b"v\r\nx: y", b"\0", b"\xe9 \t.",
    b"100-continue", b"chunked", b"close",
)  # fmt: skip
names = st.one_of(st.sampled_from(NAMES), st.binary(max_size=5))
values = st.one_of(st.sampled_from(VALUES), st.binary(max_size=12))
others = st.lists(st.tuples(names, values), max_size=5)
methods = st.sampled_from((b"GET", b"GET", b"POST", b"OPTIONS", b"CONNECT", b"a b", b"X"))
paths = st.one_of(
    st.sampled_from((b"/", b"/a?b", b"*", b"", b"/ x", b"/\r\n", b"http://h/")),
    st.binary(max_size=5),
)
starts = st.tuples(
    methods.map(lambda value: (b":method", value)),
    st.sampled_from((b"http", b"https")).map(lambda value: (b":scheme", value)),
    paths.map(lambda value: (b":path", value)),
    st.sampled_from((b"h", b"h:80", b"u@h", b"h\r\n", b"")).map(lambda v: (b":authority", v)),
)
heads = st.tuples(starts, others).map(lambda it: [*it[0], *it[1]])
Outcome = tuple[object, ...]


def outcome(reader: RequestReader, block: bytes, end: bool) -> Outcome:
    try:
        head = reader.read(block, end)
    except (GoAway, Malformed, Refused) as error:
        return type(error), str(error)
    fields = head.fields
    return head.method, head.target, fields.host, fields.passed, fields.length, fields.chunked


@given(
    st.lists(heads, min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from((None, None, 0, 4096))),
        max_size=12,
    ),
)
def test_memory_of_heads_changes_nothing(
    several: list[Pairs], turns: list[tuple[int, bool, int | None]]
) -> None:
    encoder = hpack.Encoder()
    remembers = RequestReader(USUAL_IDS, 32768, 128)
    forgets = RequestReader(USUAL_IDS, 32768, 128)
    for which, end, size in turns:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(several[which % len(several)])
        forgets._memo.clear()
        for _ in range(2):
            forgets._memo.clear()
            assert outcome(remembers, block, end) == outcome(forgets, block, end)


@given(heads, st.booleans())
def test_a_head_that_is_read_means_the_same_as_lines(pairs: Pairs, end: bool) -> None:
    """Nothing that HTTP/2 may hold becomes another line, field or body in HTTP/1."""
    reader = RequestReader(USUAL_IDS, 32768, 128)
    try:
        head = reader.read(hpack.Encoder().encode(pairs), end)
    except (Malformed, Refused):
        return
    facts = ClientFacts("10.0.0.1", 80, None, b"")
    lines = request_head(head, head.target, None, b"", b"", facts)
    again = parse_request(lines, 256)
    assert (again.method, again.target) == (head.method, head.target)
    assert again.fields.host == head.fields.host == pairs[3][1]
    assert again.fields.pairs == head.fields.pairs
    assert again.fields.length == head.fields.length
    assert again.fields.chunked == head.fields.chunked
    assert not (end and again.fields.chunked)
    assert again.fields.count <= len(pairs) + 12


answer_lines = st.lists(
    st.tuples(
        st.sampled_from((b"A", b"x-B", b"Set-Cookie", b"Date", b"Via", b"Connection", b"A_b")),
        st.sampled_from((b"", b"1", b"x-b", b"close", b"a, b", b"\xe9")),
    ),
    max_size=8,
)


@given(answer_lines, st.sampled_from((b"200", b"404", b"299")))
def test_an_answer_of_http1_is_read_back_as_it_was(pairs: Pairs, status: bytes) -> None:
    raw = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
    head = parse_response(b"HTTP/1.1 %b OK\r\nContent-Length: 5\r\n%b\r\n" % (status, raw))
    block = answer_block(head, b"", b"")
    again = AnswerReader(65536, 256).read(block, False, USUAL_IDS)
    assert (again.status, again.fields.length) == (head.status, 5)
    assert again.fields.via == head.fields.via
    plain = head.fields.plain if head.fields.dated else head.fields.plain + b"Date: "
    assert again.fields.plain.lower().startswith(plain.lower())


# -- another implementation

good_names = st.sampled_from((b"a", b"x-long-name", b"cookie", b"accept", b"user-agent"))
good_values = st.sampled_from((b"", b"1", b"v" * 60, b"v" * 3000, b"\xe9"))
good_fields = st.lists(st.tuples(good_names, good_values), max_size=6)
contents = st.lists(st.sampled_from((b"", b"x", b"y" * 20_000)), max_size=3)
START_OF_GET = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"h"),
]  # fmt: skip


@given(st.lists(st.tuples(good_fields, contents, good_fields), min_size=1, max_size=4), places)
def test_a_client_of_another_kind_is_understood(
    several: list[tuple[Pairs, list[bytes], Pairs]], cuts: list[int]
) -> None:
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection()
    client.receive_data(
        frames.settings([(4, 1 << 20)]) + frames.SETTINGS_ACK + frames.window_update(0, 1 << 20)
    )
    sent: list[tuple[Pairs, bytes, Pairs]] = []
    for pairs, content, trailers in several:
        stream = client.send_request([*START_OF_GET, *pairs])
        for piece in content:
            client.send_data(stream, piece)
        if trailers:
            client.send_trailers(stream, trailers)
        else:
            client.end_stream(stream)
        sent.append((pairs, b"".join(content), trailers))
    reader = FrameList(of_client=True, max_block=65536)
    for piece in pieces_of(client.data_to_send(), cuts):
        reader.feed(piece)
        while reader.behind:
            reader.feed(b"")
    decoder = hpack.Decoder()
    blocks: dict[int, list[Pairs]] = {}
    received: dict[int, bytes] = {}
    for kind, *rest in reader.frames:
        if kind == "head":
            stream, block, _ = rest
            fields = decoder.decode(block, raw=True)
            blocks.setdefault(stream, []).append([(n, v) for n, v in fields])  # type: ignore[arg-type]
        elif kind == "data":
            stream, piece, counted, _ = rest
            assert len(piece) == counted  # type: ignore[arg-type]
            received[stream] = received.get(stream, b"") + piece  # type: ignore[index, operator]
    for number, (pairs, content, trailers) in enumerate(sent):
        stream = 2 * number + 1
        assert blocks[stream] == [START_OF_GET + pairs, *([trailers] if trailers else [])]
        assert received.get(stream, b"") == content


@given(good_fields, contents, good_fields, st.sampled_from((16384, 30_000)))
def test_a_client_of_another_kind_understands_us(
    pairs: Pairs, content: list[bytes], trailers: Pairs, largest: int
) -> None:
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection({4: 1 << 20, 5: largest})
    client.send_request(START_OF_GET, end_stream=True)
    client.data_to_send()
    lines = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
    head = parse_response(b"HTTP/1.1 200 OK\r\nDate: d\r\n%b\r\n" % lines)
    written = [
        frames.settings([(3, 100)]), frames.SETTINGS_ACK,
        frames.head_frames(1, NO_TABLE + answer_block(head, b"", b""), False, largest),
    ]  # fmt: skip
    for piece in content:
        for at in range(0, len(piece), largest):
            part = piece[at : at + largest]
            written += (frames.data_header(len(part), 1, False), part)
    block = fields_block(b"".join(b"%b: %b\r\n" % pair for pair in trailers))
    if trailers:
        written.append(frames.head_frames(1, block, True, largest))
    else:
        written.append(frames.data_header(0, 1, True))
    written += (frames.ping(b"01234567", ack=False), frames.goaway(1, 0))
    client.receive_data(b"".join(written))
    data = b""
    seen: dict[str, Pairs] = {}
    for event in client.events():
        match event:
            case ngh2.ResponseReceived(_, fields, _):
                seen["head"] = [tuple(field) for field in fields]  # type: ignore[misc]
            case ngh2.TrailersReceived(_, fields):
                seen["trailers"] = [tuple(field) for field in fields]  # type: ignore[misc]
            case ngh2.DataReceived(_, piece, _):
                data += piece
            case ngh2.PingReceived(opaque):
                seen["ping"] = [(opaque, b"")]
    assert seen["head"] == [(b":status", b"200"), (b"date", b"d"), *pairs]
    assert seen.get("trailers", []) == trailers
    assert data == b"".join(content)
    assert "ping" in seen


def accepted_by_nghttp2(role: ngh2.Role, pairs: Pairs, end: bool) -> bool:
    peer = ngh2.Connection(role)
    block = b"".join([encode(*pair) for pair in pairs])
    if role is ngh2.Role.SERVER:
        peer.initiate_connection({8: 1})
        peer.receive_data(frames.PREFACE)
    else:
        peer.initiate_connection()
        peer.send_request(START_OF_GET, end_stream=True)
        peer.data_to_send()
    peer.receive_data(frames.settings([]) + frames.head_frames(1, block, end, 16384))
    heads = (ngh2.RequestReceived, ngh2.ResponseReceived, ngh2.InformationalResponseReceived)
    return any(isinstance(event, heads) for event in peer.events())


statuses = st.sampled_from((b"200", b"204", b"103", b"101", b"99", b"x", b"2000", b"999"))


@given(st.tuples(starts, others, st.booleans(), st.permutations(range(4)), st.booleans()))
def test_a_head_that_we_read_is_one_to_nghttp2(
    it: tuple[tuple[tuple[bytes, bytes], ...], Pairs, bool, list[int], bool],
) -> None:
    start, more, end, order, protocol = it
    pairs = [*(start[at] for at in order), *more]
    if protocol:
        pairs.insert(0, (b":protocol", b"websocket"))
    reader = RequestReader(USUAL_IDS, 32768, 128, extended_connect=True)
    try:
        reader.read(b"".join([encode(*pair) for pair in pairs]), end)
    except (Malformed, Refused):
        return
    assert accepted_by_nghttp2(ngh2.Role.SERVER, pairs, end)


@given(statuses, others, st.booleans())
def test_an_answer_that_we_read_is_one_to_nghttp2(status: bytes, more: Pairs, end: bool) -> None:
    pairs = [(b":status", status), *more]
    try:
        AnswerReader(65536, 256).read(b"".join([encode(*p) for p in pairs]), end, USUAL_IDS)
    except (Malformed, Refused):
        return
    assert accepted_by_nghttp2(ngh2.Role.CLIENT, pairs, end)
