"""The table of raw bytes, in memory: whole, followed by another request, and cut at every place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import pytest

from proxy.settings.listener import ListenerSettings
from tests.support.h11_peers import cut
from tests.support.raw_cases import NEXT, QUESTIONS, REPLIES, Arrival, Question, Reply
from tests.support.strict_http import Message, read_answers, read_requests
from tests.support.wire import Peer, Wire

DEEP = os.environ.get("FAIRLEAD_HYPOTHESIS") == "deep"
STEP = 1 if DEEP else 3
EDGE = 300
"""Bytes at each end of a long case that the quick run cuts; between them there is only padding."""
pytestmark = pytest.mark.timeout(900 if DEEP else 120)
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
GOOD_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
HTTP1 = ListenerSettings(http2=False)
OF_NEXT = Arrival(b"GET", b"/next", has=((b"host", b"next"),))


BATCH = 8
"""Conversations on one wire, one after the other: a new one for each would cost more than they."""


class Stage:
    """Owns a wire, and what was said on each connection that the proxy made. Answers every
    complete request."""

    def __init__(self) -> None:
        self.wire = Wire(listener=HTTP1)
        self.peers: list[Peer] = []
        self.said: dict[Peer, bytes] = {}
        self._answered: dict[Peer, int] = {}

    def serve(self) -> None:
        """Answer whatever is complete, until nothing more comes."""
        moved = True
        while moved:
            moved = False
            while self.wire.network.accepted.get(self.wire.address("a")):
                self.peers.append(self.wire.accepted())
            for peer in self.peers:
                new = peer.take()
                if not new:
                    continue
                self.said[peer] = self.said.get(peer, b"") + new
                for request in self._whole(peer)[self._answered.get(peer, 0) :]:
                    moved = True
                    self._answered[peer] = self._answered.get(peer, 0) + 1
                    peer.send(GOOD_HEAD if request.start[0] == b"HEAD" else GOOD)

    def requests(self) -> list[Message]:
        """Everything that reached an instance whole, since the last look."""
        found = [request for peer in self.peers for request in self._whole(peer)]
        self.peers = [peer for peer in self.peers if not peer.closed]
        self.said.clear()
        self._answered.clear()
        return found

    def _whole(self, peer: Peer) -> list[Message]:
        """The complete requests. The reader stops at an upgrade, but these are declined here."""
        found: list[Message] = []
        rest = self.said.get(peer, b"")
        while rest:
            more, rest = read_requests(rest)
            found += more
            if not more:
                break
        return found


def same(got: Sequence[Message], wanted: Sequence[Arrival]) -> None:
    """The instance understood exactly these requests."""
    assert [(m.start, m.body) for m in got] == [((w.method, w.target), w.body) for w in wanted]
    for message, arrival in zip(got, wanted, strict=True):
        for name, value in arrival.has:
            assert message.all(name) == [value], name
        for name in arrival.lacks:
            assert message.all(name) == [], name
        assert message.trailers == arrival.trailers


def ask(
    stage: Stage, case: Question, pieces: Iterable[bytes]
) -> tuple[list[Message], list[Message], bool]:
    """What reached the instance, what the client got, and whether we closed, when it sends these
    pieces."""
    client = stage.wire.client()
    for piece in pieces:
        if not client.closed:
            client.send(piece)
        stage.serve()
    if case.late:
        stage.wire.advance(31.0)
        stage.serve()
    methods = [arrival.method for arrival in case.arrives]
    answers, rest = read_answers(client.take(), methods)
    assert rest == b""
    ended = client.transport.ended
    if not client.closed:
        client.reset()
    return stage.requests(), answers, ended


def check(case: Question, *conversations: Sequence[bytes]) -> None:
    """The case is what the table says, in each of these pieces; the last of them may be
    another request."""
    stage = Stage()
    for number, pieces in enumerate(conversations, 1):
        follows = len(b"".join(pieces)) > len(case.raw)
        found, answers, ended = ask(stage, case, pieces)
        statuses = [int(answer.start[0]) for answer in answers]
        if follows and not case.closes:
            same(found, (*case.arrives, OF_NEXT))
            assert statuses == [*case.statuses, 200]
        else:
            same(found, case.arrives)
            assert statuses == list(case.statuses)
            assert (answers[-1].all(b"connection") == [b"close"]) == case.closes
            assert ended == case.closes
        if number % BATCH == 0:
            stage.wire.done()
            stage = Stage()
    stage.wire.done()


def cuts(raw: bytes) -> list[list[bytes]]:
    """The same bytes in two pieces, cut at every place (the quick run: every third), and in as
    many as there are bytes."""
    if len(raw) > 2 * EDGE:
        return [cut(raw, [place]) for place in places(len(raw))]
    return [*(cut(raw, [place]) for place in places(len(raw))), cut(raw, range(len(raw)))]


def places(size: int) -> Iterable[int]:
    """Where to cut."""
    if DEEP or size <= 2 * EDGE:
        return range(1, size, STEP)
    return (*range(1, EDGE, STEP), *range(size - EDGE, size, STEP))


def test_the_table_is_a_table() -> None:
    """Names tell cases apart, and there are as many as the project promises."""
    assert len({case.name for case in QUESTIONS}) == len(QUESTIONS) >= 170
    assert len({case.name for case in REPLIES}) == len(REPLIES) >= 80


@pytest.mark.parametrize("case", QUESTIONS, ids=lambda case: case.name)
def test_a_request(case: Question) -> None:
    check(case, [case.raw])


@pytest.mark.parametrize("case", QUESTIONS, ids=lambda case: case.name)
def test_bytes_after_a_request_are_another_or_nothing(case: Question) -> None:
    if not case.late:  # It would be the rest of the first one, which is not complete.
        check(case, [case.raw + NEXT], [case.raw, NEXT])


@pytest.mark.parametrize("case", QUESTIONS, ids=lambda case: case.name)
def test_a_request_cut_anywhere(case: Question) -> None:
    check(case, *cuts(case.raw))


def reply(case: Reply, *conversations: Sequence[bytes]) -> None:
    """The answer is relayed or refused as the table says, in each of these pieces; whatever it
    was, the next client gets its own."""
    wire = Wire(listener=HTTP1)
    idle: Peer | None = None
    for number, pieces in enumerate(conversations, 1):
        idle = _reply(wire, case, pieces, idle)
        if number % BATCH == 0:
            wire.done()
            wire, idle = Wire(listener=HTTP1), None
    wire.done()


def _reply(wire: Wire, case: Reply, pieces: Sequence[bytes], idle: Peer | None) -> Peer:
    """`idle`: the connection that was kept. Returns the one that is kept now."""
    client = wire.client()
    client.send(case.asked)
    instance = idle or wire.accepted()
    instance.take()
    for piece in pieces:
        if not instance.closed:
            instance.send(piece)
    if case.ends and not instance.closed:
        instance.eof()
    method = case.asked.partition(b" ")[0]
    got = client.take()
    answers, rest = read_answers(got, [method], ended=client.saw_end)
    interim = tuple(int(a.start[0]) for a in answers if a.start[0] < b"200")
    final = [a for a in answers if a.start[0] >= b"200"]
    assert interim == case.interim
    if case.cut and not final:
        assert client.cut
        assert rest.startswith(b"HTTP/1.1 %d " % case.status)
    elif case.cut:  # It all came in one piece, so no head was relayed yet.
        assert [a.start for a in final] == [(b"502",)]
    else:
        [answer] = final
        assert rest == b""
        assert int(answer.start[0]) == case.status
        assert (answer.all(b"proxy-status") != []) == (case.status == 502)
        if case.status != 502:
            assert answer.body == case.body
        for name, value in case.has:
            assert answer.all(name) == [value], name
        for name in case.lacks:
            assert answer.all(name) == [], name
        assert answer.trailers == case.trailers
    if not client.closed:
        client.reset()
    return _the_next_gets_its_own(wire, case, instance)


def _the_next_gets_its_own(wire: Wire, case: Reply, instance: Peer) -> Peer:
    client = wire.client()
    client.send(NEXT)
    assert instance.closed != case.kept
    other = instance if case.kept else wire.accepted()
    [request], rest = read_requests(other.take())
    assert (request.start, rest) == ((b"GET", b"/next"), b"")
    other.send(GOOD)
    [answer], rest = read_answers(client.take())
    assert (answer.start, answer.body, rest) == ((b"200",), b"hi", b"")
    client.reset()
    return other


@pytest.mark.parametrize("case", REPLIES, ids=lambda case: case.name)
def test_an_answer(case: Reply) -> None:
    reply(case, [case.raw])


@pytest.mark.parametrize("case", REPLIES, ids=lambda case: case.name)
def test_an_answer_cut_anywhere(case: Reply) -> None:
    reply(case, *cuts(case.raw))
