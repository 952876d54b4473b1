"""The codec of HTTP/2 against mutated conversations: whatever comes is read, refused or the end of
the connection, and nothing else is ever raised."""

from __future__ import annotations

import random

import pytest

from proxy.engine.http1.heads import request_head
from proxy.errors import Refused
from proxy.http.fields import USUAL_IDS
from proxy.http.forwarding import ClientFacts
from proxy.http2.blocks import request_block
from proxy.http2.errors import GoAway, Malformed
from proxy.http2.frame_list import FrameList
from proxy.http2.frames import head_frames
from proxy.http2.heads import RequestReader
from proxy.http2.hpack import encode
from proxy.http2.settings import PeerSettings
from tests.support.frame_cases import FRAME_CASES, START
from tests.support.head_cases import REQUEST_CASES
from tests.support.strict_http import read_requests

HEADS = [
    head_frames(1, b"".join([encode(*field) for field in case.fields]), case.end, 16384)
    for case in REQUEST_CASES
]
INDEXED = [
    head_frames(3, b"\x82\x86\x84\x41\x01h\x40\x01a" + bytes((n,)) + b"x" * n + b"\xbe", True, 9)
    for n in range(40)
]
SEEDS = [*(case.raw for case in FRAME_CASES if not case.bare), *HEADS, *INDEXED]
FACTS = ClientFacts("10.0.0.1", 80, None, b"Via: 2 fairlead (0)\r\n")


def play(stream: bytes, cut: int) -> int:
    """How many requests were understood."""
    frames = FrameList(of_client=True, max_block=2000)
    requests = RequestReader(USUAL_IDS, 8192, 50)
    peer = PeerSettings(of_server=False)
    understood = 0
    try:
        for at in range(0, len(stream), cut):
            frames.feed(stream[at : at + cut])
            while frames.behind:
                frames.feed(b"")
            for kind, *rest in frames.frames:
                if kind == "settings":
                    peer.take(rest[0])  # type: ignore[arg-type]
                elif kind == "head":
                    understood += read(requests, rest[1], rest[2])  # type: ignore[arg-type]
            frames.frames.clear()
    except GoAway:
        pass
    return understood


def read(requests: RequestReader, block: bytes, end: bool) -> bool:
    try:
        head = requests.read(block, end)
    except (Malformed, Refused):
        return False
    lines = request_head(head, head.target, None, b"", b"", FACTS)
    if not head.fields.length and not head.fields.chunked and head.method != b"CONNECT":
        assert len(read_requests(lines)[0]) == 1
    tail = FACTS.tail(head.fields, None)
    block = request_block(head.method, b"http", head.target, tail, b"")
    again = (
        RequestReader(USUAL_IDS, 16384, 100).read(block, end) if head.method != b"CONNECT" else head
    )
    assert again.target == head.target
    return True


def mutated(rng: random.Random) -> bytes:
    parts = [bytearray(rng.choice(SEEDS)) for _ in range(rng.randint(1, 6))]
    for part in parts:
        for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
            at = rng.randrange(len(part) + 1)
            match rng.randrange(4):
                case 0:
                    part[at : at + 1] = bytes((rng.randrange(256),))
                case 1:
                    part[at:at] = rng.randbytes(rng.randint(1, 4))
                case 2:
                    del part[at : at + rng.randint(1, 4)]
                case _:
                    if at < len(part):
                        part[at] ^= 1 << rng.randrange(8)
    return START + b"".join(parts)


def test_every_seed() -> None:
    assert len(SEEDS) > 200
    assert sum(play(START + seed, 1000) for seed in SEEDS) > 50


@pytest.mark.parametrize(
    ("seed", "rounds"), [(0, 1000), pytest.param(1, 100_000, marks=pytest.mark.drill)]
)
def test_mutated_conversations(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    understood = sum(play(mutated(rng), rng.choice((1, 7, 1000))) for _ in range(rounds))
    assert understood > rounds // 10
