"""Registration over HTTP: what a body must say, and when a heartbeat was due."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.control.registrations import (
    DEFAULT_TTL,
    MAX_BODY,
    Deadlines,
    Refusal,
    Registrations,
    Wanted,
    read,
)
from proxy.register.backend import Found
from proxy.register.entry import Entry
from proxy.register.record import Record
from proxy.registry.static.options import Options as StaticOptions

NAME = ("users", "users-1")


def wanted(**fields: Any) -> Wanted:
    return read(NAME, json.dumps({"address": "10.0.0.5", "port": 8080, **fields}).encode())


def refusal(body: object, name: tuple[str, str] = NAME) -> Refusal:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refusal) as caught:
        read(name, text)
    return caught.value


def test_the_least_record() -> None:
    assert wanted() == Wanted(
        address="10.0.0.5",
        port=8080,
        version="",
        metadata={},
        status="healthy",
        message="",
        ttl=DEFAULT_TTL,
    )


def test_the_whole_record() -> None:
    record = wanted(
        id="other",
        name="other",
        version="1.4.0",
        metadata={"weight": 2, "zone": "eu-1", "canary": True},
        health={"status": "draining", "last_check": "2026-11-22T10:00:00Z", "message": "OK"},
        register_time="2026-11-22T09:00:00Z",
        unknown=[1],
        ttl="1m",
    )
    assert record.metadata == {"weight": "2", "zone": "eu-1", "canary": "true"}
    assert (record.version, record.status, record.message) == ("1.4.0", "draining", "OK")
    assert record.ttl == 60.0


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(2, 2.0), (2.5, 2.5), ("30s", 30.0), ("2500ms", 2.5), ("1h", 3600.0)]
)
def test_a_ttl(ttl: object, seconds: float) -> None:
    assert wanted(ttl=ttl).ttl == seconds


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"address": None}, "/address"),
        ({"address": 7}, "/address"),
        ({"address": "10.0.0"}, "/address"),
        ({"address": "users.example.com:80"}, "/address"),
        ({"port": None}, "/port"),
        ({"port": "8080"}, "/port"),
        ({"port": 0}, "/port"),
        ({"port": 65536}, "/port"),
        ({"port": True}, "/port"),
        ({"version": {}}, "/version"),
        ({"metadata": "x"}, "/metadata"),
        ({"metadata": {"a/b~c": []}}, "/metadata/a~1b~0c"),
        ({"metadata": {"weight": "heavy"}}, "/metadata/weight"),
        ({"metadata": {"weight": "٣"}}, "/metadata/weight"),
        ({"metadata": {"weight": -1}}, "/metadata/weight"),
        ({"metadata": {"weight": 65536}}, "/metadata/weight"),
        ({"health": "healthy"}, "/health"),
        ({"health": {"status": ""}}, "/health/status"),
        ({"health": {"status": 1}}, "/health/status"),
        ({"health": {"message": 1}}, "/health/message"),
        ({"ttl": "30"}, "/ttl"),
        ({"ttl": 1}, "/ttl"),
        ({"ttl": 3601}, "/ttl"),
        ({"ttl": True}, "/ttl"),
        ({"ttl": None}, "/ttl"),
        ({"ttl": "1d"}, "/ttl"),
    ],
)
def test_one_bad_field(fields: dict[str, Any], pointer: str) -> None:
    refused = refusal({"address": "10.0.0.5", "port": 8080, **fields})
    assert refused.status == 400
    assert [complaint.pointer for complaint in refused.complaints] == [pointer]
    assert refused.complaints[0].detail in refused.detail


def test_every_reason_at_once() -> None:
    refused = refusal(
        {"port": 99999, "metadata": {"weight": "x", "deep": {}}, "health": 1, "ttl": "soon"},
        ("us/ers", "x" * 256),
    )
    assert [complaint.pointer for complaint in refused.complaints] == [
        "service",
        "instance",
        "/address",
        "/port",
        "/metadata/deep",
        "/metadata/weight",
        "/health",
        "/ttl",
    ]
    assert "8 reasons" in refused.detail


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"x"', b"\xff", b"[" * 5000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    refused = refusal(body)
    assert [complaint.pointer for complaint in refused.complaints] == [""]


def test_a_body_has_a_bound() -> None:
    big = {"address": "10.0.0.5", "port": 80, "metadata": {"x": "y" * MAX_BODY}}
    assert refusal(big).status == 413


def test_deadlines() -> None:
    deadlines = Deadlines()
    assert deadlines.next() is None
    deadlines.set(("a", "1"), 10.0, 100.0)
    deadlines.set(("b", "1"), 5.0, 101.0)
    assert (len(deadlines), list(deadlines)) == (2, [("a", "1"), ("b", "1")])
    assert deadlines.next() == 106.0
    assert deadlines.expired(105.9) == []
    assert deadlines.renew(("b", "1"), 105.9)
    assert deadlines.left(("b", "1"), 106.0) == pytest.approx(4.9)
    assert deadlines.next() == 110.0
    assert deadlines.expired(111.0) == [("a", "1"), ("b", "1")]
    # Too late is too late, even if nobody has cleaned up yet.
    assert not deadlines.renew(("a", "1"), 110.0)
    deadlines.drop(("a", "1"))
    deadlines.drop(("a", "1"))
    assert ("a", "1") not in deadlines
    assert not deadlines.renew(("a", "1"), 100.0)


async def test_a_registry_that_takes_no_registrations() -> None:
    registrations = Registrations(StaticOptions())
    with pytest.raises(Refusal, match=r"'static'.*type: .*etcd") as refused:
        await registrations.put(NAME, b"{}")
    assert refused.value.status == 501
    with pytest.raises(Refusal, match="users/users-1") as refused:
        registrations.heartbeat(NAME)
    assert refused.value.status == 404
    with pytest.raises(Refusal, match="users/users-1") as refused:
        await registrations.delete(NAME)
    assert refused.value.status == 404
    assert registrations.documents() == []
    await registrations.close()


def test_leaving_leaves_the_key_of_a_newer_process_alone() -> None:
    """As when a service moves to another proxy and falls silent here."""
    record = Record(service="users", id="users-1", address="10.0.0.5", port=80)
    entry = Entry(record, record.value(datetime.now(UTC)))
    entry.wrote(entry.plan(), 5)
    newer = Found(b"{}", revision=9, lease=77)
    entry.found(newer, lambda lease: lease == 1)
    assert entry.taken
    entry.leave()
    assert entry.plan().value is None
    assert entry.plan().revision != newer.revision
    entry.found(newer, lambda lease: lease == 1)
    assert entry.settled
