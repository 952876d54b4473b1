"""A reader of frames for programs that read few of them."""

from __future__ import annotations

from proxy.http2.frames import FrameReader


class FrameList(FrameReader):
    """Owns the frames that came, as values."""

    __slots__ = ("cost", "frames", "known")

    def __init__(self, of_client: bool, max_block: int) -> None:
        super().__init__(of_client, max_block)
        self.frames: list[tuple[object, ...]] = []  # ≤ 1 MiB
        """The kind of each, which is the name of its method, and that method's arguments."""
        self.known = False
        """See `is_known`."""
        self.cost = 0
        """Cost of a frame of a kind that is ignored, beyond its own: see `spend`."""

    def is_known(self, block: bytes) -> bool:
        return self.known

    def on_data(self, stream: int, piece: bytes, counted: int, end: bool) -> None:
        self.frames.append(("data", stream, piece, counted, end))

    def on_head(self, stream: int, block: bytes, end: bool) -> None:
        self.frames.append(("head", stream, block, end))

    def on_reset(self, stream: int, code: int) -> None:
        self.frames.append(("reset", stream, code))

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        self.frames.append(("settings", settings))

    def on_settings_ack(self) -> None:
        self.frames.append(("settings_ack",))

    def on_ping(self, content: bytes, ack: bool) -> None:
        self.frames.append(("ping", content, ack))

    def on_goaway(self, last: int, code: int, debug: bytes) -> None:
        self.frames.append(("goaway", last, code, debug))

    def on_window(self, stream: int, increment: int) -> None:
        self.frames.append(("window", stream, increment))

    def on_ignored(self, kind: int) -> None:
        self.frames.append(("ignored", kind))
        self.spend(self.cost)

    def on_bad_frame(self, stream: int, code: int, detail: str) -> None:
        self.frames.append(("bad_frame", stream, code))
