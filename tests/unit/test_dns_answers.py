"""Messages of the DNS, and what becomes of their records."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from proxy.registry.base import RegistryError
from proxy.registry.dns.answers import Asked, asked, lifetime, records, targets, trouble
from proxy.registry.dns.due import Due
from proxy.registry.dns.wire import Kind, Record, Reply, question, reply
from tests.support.scripted_names import AAAA, CNAME, SRV, A, answer

QUERY = question(7, "_users._tcp.svc.local", Kind.SRV)


def test_a_question_is_as_rfc_1035_has_it() -> None:
    assert (
        bytes.fromhex(
            "0007 0100 0001 0000 0000 0000 06 5f7573657273 04 5f746370 03 737663 05 6c6f63616c 00"
            "0021 0001"
        )
        == QUERY
    )


@pytest.mark.parametrize("name", ["a..b", "a" * 64, ".".join(["a" * 60] * 5), "gr\u00f6\u00dfe"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no name of the DNS|ascii"):
        question(1, name, Kind.A)


def test_an_answer_has_records_of_known_types() -> None:
    message = answer(
        QUERY,
        [(SRV, (1, 5, 8080, "N1.svc.local")), (CNAME, "x"), (A, "10.0.0.1")],
        [("n1.svc.local", AAAA, "fd00::1")],
    )
    name = "_users._tcp.svc.local"
    assert reply(message) == Reply(
        7,
        0,
        (Record(name, Kind.SRV, "n1.svc.local", 1, 5, 8080), Record("x", Kind.A, "10.0.0.1")),
        (Record("n1.svc.local", Kind.AAAA, "fd00::1"),),
        ttl=5,
    )


ONE = struct.pack("!6H", 1, 0x8180, 0, 1, 0, 0)
"""Head of an answer with one record."""


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 11,
        QUERY,  # no answer
        QUERY[:2] + b"\x83\x80" + QUERY[4:],  # cut off
        answer(QUERY, [(A, "10.0.0.1")])[:-1],
        struct.pack("!6H", 1, 0x8180, 0, 1, 0, 0) + b"\xc0\x0c" + b"\0" * 10,  # a name in a circle
        struct.pack("!6H", 1, 0x8180, 0, 1, 0, 0)
        + b"\0"
        + struct.pack("!HHIH", 1, 1, 1, 3)
        + b"abc",
    ],
)
def test_messages_of_another_kind_are_an_outage(message: bytes) -> None:
    with pytest.raises(RegistryError):
        reply(message)


@pytest.mark.parametrize(
    ("message", "ttl"),
    [
        (answer(QUERY, [(A, "10.0.0.1")], ttl=30), 30),
        (answer(QUERY, [(A, "10.0.0.1"), (CNAME, "x")], [("n", A, "10.0.0.2")], ttl=0), 0),
        (answer(QUERY, [(A, "10.0.0.1")], ttl=2**31 + 7), 0),  # RFC 2181 section 8
        # RFC 2308 section 5: how long there is none is the lesser of the two.
        (answer(QUERY, code=3, ttl=60, minimum=20), 20),
        (answer(QUERY, ttl=10, minimum=20), 10),
        (answer(QUERY, code=3), None),
        (answer(QUERY, code=2), None),
    ],
)
def test_an_answer_says_for_how_long_it_holds(message: bytes, ttl: int | None) -> None:
    assert reply(message).ttl == ttl


@pytest.mark.parametrize(
    ("ttls", "expected"),
    [
        ([(30, True), (5, True)], 5),
        ([(30, True), (5, False)], 30),
        ([(30, False), (5, False)], 5),
        ([(None, False), (5, False)], 5),
        ([(None, False)], None),
        ([(0, True)], 0),
    ],
)
def test_answers_hold_as_long_as_each_that_names_somebody(
    ttls: list[tuple[int | None, bool]], expected: int | None
) -> None:
    one = Record("n", Kind.A, "10.0.0.1")
    replies = [Reply(0, 0, (one,) if names else (), ttl=ttl) for ttl, names in ttls]
    assert lifetime(replies) == expected


# ------------------------------------------------------------------------------------- due


def test_a_name_is_due_when_its_records_run_out_within_bounds() -> None:
    due = Due("abcd", longest=30.0)
    assert list(due.now(100.0)) == [*"abcd"]
    for service, ttl in (("a", 0), ("b", 7), ("c", 3600), ("d", None)):
        due.told(service, ttl, 100.0)
    assert due.next_at == 101.0
    asked: dict[str, list[float]] = {service: [] for service in "abcd"}
    now = 100.0
    for _ in range(60):
        now = due.next_at
        for service in due.now(now):
            asked[service].append(now)
            due.told(service, {"a": 0, "b": 7, "c": 3600, "d": None}[service], now)
    assert asked["a"] == [101.0 + number for number in range(60)]
    assert asked["b"] == [100.0 + 7 * number for number in range(1, 9)]
    assert asked["c"] == asked["d"] == [130.0, 160.0]


def test_names_that_are_nearly_due_are_asked_together_and_all_if_none_is() -> None:
    due = Due("abc", longest=30.0)
    due.told("a", 2, 100.0)
    due.told("b", 2, 100.4)
    due.told("c", 20, 100.0)
    assert list(due.now(101.0)) == [*"abc"]
    assert list(due.now(102.0)) == [*"ab"]
    assert list(due.now(119.6)) == [*"abc"]


def test_an_interval_shorter_than_a_second_is_the_time_between_questions() -> None:
    due = Due("a", longest=0.2)
    due.told("a", 60, 100.0)
    assert due.next_at == 100.2
    due.told("a", 0, 100.0)
    assert due.next_at == 100.2


# --------------------------------------------------------------------------------- records


def srv(target: str, port: int = 80, priority: int = 0, weight: int = 0) -> Record:
    return Record("_users._tcp.x", Kind.SRV, target, priority, weight, port)


def made(question: Asked, *replies: Reply, **found: list[str]) -> list[tuple[str, Any]]:
    every = records("users", question, replies, found)
    return [
        (key.decode(), json.loads(value)["metadata"].get("weight")) for key, value in every.items()
    ]


def test_a_target_is_a_name_with_a_port_or_one_that_has_srv_records() -> None:
    assert asked("web.internal:8080") == Asked("web.internal", 8080)
    assert asked("_users._tcp.svc.local") == Asked("_users._tcp.svc.local", 0)


def test_addresses_of_a_name_are_instances_and_one_with_both_families_is_one() -> None:
    four = [Record("w", Kind.A, "10.0.0.1"), Record("w", Kind.A, "10.0.0.2")]
    six = [Record("w", Kind.AAAA, "fd00::1")]
    question = Asked("w", 80)
    both = Reply(0, 0, tuple(four)), Reply(1, 0, tuple(six))
    assert made(question, *both) == [("users/10.0.0.1:80", None), ("users/10.0.0.2:80", None)]
    assert made(question, Reply(0, 0), both[1]) == [("users/[fd00::1]:80", None)]


def test_srv_records_are_instances_with_weights_at_addresses_given_or_found() -> None:
    extra = Record("n1", Kind.A, "10.0.0.1"), Record("other", Kind.A, "10.9.9.9")
    one = Reply(0, 0, (srv("n1", 80, weight=5), srv("n2", 81), srv("n3", 82)), extra)
    assert targets([one]) == {"n2", "n3"}
    assert made(Asked("_users._tcp.x", 0), one, n2=["10.0.0.2"]) == [
        ("users/10.0.0.1:80", "5"),
        ("users/10.0.0.2:81", None),
    ]


def test_servers_of_the_lowest_priority_number_are_used() -> None:
    one = Reply(0, 0, (srv("n1", priority=2), srv("n2", priority=1)))
    assert targets([one]) == {"n2"}
    assert made(Asked("_users._tcp.x", 0), one, n1=["10.0.0.1"], n2=["10.0.0.2"]) == [
        ("users/10.0.0.2:80", None)
    ]


def test_a_target_that_is_the_root_is_no_server() -> None:
    assert made(Asked("_users._tcp.x", 0), Reply(0, 0, (srv(""),))) == []


@pytest.mark.parametrize(
    ("codes", "words"),
    [((0, 0), ""), ((3, 0), ""), ((3, 3), ""), ((0, 2), "SERVFAIL"), ((5, 2), "REFUSED")],
)
def test_a_name_that_does_not_exist_is_no_trouble(codes: tuple[int, ...], words: str) -> None:
    assert trouble(Reply(0, code) for code in codes) == words
