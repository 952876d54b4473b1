"""ZooKeeper's protocol: frames as a real server takes and sends them, and those that are broken."""

from __future__ import annotations

from struct import pack

import pytest

from proxy.registry.base import LeaseLost, Refused, RegistryError
from proxy.registry.zookeeper import wire
from proxy.registry.zookeeper.wire import Op, Reader


def test_the_first_frame_has_the_zxid_that_was_seen() -> None:
    frame = wire.connect(0x16, 10_000)
    body = pack(">iqiqi", 0, 0x16, 10_000, 0, 16) + bytes(16) + b"\0"
    assert frame == pack(">i", len(body)) + body


def test_a_known_session_is_shown_with_its_password() -> None:
    frame = wire.connect(1, 10_000, 7, b"secret")
    assert frame.endswith(pack(">qi", 7, 6) + b"secret\0")


def test_the_reply_to_the_first_frame() -> None:
    reply = pack(">iiqi", 0, 4000, 7, 2) + b"pw"
    assert Reader(reply).accepted() == (4000, 7, b"pw")


@pytest.mark.parametrize(
    ("op", "body", "frame"),
    [
        (Op.PING, b"", pack(">iii", 8, 3, 11)),
        (Op.GET_DATA, wire.read("/a"), pack(">iiii", 15, 3, 4, 2) + b"/a\0"),
        (Op.ADD_WATCH, wire.watch("/a"), pack(">iiii", 18, 3, 106, 2) + b"/a" + pack(">i", 1)),
        (Op.DELETE, wire.delete("/a", -1), pack(">iiii", 18, 3, 2, 2) + b"/a" + pack(">i", -1)),
        (
            Op.SET_DATA,
            wire.write("/a", b"v", 5),
            pack(">iiii", 23, 3, 5, 2) + b"/a" + pack(">i", 1) + b"v" + pack(">i", 5),
        ),
        (
            Op.CREATE,
            wire.create("/a", b"v", wire.ANYBODY, wire.EPHEMERAL),
            pack(">iiii", 50, 3, 1, 2)
            + b"/a"
            + pack(">i", 1)
            + b"v"
            + pack(">iii", 1, 31, 5)
            + b"world"
            + pack(">i", 6)
            + b"anyone"
            + pack(">i", 1),
        ),
        (
            Op.AUTH,
            wire.auth("digest", "u:p"),
            pack(">iiiii", 29, 3, 100, 0, 6) + b"digest" + pack(">i", 3) + b"u:p",
        ),
    ],
)
def test_requests(op: Op, body: bytes, frame: bytes) -> None:
    assert wire.request(3, op, body) == frame


def test_a_reply_with_data_and_its_stat() -> None:
    stat = pack(">qqqqiiiqiiq", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    reader = Reader(pack(">iqii", 3, 0x16, 0, 2) + b"{}" + stat)
    assert reader.reply() == (3, 0x16, 0)
    assert reader.buffer() == b"{}"
    found = reader.stat()
    assert (found.czxid, found.mzxid, found.version, found.owner, found.pzxid) == (1, 2, 5, 8, 11)


def test_names_of_children() -> None:
    assert Reader(pack(">ii", 2, 1) + b"a" + pack(">i", 2) + "ü".encode()).texts() == ["a", "ü"]


@pytest.mark.parametrize(("zxid", "told"), [(-1, 0), (0x16, 0x16)])
def test_a_notification_tells_its_zxid_since_3_9(zxid: int, told: int) -> None:
    event = Reader(pack(">iii", 2, 3, 4) + b"/a/b").event(zxid)
    assert event == (2, "/a/b", told)


@pytest.mark.parametrize(
    "read",
    [
        lambda: Reader(b"\0\0").small(),
        lambda: Reader(b"\0" * 7).long(),
        lambda: Reader(pack(">i", 9) + b"short").buffer(),
        lambda: Reader(pack(">i", 2**31 - 1)).texts(),
        lambda: Reader(b"\0" * 60).stat(),
        lambda: Reader(b"").reply(),
    ],
)
def test_frames_that_end_too_early_are_refused(read: object) -> None:
    with pytest.raises(RegistryError, match="ends"):
        read()  # type: ignore[operator]


def test_a_length_of_minus_one_is_nothing() -> None:
    assert Reader(pack(">i", -1)).buffer() == b""
    assert Reader(pack(">i", -1)).texts() == []


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (-101, RegistryError, "NoNode"),
        (-102, Refused, "NoAuth"),
        (-115, Refused, "AuthFailed"),
        (-6, Refused, "3.6"),
        (-112, LeaseLost, "SessionExpired"),
        (-42, RegistryError, "error -42"),
    ],
)
def test_errors_of_replies(code: int, kind: type[Exception], words: str) -> None:
    error = wire.failed(code, "/a")
    assert isinstance(error, kind)
    assert str(error).startswith("/a: ")
    assert words in str(error)


def test_several_requests_that_are_done_together() -> None:
    body = wire.multi((Op.DELETE, b"x"), (Op.CREATE, b"yz"))
    done = pack(">i?i", -1, True, -1)
    assert body == pack(">i?i", 2, False, -1) + b"x" + pack(">i?i", 1, False, -1) + b"yz" + done


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (pack(">i?i", 2, False, 0) + pack(">i?i", -1, True, -1), 0),
        (pack(">i?ii", -1, False, -103, -103) + pack(">i?i", -1, True, -1), -103),
        (pack(">i?ii", -1, False, 0, 0) + pack(">i?ii", -1, False, -110, -110), -110),
        (pack(">i?i", -1, True, -1), 0),
    ],
)
def test_the_first_error_of_several_requests(results: bytes, code: int) -> None:
    assert wire.refusal(Reader(results)) == code
