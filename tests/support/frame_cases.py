"""Raw frames of HTTP/2 and what must become of them, by the clause of RFC 9113 that decides it.

`tests/unit/test_frames.py` plays each whole and cut at every place. All of them come behind the
preface and SETTINGS, unless they are about these.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.http2.frames import PREFACE

Frame = tuple[object, ...]


def frame(kind: int, flags: int = 0, stream: int = 0, content: bytes = b"") -> bytes:
    """Written without the code under test."""
    return (
        len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content
    )


def merged(heard: list[Frame]) -> list[Frame]:
    """DATA of one frame in one: in how many pieces they come depends on the cuts."""
    result: list[Frame] = []
    for one in heard:
        last = result[-1] if result else ()
        if one[0] == "data" and last[:2] == one[:2] and not last[4] and one[3]:
            _, stream, piece, counted, _ = last
            assert isinstance(piece, bytes)
            assert isinstance(counted, int)
            result[-1] = ("data", stream, piece + one[2], counted + one[3], one[4])  # type: ignore[operator]
        else:
            result.append(one)
    return result


SETTINGS = frame(4)
START = PREFACE + SETTINGS
PING = frame(6, 0, 0, b"01234567")
PONG: Frame = ("ping", b"01234567", False)


@dataclass(frozen=True)
class FrameCase:
    """Frames of a client."""

    name: str
    clause: str
    raw: bytes
    frames: tuple[Frame, ...] = ()
    """What a session hears: see `FrameList`."""
    code: int = -1
    """Error code that the connection ends with; negative = it goes on."""
    reason: str = ""
    bare: bool = False
    """Nothing comes before."""


def _data(name: str, clause: str, flags: int, content: bytes, *heard: Frame) -> FrameCase:
    return FrameCase(name, clause, frame(0, flags, 1, content), heard)


def _bad(
    name: str, clause: str, code: int, *raw: bytes, heard: tuple[Frame, ...] = ()
) -> FrameCase:
    return FrameCase(name, clause, b"".join(raw), heard, code)


PROTOCOL, FLOW, SIZE, CALM = 1, 3, 6, 11
BLOCK = b"\x82\x86\x84"
HEAD = frame(1, 0x5, 1, BLOCK)
UPDATE = (1).to_bytes(4, "big")

FRAME_CASES = (
    FrameCase("preface and SETTINGS", "9113 §3.4", START, (("settings", []),), bare=True),
    FrameCase("another preface", "9113 §3.4", b"GET / HTTP/1.1\r\n", code=PROTOCOL, bare=True),
    FrameCase(
        "preface with a wrong end", "9113 §3.4", PREFACE[:-1] + b"x", code=PROTOCOL, bare=True
    ),
    FrameCase("PING before SETTINGS", "9113 §3.4", PREFACE + PING, code=PROTOCOL, bare=True),
    FrameCase(
        "acknowledgement before SETTINGS", "9113 §3.4", PREFACE + frame(4, 1), code=PROTOCOL,
        bare=True,
    ),
    FrameCase("largest frame", "9113 §4.2", frame(0xBE, 0, 0, bytes(16384)), (("ignored", 0xBE),)),
    _bad("frame above the largest", "9113 §4.2", SIZE, frame(0xBE, 0, 0, bytes(16385))),
    _bad("DATA above the largest", "9113 §4.2", SIZE, frame(0, 0, 1, bytes(16385))),
    FrameCase(
        "reserved bit", "9113 §4.1", frame(6, 0, 0x80000000, b"01234567"), (PONG,)
    ),
    FrameCase("unknown flags", "9113 §4.1", frame(6, 0xFE, 0, b"01234567"), (PONG,)),
    FrameCase(
        "unknown type on a stream", "9113 §5.5", frame(0x99, 0xFF, 3, b"x") + PING,
        (("ignored", 0x99), PONG),
    ),
    _bad("unknown type within a head", "9113 §4.3", PROTOCOL, frame(1, 0, 1, b"\x82"), frame(0x99)),
    # DATA
    _data("DATA", "9113 §6.1", 0, b"abc", ("data", 1, b"abc", 3, False)),
    _data("last DATA", "9113 §6.1", 1, b"abc", ("data", 1, b"abc", 3, True)),
    _data("DATA of nothing", "9113 §6.1", 0, b"", ("data", 1, b"", 0, False)),
    _data("last DATA of nothing", "9113 §6.1", 1, b"", ("data", 1, b"", 0, True)),
    _data("padded DATA", "9113 §6.1", 9, b"\x03abc\0\0\0", ("data", 1, b"abc", 7, True)),
    _data("DATA with an empty padding", "9113 §6.1", 8, b"\0abc", ("data", 1, b"abc", 4, False)),
    _data("DATA of padding alone", "9113 §6.1", 9, b"\x03\0\0\0", ("data", 1, b"", 4, True)),
    _data("padding that is not zero", "9113 §6.1", 8, b"\x01ab", ("data", 1, b"a", 3, False)),
    FrameCase(
        "frame behind a padding", "9113 §6.1", frame(0, 8, 1, b"\x02a\0\0") + PING,
        (("data", 1, b"a", 4, False), PONG),
    ),
    FrameCase(
        "DATA of two streams", "9113 §6.1", frame(0, 0, 1, b"a") + frame(0, 1, 3, b"b"),
        (("data", 1, b"a", 1, False), ("data", 3, b"b", 1, True)),
    ),
    _bad("DATA on no stream", "9113 §6.1", PROTOCOL, frame(0, 0, 0, b"abc")),
    _bad("DATA on a stream of servers", "9113 §5.1.1", PROTOCOL, frame(0, 0, 2, b"abc")),
    _bad("padding as long as its DATA", "9113 §6.1", PROTOCOL, frame(0, 8, 1, b"\x03ab")),
    _bad("padding longer than its DATA", "9113 §6.1", PROTOCOL, frame(0, 8, 1, b"\xffa")),
    _bad("padded DATA of 0 bytes", "9113 §6.1", SIZE, frame(0, 8, 1)),
    # HEADERS, CONTINUATION
    FrameCase("HEADERS", "9113 §6.2", HEAD, (("head", 1, BLOCK, True),)),
    FrameCase("HEADERS of nothing", "9113 §6.2", frame(1, 4, 1), (("head", 1, b"", False),)),
    FrameCase(
        "padded HEADERS", "9113 §6.2", frame(1, 0xC, 1, b"\x02" + BLOCK + b"\0\0"),
        (("head", 1, BLOCK, False),),
    ),
    FrameCase(
        "HEADERS with a priority", "9113 §6.2", frame(1, 0x24, 1, b"\0\0\0\0\x10" + BLOCK),
        (("head", 1, BLOCK, False),),
    ),
    FrameCase(
        "HEADERS that depend on themselves", "9113 §5.3.1",
        frame(1, 0x24, 1, b"\0\0\0\x01\x10" + BLOCK), (("head", 1, BLOCK, False),),
    ),
    FrameCase(
        "padded HEADERS with a priority", "9113 §6.2",
        frame(1, 0x2D, 1, b"\x01\0\0\0\0\x10" + BLOCK + b"\0"), (("head", 1, BLOCK, True),),
    ),
    _bad("HEADERS on no stream", "9113 §6.2", PROTOCOL, frame(1, 5, 0, BLOCK)),
    _bad("HEADERS on a stream of servers", "9113 §5.1.1", PROTOCOL, frame(1, 5, 2, BLOCK)),
    _bad("padding longer than its HEADERS", "9113 §6.2", PROTOCOL, frame(1, 0xD, 1, b"\x04abc")),
    _bad(
        "padding longer than what a priority leaves", "9113 §6.2", PROTOCOL,
        frame(1, 0x2D, 1, b"\x01\0\0\0\0\x10"),
    ),
    _bad("padded HEADERS of 0 bytes", "9113 §6.2", SIZE, frame(1, 0xD, 1)),
    _bad("HEADERS with half a priority", "9113 §6.2", SIZE, frame(1, 0x25, 1, b"\0\0\0\0")),
    FrameCase(
        "head in three frames", "9113 §6.10",
        frame(1, 1, 1, b"\x82") + frame(9, 0, 1, b"\x86") + frame(9, 4, 1, b"\x84"),
        (("head", 1, BLOCK, True),),
    ),
    FrameCase(
        "head in three frames with one of nothing", "9113 §6.10",
        frame(1, 0, 1) + frame(9, 0, 1, BLOCK) + frame(9, 4, 1) + PING,
        (("head", 1, BLOCK, False), PONG),
    ),
    FrameCase(
        "head in as many frames as may be", "9113 §6.10",
        frame(1, 0, 1, b"\x82") + frame(9, 0, 1) * 7 + frame(9, 4, 1),
        (("head", 1, b"\x82", False),),
    ),
    FrameCase(
        "head without end", "9113 §10.5.1", frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x82") * 8,
        code=CALM, reason="continuation_flood",
    ),
    FrameCase(
        "head as long as may be", "9113 §10.5.1", frame(1, 4, 1, b"\x82" * 1000),
        (("head", 1, b"\x82" * 1000, False),),
    ),
    FrameCase(
        "head that is too long", "9113 §10.5.1",
        frame(1, 0, 1, b"\x82" * 500) + frame(9, 4, 1, b"\x82" * 501),
        code=CALM, reason="head_too_large",
    ),
    FrameCase(
        "head that is too long before it is whole", "9113 §10.5.1",
        frame(1, 0, 1, b"\x82" * 500) + frame(9, 0, 1, b"\x82" * 501),
        code=CALM, reason="head_too_large",
    ),
    _bad("CONTINUATION of nothing", "9113 §6.10", PROTOCOL, frame(9, 4, 1, BLOCK)),
    _bad(
        "CONTINUATION behind a whole head", "9113 §6.10", PROTOCOL, HEAD, frame(9, 4, 1, BLOCK),
        heard=(("head", 1, BLOCK, True),),
    ),
    _bad(
        "CONTINUATION behind DATA", "9113 §6.10", PROTOCOL, frame(0, 0, 1), frame(9, 4, 1, BLOCK),
        heard=(("data", 1, b"", 0, False),),
    ),
    _bad(
        "CONTINUATION of another stream", "9113 §6.10", PROTOCOL,
        frame(1, 0, 1, BLOCK), frame(9, 4, 3, BLOCK),
    ),
    _bad("PING within a head", "9113 §4.3", PROTOCOL, frame(1, 0, 1, BLOCK), PING),
    _bad("another head within a head", "9113 §4.3", PROTOCOL, frame(1, 0, 1, BLOCK), HEAD),
    _bad(
        "DATA within a head", "9113 §4.3", PROTOCOL, frame(1, 0, 1, BLOCK), frame(0, 0, 1, b"x")
    ),
    # PRIORITY
    FrameCase(
        "PRIORITY", "9113 §6.3", frame(2, 0, 1, b"\0\0\0\0\x10") + PING, (("ignored", 2), PONG)
    ),
    FrameCase(
        "PRIORITY of a stream that is not there", "9113 §6.3", frame(2, 0, 98, b"\0\0\0\0\x10"),
        (("ignored", 2),),
    ),
    FrameCase(
        "PRIORITY that depends on itself", "9113 §5.3.1", frame(2, 0, 1, b"\0\0\0\x01\x10"),
        (("ignored", 2),),
    ),
    FrameCase(
        "PRIORITY of 4 bytes", "9113 §6.3", frame(2, 0, 1, b"\0\0\0\0") + PING,
        (("bad_frame", 1, SIZE), PONG),
    ),
    _bad("PRIORITY on no stream", "9113 §6.3", PROTOCOL, frame(2, 0, 0, b"\0\0\0\0\x10")),
    # RST_STREAM
    FrameCase("RST_STREAM", "9113 §6.4", frame(3, 0, 1, b"\0\0\0\x08"), (("reset", 1, 8),)),
    FrameCase(
        "RST_STREAM with a code of its own", "9113 §7", frame(3, 0, 1, b"\xff\0\0\0"),
        (("reset", 1, 0xFF000000),),
    ),
    _bad("RST_STREAM on no stream", "9113 §6.4", PROTOCOL, frame(3, 0, 0, b"\0\0\0\x08")),
    _bad("RST_STREAM of 3 bytes", "9113 §6.4", SIZE, frame(3, 0, 1, b"\0\0\0")),
    # SETTINGS
    FrameCase(
        "SETTINGS", "9113 §6.5", frame(4, 0, 0, b"\0\x03\0\0\0\x64\0\x99\xff\xff\xff\xff"),
        (("settings", [(3, 100), (0x99, 0xFFFFFFFF)]),),
    ),
    FrameCase("acknowledgement of SETTINGS", "9113 §6.5", frame(4, 1), (("settings_ack",),)),
    _bad("acknowledgement with SETTINGS", "9113 §6.5", SIZE, frame(4, 1, 0, b"\0\x03\0\0\0\x64")),
    _bad("SETTINGS on a stream", "9113 §6.5", PROTOCOL, frame(4, 0, 1)),
    _bad("SETTINGS of 5 bytes", "9113 §6.5", SIZE, frame(4, 0, 0, b"\0\x03\0\0\0")),
    FrameCase(
        "SETTINGS of 32", "9113 §10.5", frame(4, 0, 0, b"\0\x99\0\0\0\0" * 32),
        (("settings", [(0x99, 0)] * 32),),
    ),
    FrameCase(
        "SETTINGS of 33", "9113 §10.5", frame(4, 0, 0, b"\0\x99\0\0\0\0" * 33),
        code=CALM, reason="settings_flood",
    ),
    # PUSH_PROMISE
    _bad("PUSH_PROMISE", "9113 §8.4", PROTOCOL, frame(5, 4, 1, b"\0\0\0\x02" + BLOCK)),
    # PING
    FrameCase("PING", "9113 §6.7", PING, (PONG,)),
    FrameCase(
        "acknowledgement of PING", "9113 §6.7", frame(6, 1, 0, b"01234567"),
        (("ping", b"01234567", True),),
    ),
    _bad("PING on a stream", "9113 §6.7", PROTOCOL, frame(6, 0, 1, b"01234567")),
    _bad("PING of 7 bytes", "9113 §6.7", SIZE, frame(6, 0, 0, b"0123456")),
    # GOAWAY
    FrameCase(
        "GOAWAY", "9113 §6.8", frame(7, 0, 0, b"\x80\0\0\x05\0\0\0\x02why"),
        (("goaway", 5, 2, b"why"),),
    ),
    _bad("GOAWAY on a stream", "9113 §6.8", PROTOCOL, frame(7, 0, 1, bytes(8))),
    _bad("GOAWAY of 7 bytes", "9113 §6.8", SIZE, frame(7, 0, 0, bytes(7))),
    # WINDOW_UPDATE
    FrameCase(
        "WINDOW_UPDATE of the connection", "9113 §6.9", frame(8, 0, 0, UPDATE), (("window", 0, 1),)
    ),
    FrameCase(
        "WINDOW_UPDATE of a stream", "9113 §6.9", frame(8, 0, 1, b"\xff\xff\xff\xff"),
        (("window", 1, 0x7FFFFFFF),),
    ),
    FrameCase(
        "WINDOW_UPDATE of a stream by 0", "9113 §6.9", frame(8, 0, 1, bytes(4)) + PING,
        (("bad_frame", 1, PROTOCOL), PONG),
    ),
    _bad("WINDOW_UPDATE of the connection by 0", "9113 §6.9", PROTOCOL, frame(8, 0, 0, bytes(4))),
    _bad("WINDOW_UPDATE of 3 bytes", "9113 §6.9", SIZE, frame(8, 0, 1, bytes(3))),
    _bad("WINDOW_UPDATE on a stream of servers", "9113 §5.1", PROTOCOL, frame(8, 0, 2, UPDATE)),
)  # fmt: skip
