"""Bodies as streams of pieces: where a body ends, and how its pieces are framed again.

A reader takes bytes as they come off the wire and returns payload pieces plus whatever lies
behind the end. Payload is never copied when a whole read belongs to the body, and never held:
what goes in comes out of the same call.
"""

from __future__ import annotations

import re
from typing import Protocol

from proxy.errors import Fault, Refused

_NOTHING: list[bytes] = []

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
"""15 hex digits stay below 2**60. Extensions are read over and not passed on (RFC 9112 §7.1.1):
nobody uses them but for smuggling."""
_MAX_SIZE_LINE = 256
_MAX_TRAILERS = 8 * 1024
"""Trailers are rare and small; without a bound they are an endless head."""
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class BodyReader(Protocol):
    """Where a body ends."""

    done: bool

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Payload pieces in `data`, and what follows the body once `done`. Raises `Refused`."""
        ...


class LengthBody:
    """`Content-Length` bytes (RFC 9112 §6.2)."""

    __slots__ = ("done", "remaining")

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
    """Everything up to the end of the connection (responses only, RFC 9112 §6.3 rule 8)."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See `BodyReader`. Never done by itself."""
        return [data], b""


class ChunkedBody:
    """The chunked coding (RFC 9112 §7.1), read strictly: CRLF only, sizes in plain hex."""

    __slots__ = ("_buffer", "_fault", "_remaining", "_state", "_trailer_size", "done")

    _SIZE_LINE, _DATA, _DATA_END, _TRAILERS = range(4)

    def __init__(self, fault: Fault) -> None:
        """`fault` is what a framing error is: the client's or the instance's."""
        self.done = False
        self._fault = fault
        self._state = self._SIZE_LINE
        self._remaining = 0
        self._buffer = b""
        self._trailer_size = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See `BodyReader`. Trailers are read and dropped."""
        pieces: list[bytes] = []
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        at, size = 0, len(data)
        while at < size:
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
            else:
                line, at = self._line(data, at)
                if line is None:
                    break
                if self._state == self._SIZE_LINE:
                    match = _SIZE.fullmatch(line)
                    if match is None:
                        raise Refused(self._fault, "a chunk size is not a plain hex number")
                    self._remaining = int(match[1], 16)
                    self._state = self._DATA if self._remaining else self._TRAILERS
                elif not line:
                    self.done = True
                    return pieces, data[at:]
                elif not _TRAILER.fullmatch(line):
                    raise Refused(self._fault, "a trailer is not a field line")
        return pieces, b""

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
            if self._trailer_size > _MAX_TRAILERS:
                raise Refused(self._fault, "the trailers are too long")
        return line, end + 1


LAST_CHUNK = b"0\r\n\r\n"


def chunk(pieces: list[bytes]) -> list[bytes]:
    """One chunk that carries all of `pieces`, as pieces to write; nothing for nothing, since
    an empty chunk would end the body."""
    size = sum(map(len, pieces))
    if size == 0:
        return _NOTHING
    return [b"%x\r\n" % size, *pieces, b"\r\n"]
