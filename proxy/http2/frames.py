"""Frames (RFC 9113 §4, §6): from bytes to calls, and from values to bytes.

A reader checks what can be said of a frame by itself and of the one before it. Which streams there
are, and whether a frame is in order on one of them, is for the session that inherits from it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from proxy.http2.errors import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    GoAway,
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of a client (§3.4)."""

# Types (§6).
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
_ACK: Final = 0x01
_END_STREAM: Final = 0x01
_END_HEADERS: Final = 0x04
_PADDED: Final = 0x08
_PRIORITY: Final = 0x20

LARGEST: Final = 16384
"""Bytes of content of a frame that we take: what a peer may send before SETTINGS (§4.2). A larger
one would only be longer in coming."""
_HEADER: Final = 9
_TURN: Final = 256
"""Frames that one call reads, of those that cost the least: a read full of them would hold up
everybody else for tens of milliseconds, these take a fraction of one. What costs more counts for
several (`spend`)."""
_REQUEST: Final = 32
"""Frames that a head may cost besides its fields: in a rest of a turn of less it is not begun."""
_CONTINUATIONS: Final = 8
"""Frames of a head behind its first. With the sizes that peers use one is enough for any head that
we take; endless ones are an attack (CVE-2024-27316). nghttp2 takes as many."""
_SETTINGS: Final = 32
"""Of one frame. There are eight; nghttp2 takes as many."""
_LARGEST_ID: Final = 0x7FFFFFFF


