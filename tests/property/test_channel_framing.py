"""Any chunking of a stream of frames gives the same frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.channel import Framing, frame

payloads = st.lists(st.binary(max_size=300), max_size=20)


@given(payloads, st.lists(st.integers(0, 2000), max_size=30))
def test_any_chunking_gives_the_same_frames(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(payload) for payload in sent)
    framing = Framing()
    received: list[bytes] = []
    start = 0
    for end in [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]:
        received += framing.feed(stream[start:end])
        start = end
    assert received == sent
    assert framing.pending == 0


@given(payloads)
def test_byte_by_byte_is_no_different(sent: list[bytes]) -> None:
    framing = Framing()
    received: list[bytes] = []
    for byte in b"".join(frame(payload) for payload in sent):
        received += framing.feed(bytes([byte]))
    assert received == sent


@given(payloads, st.integers(1, 303))
def test_a_cut_stream_leaves_bytes_pending(sent: list[bytes], missing: int) -> None:
    last = b"y" * 299
    framing = Framing()
    stream = b"".join(frame(payload) for payload in [*sent, last])
    received = framing.feed(stream[: len(stream) - min(missing, 302)])
    assert received == sent
    assert framing.pending > 0
