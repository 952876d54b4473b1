"""A watch stream means the same however the network cuts it."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.registry.etcd.wire import EtcdError, FrameReader, WatchFrame

revisions = st.integers(1, 2**63 - 1)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


events = st.builds(
    lambda key, value, revision, deleted: (
        {"type": "DELETE", "kv": {"key": _b64(key), "mod_revision": str(revision)}}
        if deleted
        else {"kv": {"key": _b64(key), "mod_revision": str(revision), "value": _b64(value)}}
    ),
    st.binary(max_size=20),
    st.binary(max_size=300),
    revisions,
    st.booleans(),
)
frames = st.builds(
    lambda revision, some: {"result": {"header": {"revision": str(revision)}, "events": some}},
    revisions,
    st.lists(events, max_size=4),
)
last_words = st.sampled_from(
    [
        b"",
        b"\n",
        b'{"error": {"grpc_code": 14, "message": "bye"}}',
        b'{"error": {"code": 7, "message": "denied"}}\n',
        b'{"result": {"hea',
        b"garbage\n",
        b'{"result": {"canceled": true}}',
    ]
)


def _read(pieces: list[bytes]) -> tuple[list[WatchFrame], str]:
    """Every frame, and the error that all streams end with."""
    reader = FrameReader()
    seen: list[WatchFrame] = []
    try:
        for piece in pieces:
            for frame in reader.feed(piece):
                seen.append(frame)
        for frame in reader.end():
            seen.append(frame)
    except EtcdError as error:
        return seen, f"{type(error).__name__}: {error}"
    raise AssertionError("a stream ends with an error")


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(frames, max_size=8), last_words, st.lists(st.integers(0, 10**6), max_size=12))
def test_any_cutting_gives_the_same_frames(
    sent: list[dict[str, object]], end: bytes, cuts: list[int]
) -> None:
    data = b"".join(json.dumps(frame).encode() + b"\n" for frame in sent) + end
    whole = _read([data])
    assert _read(_cut(data, cuts)) == whole
    assert _read([data[n : n + 1] for n in range(len(data))]) == whole
    assert len(whole[0]) in (len(sent), len(sent) + 1)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_end_in_an_error_of_ours(data: bytes, cuts: list[int]) -> None:
    _, error = _read(_cut(data, cuts))
    assert "Error" in error or "Unreachable" in error
