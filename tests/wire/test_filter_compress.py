"""`compress`: which answers for whom, and that they come whole and piece by piece."""

from __future__ import annotations

import zlib
from typing import Any

import brotli
import pytest
import zstandard

from proxy.filters.compress import preferred
from proxy.settings.route import RouteSpec
from tests.support.filters import spec
from tests.support.wire import Peer, request

TEXT = b"one two three four " * 100
ALL = ("zstd", "br", "gzip")


class Decoder:
    """What a client makes of an encoding, piece by piece."""

    def __init__(self, encoding: str) -> None:
        self._decode = {
            "gzip": lambda: zlib.decompressobj(31).decompress,
            "br": lambda: brotli.Decompressor().process,
            "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
        }[encoding]()

    def __call__(self, data: bytes) -> bytes:
        decoded: bytes = self._decode(data)
        return decoded


def compressing(make: Any, **settings: Any) -> Any:
    """A wire that compresses, from 10 bytes on if nothing else is said."""
    all_ = {"min_size": 10, **settings}
    return make(routes=(RouteSpec(service="s", filters=(spec("compress", **all_),)),))


def answer(
    wire: Any,
    accepts: str,
    *fields: str,
    body: bytes = TEXT,
    line: str = "GET /x",
    status: int = 200,
) -> tuple[bytes, bytes]:
    """Head and content of an answer that the instance gives with these fields."""
    client = wire.client()
    client.send(request(line, f"Accept-Encoding: {accepts}"))
    a = wire.connected()
    a.take()
    lines = [f"HTTP/1.1 {status} Said", *fields]
    a.send(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
    head, _, content = client.take().partition(b"\r\n\r\n")
    a.eof()
    return head + b"\r\n", content


def plain(*fields: str, body: bytes = TEXT, type_: str = "text/plain") -> tuple[str, ...]:
    return (f"Content-Type: {type_}", f"Content-Length: {len(body)}", *fields)


@pytest.mark.parametrize("encoding", ALL)
def test_an_answer_is_compressed_and_says_so(make: Any, encoding: str) -> None:
    wire = compressing(make)
    fields = plain('ETag: "v1"', "Vary: Cookie", "Accept-Ranges: bytes")
    head, content = answer(wire, encoding, *fields)
    assert f"\r\nContent-Encoding: {encoding}\r\n".encode() in head
    assert f"\r\nContent-Length: {len(content)}\r\n".encode() in head
    assert b'\r\nETag: W/"v1"\r\n' in head
    assert b"\r\nVary: Cookie\r\nVary: Accept-Encoding\r\n" in head.replace(
        b'ETag: W/"v1"\r\n', b""
    ).replace(f"Content-Encoding: {encoding}\r\n".encode(), b"")
    assert b"Accept-Ranges" not in head
    assert len(content) < len(TEXT) / 5
    assert Decoder(encoding)(content) == TEXT


@pytest.mark.parametrize(
    ("fields", "accepts", "varies"),
    [
        (plain(), "identity", True),
        (plain(), "deflate", True),
        (plain("Content-Encoding: br"), "gzip", False),
        (plain("Cache-Control: public, no-transform"), "gzip", False),
        (plain("Content-Digest: sha-256=:x:"), "gzip", False),
        (plain(type_="image/png"), "gzip", False),
        (plain(type_="textual/plain"), "gzip", False),
        ((f"Content-Length: {len(TEXT)}",), "gzip", False),
    ],
)
def test_an_answer_that_is_left_as_it_is(
    make: Any, fields: tuple[str, ...], accepts: str, varies: bool
) -> None:
    head, content = answer(compressing(make), accepts, *fields)
    assert content == TEXT
    assert b"gzip" not in head
    assert (b"\r\nVary: Accept-Encoding\r\n" in head) == varies


@pytest.mark.parametrize("status", [206, 204, 304])
def test_a_status_whose_content_is_not_the_whole(make: Any, status: int) -> None:
    body = TEXT if status == 206 else b""
    extra = ("Content-Range: bytes 0-1899/9999",) if status == 206 else ()
    head, content = answer(compressing(make), "gzip", *plain(*extra), body=body, status=status)
    assert b"Content-Encoding" not in head
    assert content == body


@pytest.mark.parametrize(
    ("kept", "tag", "told"),
    [
        ('W/"v,1"', '"v,1"', 'W/"v,1"'),
        ('"v0", W/"v1"', '"v1"', 'W/"v1"'),
        ('"v1"', '"v1"', '"v1"'),
        ('W/"v1", "v1"', '"v1"', '"v1"'),
        ('W/"v1"', 'W/"v1"', 'W/"v1"'),
        ("*", '"v1"', '"v1"'),
    ],
)
def test_a_tag_that_still_holds_is_the_one_that_the_client_has(
    make: Any, kept: str, tag: str, told: str
) -> None:
    wire = compressing(make)
    asks = f"gzip\r\nIf-None-Match: {kept}"
    head, _ = answer(wire, asks, f"ETag: {tag}", body=b"", status=304)
    assert f"\r\nETag: {told}\r\n".encode() in head
    assert (b"\r\nVary: Accept-Encoding\r\n" in head) == (tag != told)


def test_a_small_answer_is_not_worth_it(make: Any) -> None:
    wire = compressing(make, min_size=len(TEXT) + 1)
    assert answer(wire, "gzip", *plain())[1] == TEXT
    wire = compressing(make, min_size=len(TEXT))
    assert answer(wire, "gzip", *plain())[1] != TEXT


def test_the_head_alone_says_what_the_answer_would(make: Any) -> None:
    head, content = answer(compressing(make), "gzip", *plain(), body=b"", line="HEAD /x")
    assert b"\r\nContent-Encoding: gzip\r\n" in head
    assert b"Content-Length" not in head
    assert content == b""


def chunk_of(client: Peer) -> bytes:
    """The content of one chunk that the client got."""
    size, _, rest = client.take().partition(b"\r\n")
    assert rest[int(size, 16) :] in (b"\r\n", b"\r\n0\r\n\r\n")
    return rest[: int(size, 16)]


@pytest.mark.parametrize("encoding", ALL)
def test_each_piece_can_be_read_when_it_comes(make: Any, encoding: str) -> None:
    wire = compressing(make)
    client = wire.client()
    client.send(request("GET /x", f"Accept-Encoding: {encoding}"))
    a = wire.connected()
    a.take()
    decode = Decoder(encoding)
    a.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
           b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    assert b"\r\nTransfer-Encoding: chunked\r\n" in client.take()
    for number in range(3):
        event = b"data: %d\n\n" % number
        a.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert decode(chunk_of(client)) == event
    a.send(b"0\r\n\r\n")
    assert decode(chunk_of(client)) == b""


def test_a_client_of_http_1_0_gets_the_whole(make: Any) -> None:
    wire = compressing(make)
    client = wire.client()
    client.send(request("GET /x HTTP/1.0", "Accept-Encoding: gzip"))
    a = wire.connected()
    a.take()
    half = len(TEXT) // 2
    a.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(TEXT))
    a.send(TEXT[:half])
    a.send(TEXT[half:])
    head, _, content = client.take().partition(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert Decoder("gzip")(content) == TEXT
    assert client.saw_end


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (None, None),
        ("", None),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br", "br"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0, *", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, br;q=0, gzip;q=0", None),
        ("gzip;q=0.1, identity;q=0.5", None),
        ("identity", None),
        ("gzip;q=2", None),
        ("gzip;level=9", None),
        ("gzip ; q = 0.5", "gzip"),
        ("gzipped", None),
    ],
)
def test_the_encoding_that_a_client_likes_best(accepted: str | None, expected: str | None) -> None:
    assert preferred(ALL, accepted) == expected


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_answer_that_cannot_be_compressed_is_a_failure(
    make: Any, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    class Broken:
        """Its memory is exhausted at the last piece."""

        def __init__(self, **_: object) -> None:
            self.process, self.flush = bytes, lambda: b""

        def finish(self) -> bytes:
            raise brotli.error("no memory")

    monkeypatch.setattr(brotli, "Compressor", Broken)
    wire = compressing(make)
    client = wire.client()
    client.send(request("GET /x", "Accept-Encoding: br"))
    a = wire.connected()
    a.take()
    half = len(TEXT) // pieces
    a.send("\r\n".join(("HTTP/1.1 200 OK", *plain(), "", "")).encode() + TEXT[:half])
    if pieces == 1:
        client.expect_problem(500, "filter_failed")
        return
    assert TEXT[:half] in client.take()
    a.send(TEXT[half:])
    assert client.cut  # It has the head, and must not take the half for the whole.
