"""Frames on the streams of a session, and what must become of them, by the clause that decides it.

`tests/wire/test_http2_sessions.py` plays each behind a request that was answered on stream 1, whole
and cut, and then asks once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import hpack

from proxy.http2.hpack import encode
from tests.support.frame_cases import FRAME_CASES, FrameCase, frame
from tests.support.h2_peer import data, head, number, reset, trailers, window
from tests.support.head_cases import REQUEST_CASES, HeadCase

PROTOCOL, FLOW, CLOSED, SIZE = 1, 3, 5, 6


@dataclass(frozen=True)
class SessionCase:
    """What a client sends on stream 3, mostly."""

    name: str
    clause: str
    raw: bytes
    resets: int = -1
    """The code with which stream 3 ends; negative = it does not."""
    ends: int = -1
    """The code with which the connection ends."""
    status: str = ""
    """The answer of the proxy's own on stream 3."""
    reaches: bytes = b""
    """The request line that an instance may see; its body it must not see whole, unless the
    request is answered."""
    answered: bool = False
    """An instance answers it."""


POST = head(3, method="POST", end=False)
SIZED = head(3, ("content-length", "3"), method="POST", end=False)
SENT = b"POST /x HTTP/1.1\r\n"
ASKED = b"GET /x HTTP/1.1\r\n"
PING = frame(6, 0, 0, b"01234567")
HUGE = window(3, 0x7FFFFFFF)


def _good(name: str, clause: str, *raw: bytes, reaches: bytes = SENT) -> SessionCase:
    return SessionCase(name, clause, b"".join(raw), reaches=reaches, answered=True)


def _reset(
    name: str, clause: str, code: int, *raw: bytes, reaches: bytes = SENT, status: str = ""
) -> SessionCase:
    return SessionCase(name, clause, b"".join(raw), code, -1, status, reaches)


def _end(name: str, clause: str, code: int, *raw: bytes, reaches: bytes = b"") -> SessionCase:
    return SessionCase(name, clause, b"".join(raw), ends=code, reaches=reaches)