class FrameReader:
    """Reads the frames of a connection, however they were cut, and calls a method for each. Owns
    what was fed and is not read yet.

    A method that raises `GoAway` ends the connection: nothing may be fed behind it.
    """

    __slots__ = (
        "_at", "_counted", "_end", "_fragments", "_left", "_max_block", "_padding", "_preface",
        "_rest", "_settled", "_stream", "_turn", "behind", "head_stream",
    )  # fmt: skip

    def __init__(self, of_client: bool, max_block: int) -> None:
        """`of_client`: the peer is a client, and begins with the preface; `max_block`: bytes of
        a field block, compressed as it is."""
        self._rest = b""  # ≤ 256 KiB + LARGEST
        """A frame that is cut off; or, while `behind`, a read that is not done yet."""
        self._at = 0
        """Bytes of `_rest` that are done, while `behind`."""
        self.behind = False
        """Not all that was fed is read: `feed(b"")` goes on, in another turn of the loop, and
        nothing else must be fed until then."""
        self._turn = 0
        self._preface = len(PREFACE) if of_client else 0
        """Bytes of the preface that are still to come."""
        self._settled = False
        """SETTINGS have come, as they must before all else."""
        self._max_block = max_block
        self.head_stream = 0
        """Stream of a head that is not whole; 0 = there is none. Its time is limited by the
        session, its size here."""
        self._fragments: list[bytes] = []  # ≤ 9 * LARGEST
        self._stream = 0
        """Stream of the DATA that are being read."""
        self._end = False
        """The stream ends with these, or with the head that is not whole."""
        self._left = 0
        """Bytes of content that are still to come."""
        self._counted = 0
        """Bytes that count for flow control besides, and are not counted yet."""
        self._padding = 0
        """Bytes to be skipped behind the content."""

    def feed(self, data: bytes) -> None:
        """Read more of what the peer says. Raises `GoAway`."""
        at = 0
        if self._rest:
            if data:
                data = self._rest[self._at :] + data
            else:
                data, at = self._rest, self._at
            self._rest = b""
            self._at = 0
        self.behind = False
        self._turn = _TURN
        size = len(data)
        if self._preface:
            at = self._read_preface(data)
        while at < size:  # ≤ 3 * _TURN
            if self._left:
                at = self._read_data(data, at)
            elif self._padding:
                skipped = min(self._padding, size - at)
                self._padding -= skipped
                at += skipped
            elif self._turn <= 0:
                self.behind = True
                break
            else:
                done = self._read_frame(data, at, size)
                if done == at:
                    break
                at = done
                self._turn -= 1
        if at < size:
            if self.behind:
                self._rest, self._at = data, at
            else:
                self._rest = data[at:]

    def keep(self, data: bytes) -> None:
        """Leave `data` to the next `feed`, which is perhaps of nothing more."""
        self._rest = self._rest[self._at :] + data
        self._at = 0
        self.behind = True

    @property
    def worked(self) -> int:
        """Requests that would have made the latest `feed` as much work; at least one."""
        return 1 + (_TURN - self._turn) // _REQUEST

    @property
    def moved(self) -> bool:
        """The latest `feed` has come to the end of a frame."""
        return self._turn < _TURN

    def spend(self, frames: int) -> None:
        """Count work that was made by what was read as so many frames more: see `behind`."""
        self._turn -= frames

    def _read_preface(self, data: bytes) -> int:
        expected = PREFACE[len(PREFACE) - self._preface :]
        given = data[: len(expected)]
        if not expected.startswith(given):
            raise GoAway(PROTOCOL_ERROR, "the connection does not begin with the preface")
        self._preface -= len(given)
        return len(given)

    def _read_frame(self, data: bytes, at: int, size: int) -> int:
        """Read the frame at `at`; returns where it ends, or `at` if it is cut off. Of DATA only
        the beginning must be here."""
        start = at + _HEADER
        if start > size:
            return at
        length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        kind = data[at + 3]
        flags = data[at + 4]
        stream = (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
        if length > LARGEST:
            raise GoAway(FRAME_SIZE_ERROR, f"a frame of {length} bytes, {LARGEST} are allowed")
        if self.head_stream and (kind != CONTINUATION or stream != self.head_stream):
            raise GoAway(PROTOCOL_ERROR, "a frame within a head")  # §4.3
        if not self._settled:
            if kind != SETTINGS or flags & _ACK:
                raise GoAway(PROTOCOL_ERROR, "the first frame is not SETTINGS")  # §3.4
            self._settled = True
        if kind == DATA:
            return self._begin_data(data, start, length, flags, stream)
        end = start + length
        if end > size:
            return at
        if kind in (HEADERS, CONTINUATION) and flags & _END_HEADERS:
            # A field takes two bytes or more, and as many frames' worth of work.
            block = length + sum(len(one) for one in self._fragments)
            if self._turn < min(block + _REQUEST, _TURN) and (
                kind != HEADERS or not self.is_known(data[start:end])
            ):
                self.behind = True
                return at
        if kind == HEADERS:
            self._read_head(data, start, end, flags, stream)
        elif kind == WINDOW_UPDATE:
            self._read_window(data[start:end], stream)
        elif kind == CONTINUATION:
            self._read_continuation(data[start:end], flags)
        elif kind <= GOAWAY:
            self._turn -= 1  # Most of them are answered.
            self._read_other(kind, flags, stream, data[start:end])
        else:
            self.on_ignored(kind)  # §5.5
        return end

    # -- content

    def _begin_data(self, data: bytes, at: int, length: int, flags: int, stream: int) -> int:
        _check_stream(stream, "DATA")
        counted = 0
        if flags & _PADDED:
            if length == 0:
                raise GoAway(FRAME_SIZE_ERROR, "padded DATA without room for its padding")
            if at == len(data):
                return at - _HEADER
            self._padding = data[at]
            counted = self._padding + 1
            at += 1
            if counted > length:
                raise GoAway(PROTOCOL_ERROR, "DATA that is shorter than its padding")
        end = flags & _END_STREAM != 0
        if length == counted:
            self.on_data(stream, b"", counted, end)
        else:
            self._left = length - counted
            self._counted = counted
            self._stream = stream
            self._end = end
        return at

    def _read_data(self, data: bytes, at: int) -> int:
        """Pass on what there is of DATA, and do not wait for the rest."""
        end = min(at + self._left, len(data))
        piece = data if end - at == len(data) else data[at:end]
        self._left -= end - at
        # Padding counts, too (§6.9): all of it with the first byte.
        counted = self._counted + end - at
        self._counted = 0
        self.on_data(self._stream, piece, counted, self._end and self._left == 0)
        return end

    # -- heads

    def _read_head(self, data: bytes, at: int, end: int, flags: int, stream: int) -> None:
        _check_stream(stream, "HEADERS")
        stop = end
        if flags & _PADDED:
            if at == end:
                raise GoAway(FRAME_SIZE_ERROR, "padded HEADERS without room for their padding")
            stop -= data[at]
            at += 1
        if flags & _PRIORITY:
            at += 5  # §5.3.2: priorities of this kind are read over.
            if at > end:
                raise GoAway(FRAME_SIZE_ERROR, "HEADERS without room for their priority")
        if at > stop:
            raise GoAway(PROTOCOL_ERROR, "HEADERS that are shorter than their padding")
        self._end = flags & _END_STREAM != 0
        block = data[at:stop]
        self._check_size(len(block))
        if flags & _END_HEADERS:
            self.on_head(stream, block, self._end)
        else:
            self.head_stream = stream
            self._fragments = [block]

    def _read_continuation(self, fragment: bytes, flags: int) -> None:
        stream = self.head_stream
        if not stream:
            raise GoAway(PROTOCOL_ERROR, "CONTINUATION of no head")  # §6.10
        fragments = self._fragments
        fragments.append(fragment)
        self._check_size(sum(len(one) for one in fragments))
        if flags & _END_HEADERS:
            self.head_stream = 0
            self._fragments = []
            self.on_head(stream, b"".join(fragments), self._end)
        elif len(fragments) > _CONTINUATIONS:
            detail = f"a head of more than {_CONTINUATIONS + 1} frames"
            raise GoAway(ENHANCE_YOUR_CALM, detail, "continuation_flood")

    def _check_size(self, size: int) -> None:
        """Of a field block, or of what there is of it."""
        if size > self._max_block:
            # Not read, so that the table is not what the peer believes: the end of the connection.
            detail = f"a head of {size} bytes or more, {self._max_block} are allowed"
            raise GoAway(ENHANCE_YOUR_CALM, detail, "head_too_large")

    # -- the rest

    def _read_window(self, content: bytes, stream: int) -> None:
        if len(content) != 4:
            raise GoAway(FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment = int.from_bytes(content, "big") & _LARGEST_ID
        if stream:
            _check_stream(stream, "WINDOW_UPDATE")
        if increment:
            self.on_window(stream, increment)
        elif stream:
            self.on_bad_frame(stream, PROTOCOL_ERROR, "WINDOW_UPDATE by 0")  # §6.9
        else:
            raise GoAway(PROTOCOL_ERROR, "WINDOW_UPDATE by 0")

    def _read_other(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        size = len(content)
        if kind == PRIORITY:
            if stream == 0:
                raise GoAway(PROTOCOL_ERROR, "PRIORITY on no stream")
            if size != 5:
                self.on_bad_frame(stream, FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")  # §6.3
            else:
                self.on_ignored(kind)
        elif kind == RST_STREAM:
            _check_stream(stream, "RST_STREAM")
            if size != 4:
                raise GoAway(FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
            self.on_reset(stream, int.from_bytes(content, "big"))
        elif kind == PUSH_PROMISE:
            # §6.6, §8.4: a client never sends one, and we have told servers not to.
            raise GoAway(PROTOCOL_ERROR, "PUSH_PROMISE, which was switched off")
        elif stream != 0:
            raise GoAway(PROTOCOL_ERROR, f"a frame of type {kind} is on a stream")
        elif kind == SETTINGS:
            self._read_settings(content, flags & _ACK != 0)
        elif kind == PING:
            if size != 8:
                raise GoAway(FRAME_SIZE_ERROR, "PING is not 8 bytes")
            self.on_ping(content, flags & _ACK != 0)
        else:
            if size < 8:
                raise GoAway(FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
            last = int.from_bytes(content[:4], "big") & _LARGEST_ID
            self.on_goaway(last, int.from_bytes(content[4:8], "big"), content[8:])

    def _read_settings(self, content: bytes, ack: bool) -> None:
        if ack:
            if content:
                raise GoAway(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS that holds some")
            self.on_settings_ack()
            return
        if len(content) % _SETTING.size:
            raise GoAway(FRAME_SIZE_ERROR, "SETTINGS are not 6 bytes each")
        if len(content) > _SETTINGS * _SETTING.size:
            detail = f"more than {_SETTINGS} settings in a frame"
            raise GoAway(ENHANCE_YOUR_CALM, detail, "settings_flood")
        self.on_settings(list(_SETTING.iter_unpack(content)))

    # -- what a session hears

    def on_data(self, stream: int, piece: bytes, counted: int, end: bool) -> None:
        """More of the content of a stream. `counted`: bytes by which its window and that of the
        connection have become smaller, padding included; `end`: the stream's last."""
        raise NotImplementedError

    def on_head(self, stream: int, block: bytes, end: bool) -> None:
        """A head, or trailers, as a field block. Whatever the state of the stream, the block must
        be read, since it may change the table. `end`: the stream's last frame."""
        raise NotImplementedError

    def is_known(self, block: bytes) -> bool:
        """Whether a head costs next to nothing, because such a block is remembered."""
        return False

    def on_reset(self, stream: int, code: int) -> None:
        """The peer has ended a stream."""
        raise NotImplementedError

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """The peer's settings, unchecked (`PeerSettings.take`), to be acknowledged."""
        raise NotImplementedError

    def on_settings_ack(self) -> None:
        """The peer has taken note of our settings."""
        raise NotImplementedError

    def on_ping(self, content: bytes, ack: bool) -> None:
        """A question that is to be acknowledged; or an acknowledgement of ours."""
        raise NotImplementedError

    def on_goaway(self, last: int, code: int, debug: bytes) -> None:
        """The peer takes no streams beyond `last`."""
        raise NotImplementedError

    def on_window(self, stream: int, increment: int) -> None:
        """So many bytes more may be sent on a stream, or on the connection (0)."""
        raise NotImplementedError

    def on_ignored(self, kind: int) -> None:
        """A frame that means nothing to us, but for its cost."""
        raise NotImplementedError

    def on_bad_frame(self, stream: int, code: int, detail: str) -> None:
        """A frame that ends its stream, with this code, and not the connection."""
        raise NotImplementedError


def _check_stream(stream: int, what: str) -> None:
    """Only clients open streams, as nobody may push, and theirs are odd (§5.1.1)."""
    if stream & 1 == 0:
        raise GoAway(PROTOCOL_ERROR, f"{what} on stream {stream}")


# -- writing

_SETTING: Final = Struct(">HI")


def frame_header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The beginning of a frame whose content has `length` bytes."""
    # A number of 63 bits at most: those are no objects in what is compiled.
    return (length << 48 | kind << 40 | flags << 32 | stream).to_bytes(9, "big")


def data_header(length: int, stream: int, end: bool) -> bytes:
    """The beginning of DATA; `end`: the stream's last. The content is written behind it as it is,
    in any number of pieces."""
    return frame_header(length, DATA, _END_STREAM if end else 0, stream)


def head_frames(stream: int, block: bytes, end: bool, largest: int) -> bytes:
    """HEADERS, and what does not fit in CONTINUATION. `largest`: content that the peer takes of a
    frame; `end`: the stream's last."""
    flags = _END_STREAM if end else 0
    if len(block) <= largest:
        return frame_header(len(block), HEADERS, flags | _END_HEADERS, stream) + block
    parts: list[bytes] = []
    kind = HEADERS
    for at in range(0, len(block), largest):  # ≤ 256
        part = block[at : at + largest]
        if at + largest >= len(block):
            flags |= _END_HEADERS
        parts += (frame_header(len(part), kind, flags, stream), part)
        kind, flags = CONTINUATION, 0
    return b"".join(parts)


def answer_frames(stream: int, block: bytes, content: bytes) -> bytes:
    """HEADERS and DATA of a whole answer; neither is longer than a frame."""
    return b"%b%b%b%b" % (
        frame_header(len(block), HEADERS, _END_HEADERS, stream),
        block,
        frame_header(len(content), DATA, _END_STREAM, stream),
        content,
    )


def reset(stream: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame_header(4, RST_STREAM, 0, stream) + code.to_bytes(4, "big")


SETTINGS_ACK: Final = frame_header(0, SETTINGS, _ACK, 0)


def settings(pairs: list[tuple[int, int]]) -> bytes:
    """SETTINGS: identifiers and values."""
    content = b"".join([_SETTING.pack(name, value) for name, value in pairs])
    return frame_header(len(content), SETTINGS, 0, 0) + content


def ping(content: bytes, ack: bool = False) -> bytes:
    """PING of 8 bytes."""
    return frame_header(8, PING, _ACK if ack else 0, 0) + content


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY; `last`: the last stream that something may have been done about."""
    content = last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug
    return frame_header(len(content), GOAWAY, 0, 0) + content


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE of a stream, or of the connection (0)."""
    return frame_header(4, WINDOW_UPDATE, 0, stream) + increment.to_bytes(4, "big")
