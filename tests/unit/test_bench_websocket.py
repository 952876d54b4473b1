"""As much of RFC 6455 as the benchmark's load and origin speak."""

from __future__ import annotations

import pytest

from bench.load import handshake, switched
from bench.scenarios import SCENARIOS
from bench.websocket import KEY, accept, echoes, frame, switching, unmask

HELLO = bytes.fromhex("818537fa213d7f9f4d5158")
"""RFC 6455 §5.7: a masked text message, "Hello"."""


def test_the_rfcs_own_handshake() -> None:
    assert accept(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert switched(switching(KEY))


def test_a_proxys_spelling_of_the_answer_is_accepted() -> None:
    assert switched(
        b"HTTP/1.1 101 \r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize(
    "head",
    [
        switching(KEY).replace(b"101", b"200"),
        switching(b"another key"),
        switching(KEY) + b"more",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_any_other_answer_is_not(head: bytes) -> None:
    assert not switched(head)


def test_the_handshake_carries_the_reference_fields() -> None:
    head = handshake(SCENARIOS["websocket"], 8080)
    assert head.startswith(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n")
    assert b"\r\nUpgrade: websocket\r\n" in head
    assert head.endswith(b"\r\n\r\n")


def test_the_rfcs_own_frames() -> None:
    assert frame(b"Hello", masked=True) == HELLO
    assert frame(b"Hello", masked=False) == bytes.fromhex("810548656c6c6f")
    assert unmask(unmask(b"a text", b"mask"), b"mask") == b"a text"


def test_a_longer_payload_is_refused() -> None:
    with pytest.raises(ValueError, match="only up to 125"):
        frame(b"x" * 126, masked=True)


def test_echoes_whatever_way_the_frames_are_cut() -> None:
    wire = HELLO + frame(b"again", masked=True)
    wanted = [frame(b"Hello", masked=False), frame(b"again", masked=False)]
    for cut in range(len(wire) + 1):
        first, rest = echoes(wire[:cut])
        second, rest = echoes(rest + wire[cut:])
        assert first + second == wanted
        assert rest == b""


@pytest.mark.parametrize("data", [b"\x88\x80\0\0\0\0", frame(b"x", masked=False), b"\x81\xfe"])
def test_frames_of_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a short masked text frame"):
        echoes(data)
