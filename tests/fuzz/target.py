"""One worker between one client and its instances, driven by arbitrary bytes.

`play` reads its input as a script: who says what, cut where, who hangs up, how time passes. It
fails (by an exception) on a crash, on anything taken and not given back (`Wire.done`), and on
any byte towards an instance or a client that the strictest reader would not understand.

`tests/fuzz/long.py` runs it for as long as one likes, guided by coverage; the tests run it for
seconds.
"""

from __future__ import annotations

from proxy.settings.listener import ListenerLimits, ListenerSettings
from proxy.settings.service import RetrySettings, ServiceSettings
from tests.support.strict_http import read_answers, read_requests
from tests.support.wire import Peer, Wire

PHRASES: tuple[bytes, ...] = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b"0\r\n\r\n", b"5\r\nhello\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /x?y HTTP/1.1\r\nHost: h\r\n",
    b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    b"hello",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Host\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"TE: trailers\r\n",
    b"Trailer: T\r\n", b"0\r\nT: v\r\n\r\n", b"Expect: 100-continue\r\n", b"Upgrade: x\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 503 No\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n",
    b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
    b"x" * 3000, b"x" * 70_000,
)  # fmt: skip
"""Whole sentences, so that a script need not find them letter by letter."""

_NAMES = ("a", "b")
_RETRY = RetrySettings(on=("reset", "first_byte", "503"))
_LISTENER = ListenerSettings(limits=ListenerLimits(body=100_000, head=8192))
_STEPS = 200
"""A script this long has said what it has to say."""


class Scene:
    """Owns one wire, and everything that each end has received."""

    def __init__(self) -> None:
        self.wire = Wire(*_NAMES, settings=ServiceSettings(retry=_RETRY), listener=_LISTENER)
        self.clients = [self.wire.client()]
        self.instances: list[Peer] = []
        self.received: dict[Peer, bytearray] = {}
        self.said: dict[Peer, bytearray] = {}
        self._stalled = False

    def collect(self) -> None:
        """Look at what arrived, and at who was dialled."""
        for name in _NAMES:
            while self.wire.network.accepted.get(self.wire.address(name)):
                self.instances.append(self.wire.accepted(name))
        for peer in (*self.clients, *self.instances):
            self.received.setdefault(peer, bytearray()).extend(peer.take())

    def say(self, peer: Peer, data: bytes) -> None:
        """Send, if there still is a connection."""
        if not peer.closed:
            self.said.setdefault(peer, bytearray()).extend(data)
            peer.send(data)

    def instance(self) -> Peer | None:
        """The one that was dialled last and is still there."""
        return next((peer for peer in reversed(self.instances) if not peer.closed), None)

    def act(self, what: int) -> None:
        """Anything that is not bytes."""
        client, instance = self.clients[-1], self.instance()
        if what == 0:
            if not client.closed:
                client.eof()
        elif what == 1:
            if not client.closed:
                client.reset()
        elif what == 2:
            if instance is not None:
                instance.eof()
        elif what == 3:
            if instance is not None:
                instance.reset()
        elif what == 4:
            self.wire.advance(1.0)
        elif what == 5:
            self.wire.advance(31.0)
        elif what == 6:
            client.read_on() if self._stalled else client.stall()
            self._stalled = not self._stalled
        elif what == 7:
            if instance is not None:
                instance.stall()
        elif what == 8:
            for peer in self.instances:
                peer.read_on()
        elif what == 9:
            if len(self.clients) < 4:
                self._stalled = False
                self.clients.append(self.wire.client())
        elif what == 10:
            self.wire.network.refuse(self.wire.address("a"))
        elif what == 11:
            if self.wire.address("b") not in self.wire.network.hanging:
                self.wire.network.hang(self.wire.address("b"))
        elif what == 12:
            self._answer()
        elif what == 13:
            self.wire.serve("b")
        elif what == 14:
            self.wire.serve(*_NAMES)
        elif what == 15:
            self.wire.network.slam(self.wire.address("a"))

    def _answer(self) -> None:
        if self.wire.address("b") in self.wire.network.hanging:
            self.wire.network.answer(self.wire.address("b"))
            self.wire.settle()

    def close(self) -> None:
        """Everybody reads what is left and goes; nothing may remain."""
        self._answer()
        for peer in (*self.clients, *self.instances):
            peer.read_on()
        self.collect()
        for peer in self.clients:
            if not peer.closed:
                peer.reset()
        self.collect()
        self.wire.done()

    def judge(self) -> None:
        """What each end got is HTTP to the strictest reader, as far as it can be told: behind an
        upgrade it need not be, and an answer to a HEAD looks cut off to who does not know that."""
        for peer in self.instances:
            read_requests(bytes(self.received.get(peer, b"")))
        for peer in self.clients:
            said = bytes(self.said.get(peer, b""))
            if b"HEAD" not in said:  # Which answer belongs to it only the proxy knows.
                read_answers(bytes(self.received.get(peer, b"")), ended=True)


def play(script: bytes) -> None:
    """Run one script. Raises whatever went wrong.

    A step is one byte, whose upper two bits say who: the client or the instance speaks
    literally (the lower six bits are the length of what follows), or somebody says a phrase, or
    something happens.
    """
    scene = Scene()
    at = steps = 0
    while at < len(script) and steps < _STEPS:
        step, low = script[at] >> 6, script[at] & 0x3F
        at += 1
        steps += 1
        if step < 2:
            data = script[at : at + low + 1]
            at += len(data)
            if data:
                _speak(scene, step, data)
        elif step == 2:
            number = script[at] if at < len(script) else 0
            at += 1
            _speak(scene, low & 1, PHRASES[number % len(PHRASES)])
        else:
            scene.act(low & 0x0F)
        scene.collect()
    scene.close()
    scene.judge()


def _speak(scene: Scene, side: int, data: bytes) -> None:
    peer = scene.clients[-1] if side == 0 else scene.instance()
    if peer is not None:
        scene.say(peer, data)


def script(*steps: tuple[str, bytes | int]) -> bytes:
    """A script out of ("client" | "instance", bytes) and ("act", number)."""
    out = []
    for who, what in steps:
        if isinstance(what, int):
            out.append(bytes((0xC0 | what,)))
            continue
        side = 0 if who == "client" else 0x40
        for start in range(0, len(what), 64):
            piece = what[start : start + 64]
            out.append(bytes((side | (len(piece) - 1),)) + piece)
    return b"".join(out)


SEEDS: tuple[bytes, ...] = tuple(
    script(("client", PHRASES[number]), ("instance", PHRASES[answer]), ("act", act))
    for number in range(9, 20)
    for answer in range(26, 37)
    for act in (0, 2)
)
