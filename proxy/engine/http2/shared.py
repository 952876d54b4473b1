"""A session with an instance as its node sees it."""

from __future__ import annotations

from proxy.engine.http2.sender import FrameSender
from proxy.engine.streams import UpstreamStream


class SharedSession(FrameSender):
    """Owns what its subclass does; here is what others than its streams ask of it."""

    __slots__ = ("settled",)

    settled: bool
    """The instance has said its SETTINGS, and so how many streams it takes."""

    @property
    def idle(self) -> bool:
        """There are no streams."""
        raise NotImplementedError

    def stream(self) -> UpstreamStream | None:
        """A stream for one exchange; None: there is no room for one."""
        raise NotImplementedError

    def retire(self) -> None:
        """No further streams: close when the last one that there is has ended."""
        raise NotImplementedError


def shared_stream(sessions: list[SharedSession]) -> UpstreamStream | None:
    """A stream over the first of these that has room: so that the others become idle."""
    for session in sessions:  # ≤ connections
        stream = session.stream()
        if stream is not None:
            return stream
    return None
