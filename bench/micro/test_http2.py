"""A browser's head of HTTP/2 from a field block to a request, and an answer's to a field block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import hpack
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.http.fields import USUAL_IDS
from proxy.http2.blocks import answer_block
from proxy.http2.frame_list import FrameList
from proxy.http2.frames import (
    PREFACE,
    data_header,
    head_frames,
    settings,
)
from proxy.http2.heads import AnswerReader, RequestReader

REQUEST = [
    (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"www.example.com"),
    (b":path", b"/api/v1/items?page=2"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"), (b"accept-encoding", b"gzip, deflate, br"),
    (b"cookie", b"session=0123456789abcdef"), (b"cookie", b"theme=dark"),
    (b"sec-fetch-dest", b"document"), (b"sec-fetch-mode", b"navigate"),
    (b"sec-fetch-site", b"none"), (b"upgrade-insecure-requests", b"1"),
    (b"referer", b"https://www.example.com/"),
]  # fmt: skip
ANSWER = [
    (b":status", b"200"), (b"content-type", b"text/html; charset=utf-8"), (b"server", b"nginx"),
    (b"date", b"Mon, 01 Jan 2024 00:00:00 GMT"), (b"etag", b'"123456-789"'),
    (b"last-modified", b"Mon, 01 Jan 2024 00:00:00 GMT"), (b"vary", b"accept-encoding"),
    (b"cache-control", b"max-age=60"), (b"content-length", b"98"),
]  # fmt: skip


def same() -> Iterator[bytes]:
    encoder = hpack.Encoder()
    encoder.encode(REQUEST)
    yield hpack.Encoder().encode(REQUEST)  # This fills the table.
    block = encoder.encode(REQUEST)
    while True:
        yield block


def with_new(fields: Callable[[int], list[tuple[bytes, bytes]]]) -> Iterator[bytes]:
    """As nghttp2 writes it: a path is in no table."""
    encoder = hpack.Encoder()
    for number in count():
        path = hpack.NeverIndexedHeaderTuple(b":path", b"/api/v1/items/%d?page=2" % number)
        yield encoder.encode([*REQUEST[:3], path, *REQUEST[4:], *fields(number)])


def trace(number: int) -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", b"00-%032x-%016x-01" % (number * 2654435761, number * 97))]


@pytest.mark.parametrize("what", ["same", "new_path", "new_path_and_trace"])
def test_a_request_is_read(benchmark: BenchmarkFixture, what: str) -> None:
    reader = RequestReader(USUAL_IDS, 32768, 128)
    blocks = {
        "same": same, "new_path": lambda: with_new(lambda _: []),
        "new_path_and_trace": lambda: with_new(trace),
    }[what]()  # fmt: skip
    reader.read(next(blocks), True)
    benchmark.group = "head of HTTP/2, 15 fields, read"
    # What the encoder of another implementation takes is no part of it.
    benchmark.pedantic(
        reader.read, setup=lambda: ((next(blocks), True), {}), rounds=5000, warmup_rounds=200
    )


def test_an_answer_is_written(benchmark: BenchmarkFixture) -> None:
    head = AnswerReader(65536, 256).read(hpack.Encoder().encode(ANSWER), False, USUAL_IDS)
    benchmark.group = "head of HTTP/2, 9 fields and our own, written"
    benchmark(answer_block, head, b"X-Request-ID: 0123456789abcdef-1\r\n", b"Via: 1.1 fairlead\r\n")


@pytest.mark.parametrize("kind", ["HEADERS", "DATA"])
def test_a_hundred_frames_are_read(benchmark: BenchmarkFixture, kind: str) -> None:
    reader = FrameList(of_client=True, max_block=32768)
    reader.feed(PREFACE + settings([]))
    frame = head_frames(1, b"\x82" * 16, True, 16384)
    if kind == "DATA":
        frame = data_header(1000, 1, False) + bytes(1000)
    stream = frame * 100

    def read() -> None:
        reader.frames.clear()
        reader.feed(stream)

    benchmark.group = "a hundred frames, read"
    benchmark(read)
