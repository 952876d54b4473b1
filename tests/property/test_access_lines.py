"""Lines of the access log: one line each, with the right values, whatever the bytes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.engine.access_fields import DECISIONS, lines_of
from proxy.engine.access_lines import (
    AGENT,
    LONGEST,
    NAME,
    REFERER,
    TARGET,
    CommonLines,
    Entry,
    JsonLines,
    Lines,
    clf_text,
    json_text,
)
from proxy.engine.http1.parser import parse_request
from proxy.engine.node import Node
from proxy.errors import FAULTS, Refused
from proxy.http.messages import RequestFields, RequestHead
from proxy.messages import PoolNode
from proxy.settings.access_log import FIELDS, AccessLogSettings

FIELD_BYTES = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""What the parser lets through in a value."""
IDS = b"abcXYZ019._:+/=-"
TARGET_BYTES = bytes(range(0x21, 0x7F)).replace(b"#", b"")
TOKEN = b"!#$%&'*+.^_`|~-ABCxyz019"
PLAIN = re.compile(rb"[ -~]*\n")
WORST = st.sampled_from([b'"', b"\\", b"\xff", b"\x1f", "\u2028".encode(), "🦊".encode(), b"a"])


def of(alphabet: bytes, longest: int = 40) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(list(alphabet)), max_size=longest).map(bytes)


def head(
    target: bytes = b"/",
    method: bytes = b"GET",
    host: bytes | None = b"h",
    minor: int = 1,
    pairs: list[tuple[bytes, bytes]] | None = None,
    **known: Any,
) -> RequestHead:
    fields = RequestFields(b"".join(b"%b: %b\r\n" % pair for pair in pairs or []), 0)
    if host is not None:
        fields.host, fields.hosts = host, 1
    for name, value in known.items():
        setattr(fields, name, value)
    return RequestHead(method, target, minor, fields)


def entry(**given: Any) -> Entry:
    usual: dict[str, Any] = {
        "began": 1763828236.1239,
        "client": b"192.0.2.7",
        "trusted": False,
        "request": head(),
        "status": 200,
        "received": 0,
        "sent": 2,
        "seconds": 0.0015,
        "first_byte": 0.001,
        "route": 3,
        "service": "s",
        "node": Node(PoolNode("a@10.0.0.1:80", "a", "10.0.0.1", 80, 1, "ready", 1)),
        "attempts": 1,
        "fault": "",
        "request_id": b"r1",
    }
    return Entry(**{**usual, **given})


def of_format(format: str) -> Lines:
    return lines_of(AccessLogSettings(format=format))


def seen(value: bytes) -> str:
    """What a reader of the line gets."""
    return value.decode("utf-8", "backslashreplace")


def test_a_usual_line() -> None:
    assert json.loads(JsonLines(True).line(entry())) == {
        "time": "2025-11-22T16:17:16.123Z",
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes_received": 0,
        "bytes_sent": 2,
        "duration_ms": 1.5,
        "first_byte_ms": 1.0,
        "route": 3,
        "service": "s",
        "instance": "a",
        "upstream": "10.0.0.1:80",
        "attempts": 1,
        "error": None,
        "fault": None,
        "request_id": "r1",
        "host": "h",
        "user_agent": None,
        "referer": None,
        "forwarded_for": None,
    }


def test_every_line_has_the_same_keys_in_the_same_order() -> None:
    lines = JsonLines(True)
    usual = list(json.loads(lines.line(entry())))
    for other in (
        entry(request=None, node=None, service=None, route=-1, first_byte=-1.0, fault="internal"),
        entry(fault="cut_short"),
        entry(node=None, first_byte=-1.0),
    ):
        assert list(json.loads(lines.line(other))) == usual


def test_a_request_that_could_not_be_read() -> None:
    nothing = {"request": None, "node": None, "service": None, "route": -1, "first_byte": -1.0}
    refused = entry(status=400, fault="bad_request", attempts=0, **nothing)
    line = json.loads(JsonLines(True).line(refused))
    absent = {name for name, value in line.items() if value is None}
    assert absent == {
        *("method", "target", "protocol", "first_byte_ms", "route", "service", "instance"),
        *("upstream", "host", "user_agent", "referer", "forwarded_for"),
    }
    assert CommonLines(True, combined=True).line(refused) == (
        b'192.0.2.7 - - [22/Nov/2025:16:17:16 +0000] "-" 400 2 "-" "-"\n'
    )


