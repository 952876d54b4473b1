"""The part of a request's body that is kept for a second attempt."""

from __future__ import annotations

from typing import Final

REPLAY_LIMIT: Final = 64 * 1024
"""Bytes of a request body kept for a second attempt. Larger bodies are sent once: keeping them
would make every upload cost its size in memory."""

_LOOSE: Final = 64
"""Pieces of it that are kept as they came: each has a header of 33 bytes, so a body that comes
byte by byte would take forty times its size."""


class ReplayBuffer:
    """Owns the pieces of a body that no instance has, or that a second attempt would need."""

    __slots__ = ("pieces", "size")

    def __init__(self, pieces: list[bytes]) -> None:
        """`pieces`: the first ones."""
        self.pieces = pieces  # ≤ REPLAY_LIMIT + 256 KiB + 8 KiB
        self.size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))

    @property
    def too_large(self) -> bool:
        """Once it was sent, nothing of it is kept."""
        return self.size > REPLAY_LIMIT

    def keep(self, pieces: list[bytes]) -> None:
        """More of the body came."""
        loose = len(self.pieces) > _LOOSE
        self.pieces = [b"".join(self.pieces), *pieces] if loose else [*self.pieces, *pieces]
        self.size += sum(map(len, pieces))
