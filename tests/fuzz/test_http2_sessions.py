"""Sessions of HTTP/2 against mutated conversations, instances that say anything, and accidents:
nothing is raised inside or left behind, and each end understands what it gets.

For as long as one likes: `python -m tests.fuzz.test_http2_sessions SECONDS`.
"""

from __future__ import annotations

import random
import sys
import time

import pytest
import structlog

from proxy.http2.frame_list import FrameList
from tests.fuzz.target import PHRASES, Scene
from tests.support.frame_cases import START, frame
from tests.support.h2_peer import data, head, number, reset, window
from tests.support.session_cases import CONVERSATIONS
from tests.support.strict_http import read_requests
from tests.support.wire import Peer

GRPC = ("content-type", "application/grpc")
PARTS = [
    *(case.raw for case in CONVERSATIONS),
    *(head(stream, method=m, end=m == "GET") for stream in (1, 3, 5, 7) for m in ("GET", "POST")),
    *(head(stream, GRPC, ("te", "trailers"), method="POST", end=False) for stream in (1, 3, 9)),
    *(data(stream, size * b"x", end) for stream in (1, 3, 5) for size in (0, 1, 9000)
      for end in (False, True)),
    *(head(stream, method="CONNECT", protocol=protocol, end=False)
      for stream in (1, 3) for protocol in ("echo", "websocket")),
    *(reset(stream) for stream in (1, 3, 5)),
    *(window(stream, 1 << 20) for stream in (0, 1, 3)),
    *(frame(4, 0, 0, b"\0\4" + number(size)) for size in (0, 1, 1 << 20)),
]  # fmt: skip
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + 70_000 * b"y",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\ngrpc-status: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello",
    *PHRASES[20:],
]


class Sessions(Scene):
    """A scene whose clients begin as those of HTTP/2."""

    def begin(self) -> Peer:
        client = self.clients[-1]
        if client not in self.said:
            self.say(client, START)
        return client

    def judge(self) -> None:
        """See `Scene`."""
        for peer in self.instances:
            read_requests(bytes(self.received.get(peer, b"")))
        for peer in self.clients:
            if peer in self.said:
                heard = FrameList(False, 1 << 20)
                heard.feed(bytes(self.received.get(peer, b"")))
                while heard.behind:
                    heard.feed(b"")
        for counters in self.wire.worker.counters.services.values():
            assert "internal" not in counters.faults


def play(rng: random.Random) -> None:
    """One scene."""
    scene = Sessions()
    for _ in range(rng.randint(1, 25)):
        what = rng.randrange(10)
        if what < 6:
            client = scene.begin()
            said = bytearray(b"".join(rng.choice(PARTS) for _ in range(rng.randint(1, 5))))
            if rng.random() < 0.2:
                said[rng.randrange(len(said))] ^= 1 << rng.randrange(8)
            at = rng.randint(0, len(said))
            for piece in (said[:at], said[at:]):
                scene.say(client, bytes(piece))
        elif what < 9:
            instance = scene.instance()
            if instance is not None:
                scene.say(instance, rng.choice(ANSWERS))
        else:
            scene.act(rng.randrange(16))
        scene.collect()
    scene.close()
    scene.judge()


@pytest.mark.parametrize(
    ("seed", "rounds"), [(0, 150), pytest.param(1, 5_000, marks=pytest.mark.drill)]
)
def test_sessions_survive_anything(seed: int, rounds: int) -> None:
    for one in range(rounds):
        play(random.Random(f"{seed} {one}"))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    until, played = time.monotonic() + float(sys.argv[1]), 0
    while time.monotonic() < until:
        play(random.Random(f"long {played}"))
        played += 1
    sys.stdout.write(f"{played} scenes\n")
