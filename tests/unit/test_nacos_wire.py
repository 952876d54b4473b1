"""Messages of Nacos over gRPC, byte by byte."""

from __future__ import annotations

import pytest

from proxy.registry.base import RegistryError
from proxy.registry.nacos import answers, wire

# Written by the classes that protoc makes of nacos_grpc_service.proto.
MESSAGE = bytes.fromhex(
    "12271a12536572766572436865636b526571756573743a110a0b616363657373546f6b656e120274311a0b12097b22"
    "61223a2231227d"
)
WITH_MORE = bytes.fromhex(
    "121c1a01413a060a01621201633a050a01641200420831302e302e302e311a0c0a017412077b2261223a317d"
)
"""With all that a member may say: its address, two headers, a URL of a type."""


def test_a_message_is_written_as_protobuf_does() -> None:
    headers = {"accessToken": "t1"}
    assert wire.payload("ServerCheckRequest", headers, {"a": "1"}) == MESSAGE


def test_a_message_is_read_whatever_else_is_in_it() -> None:
    assert wire.read(MESSAGE) == ("ServerCheckRequest", b'{"a":"1"}')
    assert wire.read(WITH_MORE) == ("A", b'{"a":1}')
    # A number, 8 bytes, 4 bytes and a text that mean nothing here.
    others = bytes.fromhex("089601490000000000000000" + "4d00000000" + "5a0178")
    assert wire.read(others + MESSAGE) == wire.read(MESSAGE)
    long = b'{"a":"' + b"x" * 300 + b'"}'
    assert wire.read(wire.payload("A", {}, {"a": "x" * 300})) == ("A", long)


@pytest.mark.parametrize(
    "message",
    [MESSAGE[:-1], b"\x12", b"\x12\x05\x1a", b"\x13", b"\x80" * 11, b"<html>", b"\x12\x02\x1a\x05"],
)
def test_a_message_that_is_none_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|number|type"):
        wire.read(message)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b'{"resultCode":200}', (0, "")),
        (b'{"resultCode":500,"errorCode":301,"message":"no"}', (301, "no")),
        (b'{"resultCode":500,"message":null}', (500, "")),
    ],
)
def test_an_answer_says_how_it_went(body: bytes, outcome: tuple[int, str]) -> None:
    assert answers.outcome(body) == outcome


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"resultCode":"x"}'])
def test_an_answer_that_does_not_say_how_it_went_is_none(body: bytes) -> None:
    with pytest.raises(RegistryError, match="not an answer of Nacos"):
        answers.outcome(body)


@pytest.mark.parametrize("info", ["null", "{}", '{"hosts":{}}', '{"hosts":[1]}'])
def test_a_service_without_a_list_is_no_service(info: str) -> None:
    with pytest.raises(RegistryError, match="not an answer of Nacos"):
        answers.service_info(f'{{"serviceInfo":{info}}}'.encode())
