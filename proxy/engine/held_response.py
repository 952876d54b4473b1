"""A bad answer that is kept in reserve while a better one is sought."""

from __future__ import annotations

from proxy.engine.streams import UpstreamStream
from proxy.http.messages import ResponseHead


class HeldResponse:
    """Owns an answer of which nothing more is read, and the stream that it came by."""

    __slots__ = ("done", "pieces", "response", "trailers", "upstream")

    def __init__(
        self,
        upstream: UpstreamStream,
        response: ResponseHead,
        pieces: list[bytes],
        done: bool,
        trailers: bytes,
    ) -> None:
        """`done`: the answer is here whole."""
        self.upstream: UpstreamStream | None = None if done else upstream
        self.response = response  # ≤ 256 KiB
        self.pieces = pieces  # ≤ 512 KiB
        self.done = done
        self.trailers = trailers  # ≤ 32 KiB

    def discard(self) -> None:
        """A better one came, or nobody wants any."""
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None
