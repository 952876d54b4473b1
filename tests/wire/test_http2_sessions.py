"""What a session makes of frames on its streams, however cut, and between good requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.h2_peer import HTTP2, H2Peer, head
from tests.support.head_cases import REQUEST_CASES, HeadCase
from tests.support.session_cases import CONVERSATIONS, SessionCase, head_of
from tests.support.wire import OK, Peer, forwarded
from tests.wire.conftest import MakeWire, making


@pytest.fixture
def make() -> Iterator[MakeWire]:
    yield from making(False)


def begun(make: Any) -> tuple[H2Peer, Peer]:
    """A client whose request on stream 1 was answered, and the instance that did."""
    wire = make(listener=HTTP2)
    client = H2Peer(wire)
    client.send(head(1))
    instance = wire.accepted()
    instance.expect(forwarded("GET /x"))
    instance.send(OK)
    assert client.answer(1)[1] == b"hi"
    return client, instance


def settled(client: H2Peer, instance: Peer, good: bool) -> None:
    """The connection serves another request, or it has ended."""
    if good:
        client.send(head(11))
        if instance.closed:
            instance = client.wire.accepted()
        assert instance.take().endswith(b"\r\n\r\n")
        instance.send(OK)
        assert client.answer(11)[1] == b"hi"
    else:
        assert client.closed
        client.send(head(11))
        assert client.take() == []
        if not instance.closed:
            instance.expect_nothing()


def play(make: Any, case: SessionCase, pieces: list[bytes]) -> None:
    client, instance = begun(make)
    client.send(*pieces)
    got = instance.take()
    assert not got or got.startswith(case.reaches), got
    assert got or not case.answered
    if case.answered:
        instance.send(OK)
    frames = [one for one in client.take() if one[0] != "ping"]
    heads = [one[2][":status"] for one in frames if one[0] == "head" and one[1] == 3]
    assert heads == (["200"] if case.answered else [case.status] if case.status else [])
    resets = [one[2] for one in frames if one[0] == "reset"]
    assert resets == ([case.resets] if case.resets >= 0 else [])
    ends = [one[2] for one in frames if one[0] == "goaway"]
    assert ends == ([case.ends] if case.ends >= 0 else [])
    if got and not case.answered:
        assert instance.closed  # Or what follows would be taken for the rest of it.
        assert not got.endswith(b"0\r\n\r\n") or b"POST" not in got or case.resets == 5
        assert b"abc" not in got or b"Content-Length: 3" not in got
    settled(client, instance, case.ends < 0)


@pytest.mark.parametrize("places", [12, pytest.param(1000, marks=pytest.mark.drill)])
@pytest.mark.parametrize("case", CONVERSATIONS, ids=lambda case: case.name)
def test_frames_mean_the_same_however_they_are_cut(
    make: Any, case: SessionCase, places: int
) -> None:
    """Cut at so many places: at each byte, where there are no more."""
    play(make, case, [case.raw])
    for at in range(1, len(case.raw), 1 + len(case.raw) // places):
        play(make, case, [case.raw[:at], case.raw[at:]])
    play(make, case, [case.raw[at : at + 1] for at in range(len(case.raw))])


@pytest.mark.parametrize("case", REQUEST_CASES, ids=lambda case: case.name)
def test_a_head_that_must_not_be_does_not_reach_an_instance(make: Any, case: HeadCase) -> None:
    client, instance = begun(make)
    client.send(head_of(case))
    got = instance.take()
    frames = client.take()
    if case.name == "extended CONNECT that was not offered":
        assert b"\r\nUpgrade: " in got  # It is, here.
    elif isinstance(case.becomes, int) or case.becomes[0] == b"CONNECT":
        assert got == b""
        assert not instance.closed
        if case.becomes == 0:
            assert frames == [("reset", 3, 1)]
        else:
            assert frames[0][:2] == ("head", 3)
            status = 405 if not isinstance(case.becomes, int) else case.becomes
            assert frames[0][2][":status"] == str(status)
    else:
        assert got.startswith(b"%b %b HTTP/1.1\r\nHost: %b\r\n" % case.becomes[:3]) or frames
        if not got:  # What HTTP/1 would answer itself, too.
            assert frames[0][2][":status"] in ("200", "404", "417", "501", "400")


def test_answers_of_a_turn_are_written_together(make: Any) -> None:
    """One that comes alone, with its content and without waiting for the turn's end."""
    client, first = begun(make)
    client.send(head(3) + head(5))
    second = client.wire.accepted()
    assert first.take()
    assert second.take()
    writes: list[int] = []
    transport = client.peer.raw
    write = transport.write

    def counted(data: bytes) -> None:
        writes.append(len(data))
        write(data)

    transport.write = counted  # type: ignore[method-assign]
    first.transport.feed(OK)
    second.transport.feed(OK)
    client.wire.settle()
    assert len(writes) == 1
    ends = [one for one in client.take() if one[0] == "data"]
    assert sorted(ends) == [("data", 3, b"hi", True), ("data", 5, b"hi", True)]
    client.send(head(7))
    assert client.wire.in_flight == 1
    for instance in (first, second):
        if instance.take():
            instance.send(OK)
    assert len(writes) == 2
    assert client.answer(7)[1] == b"hi"
