"""Frames: what a reader makes of them, however they were cut, and what is written."""

from __future__ import annotations

import pytest

from proxy.http2 import frames
from proxy.http2.errors import ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, PROTOCOL_ERROR, GoAway
from proxy.http2.frame_list import FrameList
from proxy.http2.frames import PREFACE
from proxy.http2.settings import UNLIMITED, PeerSettings
from tests.support.frame_cases import (
    FRAME_CASES,
    PING,
    PONG,
    SETTINGS,
    START,
    Frame,
    FrameCase,
    frame,
    merged,
)


def play(case: FrameCase, pieces: list[bytes]) -> None:
    reader = FrameList(of_client=True, max_block=1000)
    if not case.bare:
        reader.feed(START)
        reader.frames.clear()
    error: GoAway | None = None
    try:
        for piece in pieces:
            reader.feed(piece)
            while reader.behind:
                reader.feed(b"")
    except GoAway as raised:
        error = raised
    assert merged(reader.frames) == list(case.frames)
    assert (-1 if error is None else error.code) == case.code
    if case.reason:
        assert error is not None
        assert error.reason == case.reason


@pytest.mark.parametrize("case", FRAME_CASES, ids=lambda case: case.name)
def test_frames_mean_the_same_however_they_are_cut(case: FrameCase) -> None:
    play(case, [case.raw])
    step = max(1, len(case.raw) // 200)
    for at in range(1, len(case.raw), step):
        play(case, [case.raw[:at], case.raw[at:]])
    if len(case.raw) < 2000:
        play(case, [case.raw[at : at + 1] for at in range(len(case.raw))])


def test_content_is_passed_on_before_its_frame_is_whole() -> None:
    reader = FrameList(of_client=False, max_block=1000)
    reader.feed(SETTINGS + frame(0, 1, 1, b"abcdef")[:-3])
    reader.feed(b"de")
    reader.feed(b"f")
    assert reader.frames[1:] == [
        ("data", 1, b"abc", 3, False),
        ("data", 1, b"de", 2, False),
        ("data", 1, b"f", 1, True),
    ]


def test_content_that_is_a_whole_read_is_not_copied() -> None:
    reader = FrameList(of_client=False, max_block=1000)
    content = b"x" * 1000
    reader.feed(SETTINGS + frame(0, 0, 1, content)[:9])
    reader.feed(content)
    assert reader.frames[-1][2] is content


def test_a_turn_reads_a_bounded_number_of_frames() -> None:
    reader = FrameList(of_client=False, max_block=1000)
    reader.feed(SETTINGS + PING * 1000)
    turns = 1
    while reader.behind:
        assert len(reader.frames) <= 128 * turns  # Each is answered, and counts for two.
        reader.feed(b"")
        turns += 1
    assert turns == 8
    assert reader.frames[1:] == [PONG] * 1000


def turns_of(reader: FrameList, data: bytes) -> list[int]:
    """How many frames each turn reads of these."""
    reader.feed(SETTINGS + data)
    turns = [len(reader.frames) - 1]
    while reader.behind:
        reader.feed(b"")
        turns.append(len(reader.frames) - 1 - sum(turns))
    return turns


@pytest.mark.parametrize(
    ("size", "known", "turns"),
    [(10, False, [213, 87]), (200, False, [23] + [25] * 11 + [2]), (200, True, [254, 46])],
)
def test_a_head_begins_in_a_turn_that_has_time_for_it(
    size: int, known: bool, turns: list[int]
) -> None:
    reader = FrameList(of_client=False, max_block=1000)
    reader.known = known
    data = frames.head_frames(1, b"\x82" * size, False, 16384) * 300
    assert turns_of(reader, data) == turns


def test_a_head_of_any_size_has_a_turn() -> None:
    reader = FrameList(of_client=False, max_block=1000)
    whole = frames.head_frames(1, b"\x82" * 900, True, 100)
    assert turns_of(reader, whole * 3) == [0, 1, 1, 1]


def test_work_behind_a_frame_counts() -> None:
    reader = FrameList(of_client=False, max_block=1000)
    reader.cost = 15
    assert turns_of(reader, frame(99) * 40) == [16, 16, 8]


def test_a_reader_that_is_behind_keeps_half_a_frame() -> None:
    reader = FrameList(of_client=False, max_block=1000)
    reader.feed(SETTINGS + PING * 300 + PING[:12])
    assert reader.behind
    while reader.behind:
        reader.feed(b"")
    reader.feed(PING[12:])
    assert len(reader.frames) == 302


def test_a_head_that_is_not_whole_shows() -> None:
    """Its time has a limit."""
    reader = FrameList(of_client=False, max_block=1000)
    reader.feed(SETTINGS + frame(1, 0, 5, b"\x82"))
    assert reader.head_stream == 5
    reader.feed(frame(9, 4, 5, b"\x86"))
    assert reader.head_stream == 0


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (frames.data_header(3, 1, False) + b"abc", ("data", 1, b"abc", 3, False)),
        (frames.data_header(0, 1, True), ("data", 1, b"", 0, True)),
        (frames.head_frames(1, b"\x82", True, 16384), ("head", 1, b"\x82", True)),
        (frames.head_frames(3, b"", False, 16384), ("head", 3, b"", False)),
        (frames.head_frames(1, b"\x82" * 10, True, 5), ("head", 1, b"\x82" * 10, True)),
        (frames.head_frames(1, b"\x82" * 11, False, 5), ("head", 1, b"\x82" * 11, False)),
        (frames.reset(7, ENHANCE_YOUR_CALM), ("reset", 7, 11)),
        (frames.SETTINGS_ACK, ("settings_ack",)),
        (frames.settings([(3, 100), (4, 1 << 20)]), ("settings", [(3, 100), (4, 1 << 20)])),
        (frames.ping(b"01234567"), ("ping", b"01234567", False)),
        (frames.ping(b"01234567", ack=True), ("ping", b"01234567", True)),
        (frames.goaway(9, 1, b"why"), ("goaway", 9, 1, b"why")),
        (frames.window_update(0, 1000), ("window", 0, 1000)),
    ],
)
def test_a_frame_is_read_as_it_was_written(raw: bytes, expected: Frame) -> None:
    reader = FrameList(of_client=True, max_block=1000)
    reader.feed(PREFACE + frames.settings([]) + raw)
    assert reader.frames == [("settings", []), expected]


