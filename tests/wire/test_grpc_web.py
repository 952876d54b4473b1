"""gRPC-Web from clients of either version, to instances of gRPC: heads, content, and its end."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from proxy.settings.service import GrpcSettings, RateLimitSettings, ServiceSettings
from tests.support.h2_peer import (
    HTTP2,
    H2Instance,
    H2Peer,
    answer,
    data,
    head,
    trailers,
)
from tests.support.wire import Peer, Wire, forwarded, request
from tests.wire.scenes import REFUSED
from tests.wire.test_grpc import MESSAGE, STREAMED

WEB = ServiceSettings(grpc=GrpcSettings(web=True))
BEGUN = answer(1, ("content-type", "application/grpc+proto")) + data(1, MESSAGE)
GOOD = BEGUN + trailers(1, ("grpc-status", "0"))
TRAILERS = b"\x80\0\0\0\x10grpc-status: 0\r\n"


def call(kind: str, body: bytes, *fields: str) -> bytes:
    length = f"Content-Length: {len(body)}"
    return request("POST /x", f"Content-Type: application/{kind}", length, *fields, body=body)


def begun(make: Any, kind: str, body: bytes, *fields: str) -> tuple[Wire, Peer, H2Instance]:
    """A call over HTTP/1.1 that has reached its instance."""
    wire = make(settings=WEB, http2=True)
    client = wire.client()
    client.send(call(kind, body, *fields))
    return wire, client, H2Instance(wire)


def came(instance: H2Instance) -> tuple[dict[str, str], bytes]:
    """Head and content of the call that the instance got, whole."""
    [(_, _, fields, _), (kind, _, body, ended)] = instance.take()
    assert (kind, ended) == ("data", True)
    return fields, body


def content(got: bytes) -> bytes:
    """The content of an answer in chunks, whole."""
    rest, found = got.partition(b"\r\n\r\n")[2], b""
    while rest != b"0\r\n\r\n":
        size, _, rest = rest.partition(b"\r\n")
        found, rest = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found


class TestBinary:
    def test_a_call_is_one_of_grpc(self, make: Any) -> None:
        wire, client, instance = begun(make, "grpc-web+proto", MESSAGE, "X-Grpc-Web: 1")
        fields, body = came(instance)
        assert fields["content-type"] == "application/grpc+proto"
        assert fields["te"] == "trailers"
        assert (fields["x-grpc-web"], fields["content-length"], body) == ("1", "7", MESSAGE)
        instance.send(BEGUN)
        instance.send(trailers(1, ("grpc-status", "0")))
        got = client.take()
        assert b"\r\ncontent-type: application/grpc-web+proto\r\n" in got
        assert content(got) == MESSAGE + TRAILERS
        assert wire.pool.counters.calls == {"0": 1}
        assert wire.in_flight == 0

    def test_a_client_of_http2_gets_no_trailers_either(self, make: Any) -> None:
        wire = make(settings=WEB, listener=HTTP2, http2=True)
        client = H2Peer(wire)
        frames = head(1, ("content-type", "application/grpc-web"), method="POST", end=False)
        client.send(frames, data(1, MESSAGE, end=True))
        instance = H2Instance(wire)
        assert came(instance)[0]["content-type"] == "application/grpc"
        instance.send(GOOD)
        told, found = client.answer()
        assert told["content-type"] == "application/grpc-web+proto"
        assert found == MESSAGE + TRAILERS

    def test_trailers_alone_stay_in_the_head(self, make: Any) -> None:
        _, client, instance = begun(make, "grpc-web", MESSAGE)
        assert instance.take()
        fields = ("content-type", "application/grpc"), ("grpc-status", "5")
        instance.send(answer(1, *fields, end=True))
        got = client.take()
        assert b"\r\ngrpc-status: 5\r\ncontent-type: application/grpc-web\r\n" in got
        assert content(got) == b""

    def test_an_answer_of_no_grpc_goes_as_it_is(self, make: Any) -> None:
        _, client, instance = begun(make, "grpc-web", MESSAGE)
        assert instance.take()
        instance.send(answer(1, ("content-length", "4"), status=503) + data(1, b"busy", True))
        assert client.take().endswith(b"\r\n\r\nbusy")


class TestText:
    def test_a_call_is_decoded_and_its_answer_encoded(self, make: Any) -> None:
        _, client, instance = begun(make, "grpc-web-text+proto", b64encode(MESSAGE))
        fields, body = came(instance)
        assert fields["content-type"] == "application/grpc+proto"
        assert ("content-length" in fields, body) == (False, MESSAGE)
        instance.send(BEGUN)
        instance.send(trailers(1, ("grpc-status", "0")))
        got = client.take()
        assert b"\r\ncontent-type: application/grpc-web-text+proto\r\n" in got
        # Each message has an end of its own: it does not wait for the next one.
        assert content(got) == b64encode(MESSAGE) + b64encode(TRAILERS)

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
    def test_a_body_is_decoded_however_it_is_cut(self, make: Any, size: int) -> None:
        text = b64encode(MESSAGE) + b64encode(MESSAGE)  # With a padding in the middle.
        wire = make(settings=WEB, http2=True)
        client = wire.client()
        whole = call("grpc-web-text", text)
        start = len(whole) - len(text)
        client.send(whole[:start], *(whole[n : n + size] for n in range(start, len(whole), size)))
        assert came(H2Instance(wire))[1] == 2 * MESSAGE

    @pytest.mark.parametrize(
        "text",
        [b"AAA", b"AAAAA", b"A===", b"AA=A", b"AA\nA", b"====", b"AA==" * 257],
        ids=["3", "5", "one", "within", "line end", "nothing", "too many ends"],
    )
    def test_a_body_that_is_no_base64_is_refused(self, make: Any, text: bytes) -> None:
        wire = make(settings=WEB)
        client = wire.client()
        client.send(call("grpc-web-text", text))
        assert b"\r\ngrpc-status: 13\r\n" in client.take()
        assert wire.in_flight == 0

    def test_a_body_that_goes_bad_leaves_its_instance(self, make: Any) -> None:
        wire = make(settings=WEB, http2=True)
        client = wire.client()
        head = call("grpc-web-text", b"AAAAAAAA")[:-8]
        client.send(head + b"AAAA")
        instance = H2Instance(wire)
        assert instance.take()
        client.send(b"AAA!")
        assert b"\r\ngrpc-status: 13\r\n" in client.take()
        assert instance.take() == [("reset", 1, 8)]


class TestOwnAnswers:
    def test_a_fault_is_told_in_the_words_of_the_client(self, make: Any) -> None:
        wire = make(settings=WEB, http2=True)
        wire.network.refuse(wire.address("a"), REFUSED)
        client = wire.client()
        client.send(call("grpc-web-text+proto", b64encode(MESSAGE)))
        got = client.take()
        assert b"\r\nContent-Type: application/grpc-web-text+proto\r\ngrpc-status: 14\r\n" in got
        wire.network.errors.clear()

    def test_a_limit_is_told_so_too(self, make: Any) -> None:
        limit = RateLimitSettings(requests=1, per=60.0)
        settings = ServiceSettings(grpc=GrpcSettings(web=True), rate_limit=limit)
        wire = make(settings=settings, http2=True)
        wire.client().send(call("grpc-web", MESSAGE))
        assert came(H2Instance(wire))
        client = wire.client()
        client.send(call("grpc-web", MESSAGE))
        assert b"\r\ngrpc-status: 14\r\n" in client.take()

    def test_a_deadline_within_an_answer_is_told_in_content(self, make: Any) -> None:
        wire, client, instance = begun(make, "grpc-web", MESSAGE, "grpc-timeout: 2S")
        assert instance.take()
        instance.send(BEGUN)
        wire.advance(2.1)
        found = content(client.take())
        assert found.startswith(MESSAGE + b"\x80\0\0\0")
        assert b"grpc-status: 4\r\n" in found
        assert instance.take() == [("reset", 1, 8)]


def test_a_service_that_does_not_want_it_gets_it_as_it_is(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(call("grpc-web", MESSAGE, "grpc-timeout: 1S"))
    instance = wire.accepted()
    instance.expect(
        forwarded(
            "POST /x", "Content-Type: application/grpc-web", "grpc-timeout: 1S",
            "Content-Length: 7", body=MESSAGE,
        )
    )  # fmt: skip
    wire.advance(2.0)
    instance.send(STREAMED + b"7\r\n" + MESSAGE + b"\r\n0\r\ngrpc-status: 0\r\n\r\n")
    assert content(client.take()) == MESSAGE
    assert wire.pool.counters.calls == {}


def test_a_fault_of_such_a_service_is_told_in_http(make: Any) -> None:
    wire = make()
    wire.network.refuse(wire.address("a"), REFUSED)
    client = wire.client()
    client.send(call("grpc-web", MESSAGE))
    client.expect_problem(502, "connect_refused")
    wire.network.errors.clear()
