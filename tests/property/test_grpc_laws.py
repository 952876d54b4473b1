"""Laws of gRPC's words and of gRPC-Web: whatever is said, and however it is cut."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.grpc import message_of, status_in, timeout_of
from proxy.engine.grpc_web import WebCoding
from proxy.errors import Refused

TEXT, BINARY = b"application/grpc-web-text", b"application/grpc-web+proto"
pieces = st.lists(st.binary(max_size=40), max_size=8)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data]


@given(pieces, st.lists(st.integers(0, 20), max_size=30))
def test_a_body_in_base64_means_the_same_however_it_is_cut(
    said: list[bytes], sizes: list[int]
) -> None:
    coding = WebCoding(TEXT)
    parts = cut(b"".join(map(b64encode, said)), sizes)
    decoded = [coding.body([part], False) for part in parts] + [coding.body([], True)]
    assert b"".join(b"".join(one) for one in decoded) == b"".join(said)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_noise_is_decoded_or_refused(noise: list[bytes]) -> None:
    coding = WebCoding(TEXT)
    try:
        for piece in noise:
            coding.body([piece], False)
        coding.body([], True)
    except Refused:
        pass


@given(st.lists(pieces, max_size=5), st.binary(max_size=20))
def test_content_to_a_client_is_what_came_and_a_frame_of_trailers(
    several: list[list[bytes]], message: bytes
) -> None:
    trailers = b"Grpc-Status: 0\r\ngrpc-message:%b\r\n" % message.hex().encode()
    lines = b"grpc-status: 0\r\ngrpc-message: %b\r\n" % message.hex().encode()
    wanted = b"".join(map(b"".join, several)) + b"\x80" + len(lines).to_bytes(4, "big") + lines
    plain, text = WebCoding(BINARY), WebCoding(TEXT)
    out = [plain.content(one, b"") for one in several] + [plain.content([], trailers)]
    assert b"".join(map(b"".join, out)) == wanted
    out = [text.content(one, b"") for one in several] + [text.content([], trailers)]
    assert b"".join(b64decode(b"".join(one), validate=True) for one in out) == wanted


@given(st.text())
def test_a_message_is_plain_and_comes_back(text: str) -> None:
    written = message_of(text)
    assert re.fullmatch(rb"[ -~]*", written)
    assert unquote_to_bytes(written) == text.encode("utf-8", "replace")


@given(st.binary(max_size=20))
def test_a_timeout_is_never_below_nothing(value: bytes) -> None:
    assert timeout_of(value) >= 0.0


@given(st.binary(max_size=60))
def test_a_status_is_one_that_there_is(lines: bytes) -> None:
    assert -1 <= status_in(lines) <= 16
