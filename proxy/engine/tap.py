"""A listener to the body of a request that goes on."""

from __future__ import annotations


class Tap:
    """Hears of a request's body as it comes, and of the request's end."""

    def feed(self, pieces: list[bytes], done: bool) -> None:
        """More of the body; `done` with the last of it."""
        raise NotImplementedError

    def end(self) -> None:
        """Hear that the request has ended, perhaps in the middle of its body."""
        raise NotImplementedError
