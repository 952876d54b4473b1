"""Bodies as streams of pieces: where a body ends, and how its pieces are framed again.

A reader takes bytes as they come off the wire and returns payload pieces plus whatever lies
behind the end. Payload is never copied when a whole read belongs to the body, and never held:
what goes in comes out of the same call, but for more chunks than a call may read.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from proxy.errors import Fault, Refused
from proxy.http.trailers import passed_trailer

_NOTHING: Final[list[bytes]] = []  # ≤ 64 B

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
"""15 hex digits stay below 2**60. Extensions are read over and not passed on (RFC 9112 §7.1.1):
nobody uses them but for smuggling."""
_MAX_SIZE_LINE: Final = 256
_MAX_TRAILERS: Final = 8 * 1024
_MAX_TRAILER_LINES: Final = 128
"""Trailers are rare and small; without a bound they are an endless head. As many as a client may
send fields."""
CHUNKS: Final = 256
"""Chunks, and lines of trailers, that one call reads. A chunk costs the same whatever its size, so
a read full of chunks of one byte would hold up everybody else for a tenth of a second; these take
under a millisecond."""
_FEW: Final = 8
"""Pieces that are passed on as they are. More of them are joined: each is a buffer to write, and
together they are no longer than a read."""
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class BodyReader(Protocol):
    """Where a body ends."""

    done: bool
    behind: bool
    """Not all that was fed is read: `feed(b"")` goes on, in another turn of the loop."""
    trailers: bytes
    """Once `done`: the trailer fields that may be passed on, serialised (RFC 9110 §6.5)."""

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Payload pieces in `data`, and what follows the body once `done`. Raises `Refused`."""
        ...


class LengthBody:
    """`Content-Length` bytes (RFC 9112 §6.2)."""

    __slots__ = ("done", "remaining")
    behind = False
    trailers = b""

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See `BodyReader`."""
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return [data], b""
        remaining = self.remaining
        self.remaining = 0
        self.done = True
        if size == remaining:
            return [data], b""
        return [data[:remaining]], data[remaining:]


class UntilCloseBody:
    """Body up to the end of the connection (responses only, RFC 9112 §6.3 rule 8)."""

    __slots__ = ("done",)
    behind = False
    trailers = b""

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See `BodyReader`. Never done by itself."""
        return [data], b""


class ChunkedBody:
    """The chunked coding (RFC 9112 §7.1), read strictly: CRLF only, sizes in plain hex. Owns what
    was fed and is not read yet."""

    __slots__ = (
        "_at", "_buffer", "_fault", "_named", "_remaining", "_state", "_trailer_lines",
        "_trailer_size", "behind", "done", "trailers",
    )  # fmt: skip

    _SIZE_LINE: Final = 0
    _DATA: Final = 1
    _DATA_END: Final = 2
    _TRAILERS: Final = 3

    def __init__(self, fault: Fault, connection: frozenset[bytes] = frozenset()) -> None:
        """`fault` is what a framing error is: the client's or the instance's. `connection`: what
        the message's Connection names, which ends here wherever it stands (RFC 9110 §7.6.1), and
        other fields for which that holds."""
        self.done = False
        self.behind = False
        self._named = connection
        self._fault = fault
        self._state = self._SIZE_LINE
        self._remaining = 0
        self._buffer = b""  # ≤ 256 KiB + 1 KiB
        """A line that is cut off; or, while `behind`, a read that is not done yet."""
        self._at = 0
        """Bytes of `_buffer` that are done, while `behind`."""
        self._trailer_lines = 0
        self._trailer_size = 0
        self.trailers = b""  # ≤ 3 * _MAX_TRAILERS

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See `BodyReader`."""
        pieces: list[bytes] = []
        at = 0
        if self._buffer:
            if data:
                data = self._buffer[self._at :] + data
            else:
                data, at = self._buffer, self._at
            self._buffer = b""
            self._at = 0
        self.behind = False
        size = len(data)
        left = CHUNKS
        while at < size:  # ≤ 3 * CHUNKS
            if self._state == self._DATA:
                end = min(at + self._remaining, size)
                pieces.append(data if end - at == size else data[at:end])
                self._remaining -= end - at
                at = end
                if self._remaining == 0:
                    self._state = self._DATA_END
            elif self._state == self._DATA_END:
                if size - at < 2:
                    if data[at] != 0x0D:
                        raise Refused(self._fault, "a chunk is longer than its size says")
                    self._buffer = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    raise Refused(self._fault, "a chunk is longer than its size says")
                at += 2
                self._state = self._SIZE_LINE
            elif left == 0:
                self.behind = True
                self._buffer, self._at = data, at
                break
            else:
                left -= 1
                line, at = self._line(data, at)
                if line is None:
                    break
                if self._state == self._SIZE_LINE:
                    match = _SIZE.fullmatch(line)
                    if match is None:
                        raise Refused(self._fault, "a chunk size is not a plain hex number")
                    length = int(match[1], 16)
                    if length == 0:
                        self._state = self._TRAILERS
                    elif data[at + length : at + length + 2] == b"\r\n":
                        # All of a chunk is here, as of most small ones.
                        pieces.append(data[at : at + length])
                        at += length + 2
                    else:
                        self._remaining = length
                        self._state = self._DATA
                elif not line:
                    self.done = True
                    return self._joined(pieces), data[at:]
                elif not _TRAILER.fullmatch(line):
                    raise Refused(self._fault, "a trailer is not a field line")
                else:
                    name, _, value = line.partition(b":")
                    self.trailers += passed_trailer(name, value.strip(b" \t"), self._named)
        return self._joined(pieces), b""

    @staticmethod
    def _joined(pieces: list[bytes]) -> list[bytes]:
        return pieces if len(pieces) <= _FEW else [b"".join(pieces)]

    def _line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The line at `at` and where the next begins; None while it is cut off."""
        end = data.find(b"\n", at)
        limit = _MAX_SIZE_LINE if self._state == self._SIZE_LINE else _MAX_TRAILERS
        if end < 0:
            if len(data) - at > limit + 1:  # The CR may be here already.
                raise Refused(self._fault, "a chunk size line or trailer is too long")
            self._buffer = data[at:]
            return None, len(data)
        if end == at or data[end - 1] != 0x0D:
            raise Refused(self._fault, "a line of the chunked coding ends in a bare LF")
        line = data[at : end - 1]
        if len(line) > limit:
            raise Refused(self._fault, "a chunk size line or trailer is too long")
        if self._state == self._TRAILERS:
            self._trailer_size += len(line)
            if line:
                self._trailer_lines += 1
            if self._trailer_size > _MAX_TRAILERS or self._trailer_lines > _MAX_TRAILER_LINES:
                raise Refused(self._fault, "the trailers are too long, or too many")
        return line, end + 1


def last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % trailers


def chunk(pieces: list[bytes]) -> list[bytes]:
    """One chunk that carries all of `pieces`, as pieces to write; nothing for nothing, since
    an empty chunk would end the body."""
    size = sum(map(len, pieces))
    if size == 0:
        return _NOTHING
    return [b"%x\r\n" % size, *pieces, b"\r\n"]


def in_chunks(pieces: list[bytes], done: bool, trailers: bytes) -> list[bytes]:
    """`pieces` as one chunk to write; `done`: with the end of the body, and these trailers."""
    framed = chunk(pieces)
    return [*framed, last_chunk(trailers)] if done else framed