def test_the_formats_of_ncsa_and_apache() -> None:
    request = head(b"/a?b", pairs=[(b"User-Agent", b'x"y'), (b"referer", b"http://r/?q")])
    begin = b'192.0.2.7 - - [22/Nov/2025:16:17:16 +0000] "GET /a?b HTTP/1.1" 200 2'
    assert of_format("common").line(entry(request=request)) == begin + b"\n"
    assert of_format("combined").line(entry(request=request)) == (
        begin + b' "http://r/?q" "x\\x22y"\n'
    )


@pytest.mark.parametrize("format", ["json", "common", "combined"])
def test_queries_left_out(format: str) -> None:
    request = head(b"/a?secret", pairs=[(b"Referer", b"http://r/?secret")])
    line = lines_of(AccessLogSettings(format=format, query=False)).line(entry(request=request))
    assert b"secret" not in line
    assert b"/a" in line


def test_only_a_trusted_peer_is_quoted_on_those_before_it() -> None:
    lines = JsonLines(True)
    request = head(claims={b"x-forwarded-for": b"203.0.113.9, 10.1.1.1"})
    for _ in range(2):  # The second time from memory.
        assert json.loads(lines.line(entry(request=request)))["forwarded_for"] is None
        trusted = json.loads(lines.line(entry(request=request, trusted=True)))
        assert trusted["forwarded_for"] == "203.0.113.9, 10.1.1.1"


def test_remembered_parts_of_lines_are_bounded_and_stay_right() -> None:
    lines = JsonLines(True)
    heads = [head(host=b"h%d" % number) for number in range(1500)]
    for number in [*range(1500), *range(1500)]:
        shown = json.loads(lines.line(entry(request=heads[number], began=float(number))))
        assert shown["host"] == f"h{number}"
        assert shown["time"].endswith(f"{number // 60 % 60:02d}:{number % 60:02d}.000Z")


@given(
    target=of(TARGET_BYTES),
    method=of(TOKEN).filter(bool),
    host=st.none() | of(TARGET_BYTES),
    agent=st.none() | of(FIELD_BYTES) | st.text("äß€🦊\u2028\x9b", max_size=20).map(str.encode),
    referer=st.none() | of(FIELD_BYTES),
    request_id=of(IDS, 128),
    instance=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    fault=st.sampled_from(["", "connect_refused"]),
    route=st.integers(-1, 5),
    first_byte=st.sampled_from([-1.0, 0.25]),
    spelling=st.sampled_from([b"user-agent", b"User-Agent", b"USER-AGENT"]),
)
def test_any_values_come_out_of_a_json_line_as_they_were(
    target: bytes,
    method: bytes,
    host: bytes | None,
    agent: bytes | None,
    referer: bytes | None,
    request_id: bytes,
    instance: str,
    fault: str,
    route: int,
    first_byte: float,
    spelling: bytes,
) -> None:
    pairs = [(b"cookie", b"secret"), (b"Authorization", b"secret")]
    pairs += [(spelling, agent)] if agent is not None else []
    pairs += [(b"Referer", referer)] if referer is not None else []
    request = head(target, method[:32], host, pairs=pairs, request_id=request_id)
    node = Node(PoolNode("k", instance, "fe80::1", 80, 1, "ready", 1))
    given_ = entry(
        request=request, node=node, request_id=request_id, fault=fault, route=route,
        first_byte=first_byte,
    )  # fmt: skip
    lines = JsonLines(True)
    for line in (lines.line(given_), lines.line(given_)):
        assert PLAIN.fullmatch(line)
        shown = json.loads(line)
        assert shown["target"] == target.decode()
        assert shown["method"] == method[:32].decode()
        assert shown["host"] == (None if host is None else host.decode())
        assert shown["user_agent"] == (None if agent is None else seen(agent))
        assert shown["referer"] == (None if referer is None else seen(referer))
        assert shown["request_id"] == request_id.decode()
        assert shown["instance"] == instance
        assert shown["upstream"] == "[fe80::1]:80"
        assert (shown["error"], shown["fault"]) == (
            (FAULTS[fault].error, fault) if fault else (None, None)
        )
        assert shown["route"] == (None if route < 0 else route)
        assert shown["first_byte_ms"] == (None if first_byte < 0 else 250.0)


