"""Answers of old servers: those in which nothing can hide by default, more of them where a service
says `lenient_answers`; framed anew, and nothing else is let through."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.http1.client import MAX_HEAD
from proxy.settings.service import ServiceSettings
from tests.support.wire import OK_RELAYED
from tests.wire.scenes import asked

LENIENT = ServiceSettings(lenient_answers=True)
STRICT = ServiceSettings(lenient_answers=False)
HARMLESS = {
    "every line ends in a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "thrice, in any case": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length:2\r\nCONTENT-LENGTH: 2 \r\n\r\nhi"
    ),
    "bare LF, and the same length twice": (
        b"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nhi"
    ),
}
ACCEPTED = {
    "every line ends in a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "some lines do": b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi",
    "the status line does not": b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\nhi",
    "the empty line does": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nhi",
    "the empty line does not": b"HTTP/1.1 200 OK\nContent-Length: 2\n\r\nhi",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "the same length in a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
    "both": b"HTTP/1.1 200 OK\ncontent-length: 2\nCONTENT-LENGTH:2 ,2\n\nhi",
    "neither": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
}
REFUSED = {
    "different lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "different lengths in a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nhi",
    "the same length, written otherwise": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 02\r\n\r\nhi",
    "the same, and no length": b"HTTP/1.1 200 OK\r\nContent-Length: +2, +2\r\n\r\nhi",
    "a length and nothing": b"HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nhi",
    "no length twice": b"HTTP/1.1 200 OK\r\nContent-Length: ,\r\n\r\nhi",
    "a length of anything": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"2" * 30 + b"\r\n\r\nhi",
    "length and coding": (
        b"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\nTransfer-Encoding: chunked\n\n"
        b"2\r\nhi\r\n0\r\n\r\n"
    ),
    "bare CR": b"HTTP/1.1 200 OK\rContent-Length: 2\r\n\r\nhi",
    "bare CR in a value": b"HTTP/1.1 200 OK\nA: b\rContent-Length: 2\n\nhi",
    "CR CR LF": b"HTTP/1.1 200 OK\r\r\nContent-Length: 2\r\n\r\nhi",
    "folded line": b"HTTP/1.1 200 OK\nContent-Length: 2\n , 2\n\nhi",
    "space before the colon": b"HTTP/1.1 200 OK\nContent-Length : 2\n\nhi",
    "NUL": b"HTTP/1.1 200 OK\nContent-Length: 2\nA: \x00\n\nhi",
    "no status line": b"200 OK\nContent-Length: 2\n\nhi",
}


def cuts(text: bytes) -> list[list[bytes]]:
    return [[text[:at], text[at:]] for at in range(1, len(text))] + [[text]]


@pytest.mark.parametrize("name", ACCEPTED)
def test_sloppy_answers_are_accepted_where_a_service_says_so(make: Any, name: str) -> None:
    for pieces in cuts(ACCEPTED[name]):
        client, instance = asked(make(settings=LENIENT))
        instance.send(*pieces)
        client.expect(OK_RELAYED)
        assert not instance.closed


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_answers_are_accepted_by_default(make: Any, name: str) -> None:
    """Once: what else comes over that connection meets no other question."""
    for pieces in cuts(HARMLESS[name]):
        client, instance = asked(make())
        instance.send(*pieces)
        client.expect(OK_RELAYED)
        assert instance.closed


@pytest.mark.parametrize("name", sorted({*ACCEPTED} - {*HARMLESS, "neither"}))
def test_sloppy_answers_are_not_accepted_by_default(make: Any, name: str) -> None:
    """Lines that end in two ways, as where a value was given a line of its own; lists."""
    for pieces in cuts(ACCEPTED[name]):
        client, instance = asked(make())
        for piece in pieces:
            if not instance.closed:
                instance.send(piece)
        if not instance.closed:
            instance.eof()
        assert client.take().startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nLocation: /\nSet-Cookie: a\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nLocation: /\nContent-Length: 0\n\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 404 no a\nSet-Cookie: a\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\nLocation: /\r\nContent-Length: 0\n\n\r\n\r\n",
        b"HTTP/1.1 103 Early\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 101 Up\nConnection: upgrade\nUpgrade: echo\n\n",
    ],
)
def test_an_answer_is_not_split_by_what_an_instance_was_told(make: Any, answer: bytes) -> None:
    for pieces in cuts(answer):
        client, instance = asked(make())
        for piece in pieces:
            if not instance.closed:
                instance.send(piece)
        client.expect_problem(502, "bad_answer")
        assert instance.closed


def test_bytes_after_an_answer_in_bare_lf_reach_no_client(make: Any) -> None:
    """Whoever has a say in the status line has one in the answer to his own request at most."""
    client, instance = asked(make())
    instance.send(b"HTTP/1.1 404 a\nContent-Length: 0\n\n\r\n" + ACCEPTED["neither"])
    assert client.take().startswith(b"HTTP/1.1 404 a\r\n")
    assert instance.closed


@pytest.mark.parametrize("settings", [LENIENT, ServiceSettings(), STRICT])
@pytest.mark.parametrize("name", REFUSED)
def test_dangerous_answers_are_refused(make: Any, name: str, settings: ServiceSettings) -> None:
    for pieces in cuts(REFUSED[name]):
        client, instance = asked(make(settings=settings))
        for piece in pieces:
            if not instance.closed:
                instance.send(piece)
        if not instance.closed and settings is not LENIENT:
            instance.eof()  # A strict reader has seen no end of the head.
            assert client.take().startswith(b"HTTP/1.1 502 ")
        else:
            client.expect_problem(502, "bad_answer")


@pytest.mark.parametrize("name", sorted(set(ACCEPTED) - {"neither"}))
def test_a_service_may_accept_nothing_of_it(make: Any, name: str) -> None:
    """Neither before nor after another service has accepted the same bytes."""
    answer = ACCEPTED[name]
    for _ in range(2):
        client, instance = asked(make(settings=STRICT))
        instance.send(answer)
        if not client.transport.taken:
            instance.eof()  # A strict reader has seen no end of the head.
        head = client.take()
        assert head.startswith(b"HTTP/1.1 502 ")
        lenient, instance = asked(make(settings=LENIENT))
        instance.send(answer)
        lenient.expect(OK_RELAYED)


def test_interim_answers(make: Any) -> None:
    client, instance = asked(make(settings=LENIENT))
    instance.send(b"HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early\nLink: x\n\n" + ACCEPTED["both"])
    client.expect(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK_RELAYED
    )


def test_a_body_is_read_as_strictly_as_ever(make: Any) -> None:
    client, instance = asked(make(settings=LENIENT))
    instance.send(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")
    client.take()
    instance.send(b"2\nhi\n0\n\n")
    assert client.cut


def test_a_body_may_hold_what_looks_like_the_end_of_a_head(make: Any) -> None:
    body = b"\r\n\r\n\n\n" * 3
    client, instance = asked(make(settings=LENIENT))
    instance.send(b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(body) + body)
    assert client.take().endswith(b"\r\n\r\n" + body)
    assert not instance.closed


@pytest.mark.parametrize("end", [b"\n\n", b""])
def test_a_head_is_no_longer_than_any_other(make: Any, end: bytes) -> None:
    client, instance = asked(make(settings=LENIENT))
    instance.send(b"HTTP/1.1 200 OK\nA: " + b"x" * MAX_HEAD + end)
    client.expect_problem(502, "bad_answer")


def test_a_large_body_may_come_with_its_head(make: Any) -> None:
    client, instance = asked(make(settings=LENIENT))
    body = b"x" * 2 * MAX_HEAD
    instance.send(b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(body) + body)
    assert client.take().endswith(b"\r\n\r\n" + body)