SESSION_CASES = (
    _good("request", "9113 §8.1", head(3), reaches=ASKED),
    _good("body in one frame", "9113 §8.1", POST, data(3, b"abc", True)),
    _good("body in several frames", "9113 §8.1", POST, data(3, b"a"), data(3, b"bc", True)),
    _good("end in a frame of its own", "9113 §8.1", POST, data(3, b"abc"), data(3, b"", True)),
    _good("body of nothing", "9113 §8.1", POST, data(3, b"", True)),
    _good("body of its length", "9113 §8.1.1", SIZED, data(3, b"ab"), data(3, b"c", True)),
    _good(
        "length, and an end of its own", "9113 §8.1.1", SIZED, data(3, b"abc"), data(3, b"", True)
    ),
    _good("padded body", "9113 §6.1", SIZED, frame(0, 9, 3, b"\x02abc\0\0")),
    _good("trailers of a request", "9113 §8.1", POST, data(3, b"abc"), trailers(3, ("x-t", "1"))),
    _good("trailers, and no content", "9113 §8.1", POST, trailers(3, ("x-t", "1"))),
    _good("PING within a body", "9113 §6.7", POST, PING, data(3, b"abc", True)),
    _good("unknown frame within a body", "9113 §5.5", POST, frame(0x99, 0, 3), data(3, b"", True)),
    _good("PRIORITY within a body", "9113 §6.3", POST, frame(2, 0, 3, b"\0\0\0\0\x01"),
          data(3, b"", True)),
    _good("SETTINGS within a body", "9113 §6.5", POST, frame(4), data(3, b"abc", True)),
    _good("GOAWAY of a client", "9113 §6.8", frame(7, 0, 0, bytes(8)), head(3), reaches=ASKED),
    _good("WINDOW_UPDATE of a closed stream", "9113 §5.1", window(1, 1), head(3), reaches=ASKED),
    _good("RST_STREAM of a closed stream", "9113 §5.1", reset(1), head(3), reaches=ASKED),
    _good("PRIORITY of a closed stream", "9113 §5.1", frame(2, 0, 1, b"\0\0\0\0\x01"), head(3),
          reaches=ASKED),
    _good("PRIORITY of a stream to come", "9113 §5.1", frame(2, 0, 9, b"\0\0\0\0\x01"), head(3),
          reaches=ASKED),
    # of a stream
    SessionCase("request that is cancelled", "9113 §5.4.2", head(3) + reset(3), reaches=ASKED),
    SessionCase("body that is cancelled", "9113 §5.4.2", POST + data(3, b"abc") + reset(3),
                reaches=SENT),
    _reset("body shorter than its length", "9113 §8.1.1", PROTOCOL, SIZED, data(3, b"ab", True),
           status="400"),
    _reset("body longer than its length", "9113 §8.1.1", PROTOCOL, SIZED, data(3, b"abcd", True),
           status="400"),
    _reset("body that goes on behind its length", "9113 §8.1.1", PROTOCOL, SIZED, data(3, b"abc"),
           data(3, b"d", True), status="400"),
    _reset("trailers before the length is there", "9113 §8.1.1", PROTOCOL, SIZED, data(3, b"ab"),
           trailers(3, ("x-t", "1")), status="400"),
    _reset("end without the body that was told", "9113 §8.1.1", PROTOCOL, SIZED, data(3, b"", True),
           status="400"),
    _reset("trailers that do not end it", "9113 §8.1", PROTOCOL, POST,
           frame(1, 4, 3, encode(b"x-t", b"1"))),
    _reset("pseudo-field behind a body", "9113 §8.1", PROTOCOL, POST, data(3, b"a"),
           trailers(3, (":path", "/y"))),
    _reset("field of connections behind a body", "9113 §8.2.2", PROTOCOL, POST, data(3, b"a"),
           trailers(3, ("transfer-encoding", "chunked"))),
    _reset("second head of a request", "9113 §5.1", CLOSED, head(3), head(3), reaches=ASKED),
    _reset("second head within a body", "9113 §8.1", PROTOCOL, POST, head(3)),
    _reset("DATA behind the end", "9113 §5.1", CLOSED, head(3), data(3, b"a"), reaches=ASKED),
    _reset("last DATA behind the end", "9113 §5.1", CLOSED, POST, data(3, b"a", True),
           data(3, b"", True)),
    _reset("window of a stream that is too large", "9113 §6.9.1", FLOW, POST, HUGE),
    _reset("window by 0", "9113 §6.9", PROTOCOL, POST, window(3, 0)),
    _reset("PRIORITY of 4 bytes within a body", "9113 §6.3", SIZE, POST,
           frame(2, 0, 3, bytes(4))),
    _reset("DATA behind our reset", "9113 §5.1", PROTOCOL, POST, window(3, 0), data(3, b"abc")),
    _reset("trailers behind our reset", "9113 §5.1", PROTOCOL, POST, window(3, 0),
           trailers(3, ("x-t", "1"))),
    # of the connection
    _end("DATA of a stream to come", "9113 §5.1", PROTOCOL, data(3, b"a")),
    _end("WINDOW_UPDATE of a stream to come", "9113 §5.1", PROTOCOL, window(3, 1)),
    _end("RST_STREAM of a stream to come", "9113 §5.1", PROTOCOL, reset(3)),
    _end("WINDOW_UPDATE by 0 of a stream to come", "9113 §6.9", PROTOCOL, window(3, 0)),
    _end("PRIORITY of 4 bytes of a stream to come", "9113 §6.3", SIZE, frame(2, 0, 3, bytes(4))),
    _end("DATA of a closed stream", "9113 §5.1", CLOSED, data(1, b"a")),
    _end("head of a closed stream", "9113 §5.1", CLOSED, head(1)),
    _end("stream below the latest", "9113 §5.1.1", CLOSED, head(9), head(3), reaches=ASKED),
    _end("stream of servers", "9113 §5.1.1", PROTOCOL, head(2)),
    _end("window of the connection that is too large", "9113 §6.9.1", FLOW, window(0, 0x7FFFFFFF)),
    _end("windows too large by SETTINGS", "9113 §6.9.2", FLOW, POST, window(3, 0x7FFF0000),
         frame(4, 0, 0, b"\0\4" + number(0x7FFFFFFF)), reaches=SENT),
    _end("broken field block", "9113 §4.3", 9, frame(1, 5, 3, b"\x80")),
    _end("broken field block behind a body", "9113 §4.3", 9, POST, frame(1, 5, 3, b"\x80"),
         reaches=SENT),
    _end("broken field block of a closed stream", "9113 §4.3", 9, frame(1, 5, 1, b"\x80")),
)  # fmt: skip


def head_of(case: HeadCase) -> bytes:
    """HEADERS of a request on stream 3, over clear text."""
    clear = {(b":scheme", b"https"): (b":scheme", b"http")}
    pairs = [hpack.NeverIndexedHeaderTuple(*clear.get(pair, pair)) for pair in case.fields]
    return frame(1, 5 if case.end else 4, 3, hpack.Encoder().encode(pairs, huffman=False))


def _of_frames(case: FrameCase) -> SessionCase:
    return SessionCase(case.name, case.clause, case.raw, ends=case.code)


def _of_heads(case: HeadCase) -> SessionCase:
    status = case.becomes if isinstance(case.becomes, int) else 405  # CONNECT.
    if status == 0:
        return SessionCase(case.name, case.clause, head_of(case), PROTOCOL)
    left = -1 if case.end else 0  # The rest of the body may stay away.
    return SessionCase(case.name, case.clause, head_of(case), left, -1, str(status))


CONVERSATIONS = (
    *SESSION_CASES,
    *(
        _of_frames(one)
        for one in FRAME_CASES
        if one.code >= 0 and not (one.bare or one.frames or one.reason == "head_too_large")
    ),
    *(
        _of_heads(one)
        for one in REQUEST_CASES
        if (isinstance(one.becomes, int) or one.becomes[0] == b"CONNECT")
        and one.name != "extended CONNECT that was not offered"  # It is, here.
    ),
)
"""And all that a session must refuse besides, whatever finds it out: a reader of frames, or of
heads."""
