"""The codec of HTTP/2, driven by arbitrary bytes.

Whatever comes is read, refused or the end of the connection, and nothing else is ever raised; what
is read is a request of HTTP/1.1 to the strictest reader; a block of fields means what it means to
another implementation, and the same to a reader that remembers blocks as to one that does not.

`tests/fuzz/long.py` runs it for as long as one likes, guided by coverage; the tests run it for
seconds.
"""

from __future__ import annotations

import hpack

from proxy.engine.http1.heads import request_head
from proxy.errors import Refused
from proxy.http.fields import USUAL_IDS
from proxy.http.forwarding import ClientFacts
from proxy.http2.blocks import request_block
from proxy.http2.errors import GoAway, Malformed
from proxy.http2.frame_list import FrameList
from proxy.http2.frames import head_frames
from proxy.http2.heads import RequestReader
from proxy.http2.hpack import BlockError, Decoder, encode, static_fields
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


def converse(script: bytes) -> None:
    """Run a conversation, behind the size of its pieces."""
    if script:
        play(START + script[1:], 1 + script[0])


CONVERSATIONS: tuple[bytes, ...] = tuple(b"\xff" + seed for seed in SEEDS)


def compare(script: bytes) -> None:
    """Read blocks, each behind its length, of one connection."""
    decoder, oracle = Decoder(_STATIC, _LONGEST, _LONGEST), hpack.Decoder(_LONGEST)
    remembers, forgets = (RequestReader(USUAL_IDS, _LONGEST, 1000) for _ in range(2))
    at = 0
    while at < len(script):
        block = script[at + 1 : at + 1 + script[at]]
        at += 1 + len(block)
        ours, theirs = _ours(decoder, block), _theirs(oracle, block)
        assert ours == theirs
        forgets._memo.clear()
        outcome = _outcome(remembers, block)
        assert outcome == _outcome(forgets, block)
        if ours is None:
            assert outcome[0] is GoAway
            return


_STATIC = static_fields()
_LONGEST = 1_000_000
BLOCKS: tuple[bytes, ...] = tuple(
    2 * (bytes((len(raw) - 9,)) + raw[9:]) for raw in (*HEADS, *INDEXED) if len(raw) < 265
)


def _ours(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(field.name, field.value) for field in decoder.decode(block)]
    except BlockError:
        return None


def _theirs(oracle: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(name, value) for name, value in oracle.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


def _outcome(reader: RequestReader, block: bytes) -> tuple[object, ...]:
    try:
        head = reader.read(block, True)
    except (GoAway, Malformed, Refused) as error:
        return type(error), str(error)
    return head.method, head.target, head.fields.host, head.fields.passed, head.fields.length