def test_a_long_head_is_written_in_frames_that_the_peer_takes() -> None:
    raw = frames.head_frames(1, b"\x82" * 11, True, 5)
    assert raw == (
        frame(1, 0x1, 1, b"\x82" * 5) + frame(9, 0, 1, b"\x82" * 5) + frame(9, 4, 1, b"\x82")
    )


# -- SETTINGS


def test_settings_that_nobody_has_said() -> None:
    peer = PeerSettings(of_server=True)
    assert (peer.max_streams, peer.window, peer.max_frame) == (UNLIMITED, 65535, 16384)
    assert (peer.max_head, peer.connect_protocol) == (UNLIMITED, False)


def test_settings_are_taken_in_order() -> None:
    peer = PeerSettings(of_server=True)
    grown = peer.take(
        [(1, 0), (2, 0), (3, 5), (3, 7), (4, 100_000), (5, 20_000), (6, 9), (8, 1), (9, 1), (77, 5)]
    )
    assert grown == 100_000 - 65535
    assert (peer.max_streams, peer.window, peer.max_frame) == (7, 100_000, 20_000)
    assert (peer.max_head, peer.connect_protocol) == (9, True)
    assert peer.take([(4, 0)]) == -100_000


@pytest.mark.parametrize(
    ("setting", "of_server", "code"),
    [
        ((2, 2), False, PROTOCOL_ERROR),
        ((2, 1), True, PROTOCOL_ERROR),
        ((4, 1 << 31), False, FLOW_CONTROL_ERROR),
        ((5, 16383), False, PROTOCOL_ERROR),
        ((5, 1 << 24), False, PROTOCOL_ERROR),
        ((8, 2), True, PROTOCOL_ERROR),
        ((9, 2), True, PROTOCOL_ERROR),
    ],
)
def test_a_setting_that_may_not_be(setting: tuple[int, int], of_server: bool, code: int) -> None:
    with pytest.raises(GoAway) as error:
        PeerSettings(of_server).take([setting])
    assert error.value.code == code


@pytest.mark.parametrize("setting", [(2, 1), (4, (1 << 31) - 1), (5, 16384), (5, (1 << 24) - 1)])
def test_a_setting_at_its_limit(setting: tuple[int, int]) -> None:
    PeerSettings(of_server=False).take([setting])


def test_extended_connect_is_not_taken_back() -> None:
    peer = PeerSettings(of_server=True)
    peer.take([(8, 1)])
    with pytest.raises(GoAway):
        peer.take([(8, 0)])
