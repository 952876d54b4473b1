"""Flow control as arithmetic (RFC 9113 §5.2, §6.9): windows, and content that waits for one."""

from __future__ import annotations

from typing import Final

FIRST_WINDOW: Final = 65535
"""Bytes, of a connection and of a stream, before anybody says otherwise (§6.9.2)."""
LARGEST_WINDOW: Final = 0x7FFFFFFF
_SMALL: Final = 1024
"""Bytes of pieces that are joined: frames of one byte would take forty times their content."""


class SendWindow:
    """Bytes that the peer takes of a stream, or of the connection."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size
        """Negative where the peer has made the windows smaller than what was under way."""

    def grow(self, by: int) -> bool:
        """By a WINDOW_UPDATE, or by a change of SETTINGS, which may be negative. False: the window
        would be larger than windows may be, which is an error (§6.9.1)."""
        self.left += by
        return self.left <= LARGEST_WINDOW


class ReceiveWindow:
    """Bytes that we take of a stream, or of the connection.

    They are given back in portions of at least half of the window: a WINDOW_UPDATE for each piece
    would cost more than the piece.
    """

    __slots__ = ("_owed", "left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        """Bytes that the peer may send ahead of what was taken off its hands."""
        self.left = size
        """Bytes that the peer may still send."""
        self._owed = 0

    def take(self, count: int) -> bool:
        """The peer has sent so many. False: more than it may (§6.9.1)."""
        self.left -= count
        return self.left >= 0

    def give(self, count: int) -> int:
        """So many have been taken off the peer's hands. Returns by how much to let it send more
        now; 0 = not worth a frame yet."""
        self._owed += count
        if 2 * self._owed < self.size:
            return 0
        return self._grant()

    def enlarge(self, size: int) -> int:
        """Another size, if it is larger: as `give`, and at once."""
        if size <= self.size:
            return 0
        self._owed += size - self.size
        self.size = size
        return self._grant()

    def _grant(self) -> int:
        granted = self._owed
        self._owed = 0
        self.left += granted
        return granted


def add_piece(pieces: list[bytes], piece: bytes) -> None:
    """Append a piece; a small one becomes a part of the last one, if that is small, too."""
    if pieces and len(pieces[-1]) + len(piece) <= _SMALL:
        pieces[-1] += piece
    else:
        pieces.append(piece)


_NOTHING: Final[list[bytes]] = []  # ≤ 64 B


class Pieces(SendWindow):
    """Owns content of a stream that waits for its window. Nothing is copied but what is cut, and
    what is so small that the object around it would be larger."""

    __slots__ = ("_at", "_pieces", "size")

    def __init__(self, window: int) -> None:
        """`window`: bytes that the peer takes."""
        super().__init__(window)
        self._pieces = _NOTHING  # ≤ 1 MiB per request
        self._at = 0
        """Bytes of the first piece that are gone already."""
        self.size = 0

    def put(self, pieces: list[bytes]) -> None:
        """More of the content. Whoever puts more when `size` is large must have a reason."""
        if self._pieces is _NOTHING:
            self._pieces = []
        for piece in pieces:  # ≤ 256
            if piece:
                add_piece(self._pieces, piece)
                self.size += len(piece)

    def take(self, room: int) -> list[bytes]:
        """Pieces that fit into `room` bytes of a frame."""
        taken: list[bytes] = []
        pieces = self._pieces
        gone = 0
        while gone < len(pieces) and room > 0:  # ≤ 64 KiB
            piece = pieces[gone]
            count = len(piece) - self._at
            if count > room:
                end = self._at + room
                taken.append(piece[self._at : end])
                self._at = end
                self.size -= room
                break
            taken.append(piece[self._at :] if self._at else piece)
            gone += 1
            self._at = 0
            self.size -= count
            room -= count
        if gone:
            self._pieces = pieces[gone:]
        return taken

    def clear(self) -> None:
        """Forget the content: its stream is over."""
        self._pieces = _NOTHING
        self._at = self.size = 0