@given(st.binary(max_size=300))
@example(b"GET /\x1b[2J HTTP/1.1\r\nHost: h\r\n\r\n")
@example(b'GET /"} HTTP/1.1\r\nHost: h\r\nUser-Agent: "\\\xff\r\n\r\n')
def test_a_head_the_parser_lets_through_is_one_plain_line(data: bytes) -> None:
    try:
        request = parse_request(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", 100)
    except Refused:
        return
    given_ = entry(request=request, request_id=request.fields.request_id or b"ours")
    for format in ("json", "text", "common", "combined"):
        line = of_format(format).line(given_)
        assert PLAIN.fullmatch(line)
        assert format != "json" or json.loads(line)["target"] == request.target.decode()


@given(st.lists(WORST, max_size=60).map(b"".join), st.integers(4, 80))
def test_a_cut_value_is_whole_up_to_the_cut(value: bytes, longest: int) -> None:
    text = json_text(value, longest)
    assert len(text) <= longest
    shown = json.loads(b'"%b"' % text)
    shown.encode()  # No half of a surrogate pair.
    assert shown == seen(value) or seen(value).startswith(shown.removesuffix("..."))
    quoted = clf_text(value, longest)
    assert len(quoted) <= longest
    assert re.fullmatch(rb"(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})*", quoted)


def test_chosen_fields_stand_in_the_order_in_which_they_were_chosen() -> None:
    chosen = ("status", "host", "user_agent", "fault", "target")
    request = head(b"/a?b", pairs=[(b"User-Agent", b"a b")])
    json_line, text = (
        lines_of(AccessLogSettings(format=format, fields=chosen)).line(entry(request=request))
        for format in ("json", "text")
    )
    assert json_line == (
        b'{"status":200,"host":"h","user_agent":"a b","fault":null,"target":"/a?b"}\n'
    )
    assert text == b'status=200 host=h user_agent="a b" fault=- target=/a?b\n'


def test_chosen_fields_read_as_in_the_usual_line() -> None:
    usual = json.loads(JsonLines(True).line(entry()))
    chosen = lines_of(AccessLogSettings(fields=tuple(usual)))
    nothing = {"request": None, "node": None, "service": None, "route": -1, "first_byte": -1.0}
    for one in (entry(), entry(fault="bad_request", **nothing), entry(client=b"fe80::1%eth0")):
        line = chosen.line(one)
        assert line == JsonLines(True).line(one)


def test_every_field_has_a_value_for_bytes_that_never_became_a_request() -> None:
    nothing = {"request": None, "node": None, "service": None, "route": -1, "first_byte": -1.0}
    line = lines_of(AccessLogSettings(fields=FIELDS)).line(entry(fault="bad_request", **nothing))
    assert list(json.loads(line)) == list(FIELDS)


def test_a_text_shows_an_absent_value_and_a_dash_differently() -> None:
    lines = lines_of(AccessLogSettings(format="text", fields=("user_agent", "referer")))
    request = head(pairs=[(b"User-Agent", b"-")])
    assert lines.line(entry(request=request)) == b'user_agent="-" referer=-\n'


@pytest.mark.parametrize("format", ["json", "text", "common", "combined"])
@pytest.mark.parametrize("byte", [b"a", b"\xff", b'"', b"\\"])
def test_no_line_is_longer_than_what_a_pipe_takes_whole(format: str, byte: bytes) -> None:
    long = byte * 9000
    pairs = [(b"User-Agent", long), (b"Referer", long)]
    request = head(long, b"M" * 9000, long, pairs=pairs, claims={b"x-forwarded-for": long})
    node = Node(PoolNode("k", "i" * 500, "a" * 500, 65535, 1, "ready", 1))
    longest = max(FAULTS, key=lambda code: len(code + FAULTS[code].error))
    worst = entry(
        client=b"%" * 300, trusted=True, request=request, node=node, service="s" * 500,
        request_id=b"a" * 128, status=599, received=2**60, sent=2**60, seconds=1e9, first_byte=1e9,
        attempts=99, route=99999, fault=longest, grpc_status=16, trace_id=b"a" * 32,
    )  # fmt: skip
    assert len(of_format(format).line(worst)) <= LONGEST
    if format in ("json", "text"):
        chosen = lines_of(AccessLogSettings(format=format, fields=FIELDS)).line(worst)
        # Of what the connection knows: names of listener, filter, server and client, a number, and
        # what OpenSSL calls version and cipher.
        assert len(chosen) + 4 * NAME + 10 + 48 + DECISIONS <= LONGEST


def test_the_limits_of_single_values() -> None:
    pairs = [(b"User-Agent", b"u" * 9000), (b"Referer", b"r" * 9000)]
    line = JsonLines(True).line(entry(request=head(b"/" * 9000, pairs=pairs)))
    shown = json.loads(line)
    assert [len(shown[name]) for name in ("target", "user_agent", "referer")] == [
        TARGET,
        AGENT,
        REFERER,
    ]
    assert shown["target"].endswith("/...")
