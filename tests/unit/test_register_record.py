"""The record a service writes: what it looks like, and what is refused before it is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from proxy.register import InvalidRecord, Record, Registrar
from proxy.register.record import MAX_NAME, Health, checked, with_health
from proxy.registry import records

AT = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
USERS = Record(
    service="users",
    id="users-1",
    version="1.4.0",
    address="10.0.0.5",
    port=8080,
    weight=2,
    metadata={"zone": "eu-1"},
    message="OK",
)


def test_the_record_is_that_of_the_contract() -> None:
    assert USERS.name == ("users", "users-1")
    assert json.loads(USERS.value(AT)) == {
        "id": "users-1",
        "name": "users",
        "version": "1.4.0",
        "address": "10.0.0.5",
        "port": 8080,
        "metadata": {"weight": "2", "zone": "eu-1"},
        "health": {"status": "healthy", "last_check": "2026-11-22T10:00:00Z", "message": "OK"},
        "register_time": "2026-11-22T10:00:00Z",
    }


def test_times_are_in_utc() -> None:
    berlin = AT.astimezone(timezone(timedelta(hours=1)))
    assert USERS.value(berlin) == USERS.value(AT)


def test_the_reading_side_agrees() -> None:
    read, odd = records.read("users", "users-1", USERS.value(AT))
    assert odd == ""
    assert (read.address, read.port, read.weight) == ("10.0.0.5", 8080, 2)
    assert (read.version, read.health, read.health_message) == ("1.4.0", "healthy", "OK")


def test_a_weight_in_the_metadata_wins() -> None:
    record = Record(service="a", id="b", address="c", port=1, weight=3, metadata={"weight": "9"})
    assert json.loads(record.value(AT))["metadata"] == {"weight": "9"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"service": ""}, "service: is empty"),
        ({"service": "a/b"}, "service: 'a/b' has a '/'"),
        ({"id": "a\nb"}, "id: 'a\\nb' has control characters"),
        ({"id": "x" * (MAX_NAME + 1)}, "id: is longer than 255 bytes"),
        ({"port": 0}, "port: 0 is not a number from 1 to 65535"),
        ({"port": 65536}, "port: 65536"),
        ({"port": "80"}, "port: '80'"),
        ({"port": True}, "port: True"),
        ({"address": "10.0.0"}, 'address: address "10.0.0" is neither'),
        ({"address": "http://x"}, 'address: address "http://x"'),
        ({"weight": -1}, "weight: -1 is not a number from 0 to 65535"),
        ({"metadata": {"weight": 2}}, "metadata: 'weight': 2 is not text"),
        ({"protocol": "http3"}, 'protocol: metadata.protocol "http3" is none of h1, h2c, h2, grpc'),
        ({"metadata": {"protocol": "x"}}, 'protocol: metadata.protocol "x" is none of'),
        ({"metadata": {"x": "y" * 70_000}}, "at most 65536 are allowed"),
        ({"metadata": {"x": "\ud800"}}, "record: cannot be written as JSON"),
        ({"status": ""}, "status: ''"),
    ],
)
def test_a_record_no_reader_would_accept_is_refused(change: dict[str, Any], words: str) -> None:
    fields = {"service": "users", "id": "a", "address": "10.0.0.5", "port": 80, **change}
    with pytest.raises(InvalidRecord) as refused:
        checked(Record(**fields))
    assert any(words in reason for reason in refused.value.reasons), refused.value.reasons


def test_a_protocol_is_written_into_the_metadata() -> None:
    record = Record(service="a", id="b", address="c", port=1, protocol="h2c")
    assert json.loads(record.value(AT))["metadata"] == {"protocol": "h2c"}


def test_every_reason_is_given_at_once() -> None:
    with pytest.raises(InvalidRecord) as refused:
        checked(Record(service="", id="a/b", address="!", port=0, weight=-1))
    assert len(refused.value.reasons) == 5


def test_health_is_replaced_and_all_else_kept() -> None:
    value = b'{"port": 1, "health": {"status": "healthy", "mine": 1}, "unknown": [1, {"a": 2}]}'
    changed = with_health(value, Health("unhealthy", "HTTP 503", AT))
    assert changed is not None
    assert json.loads(changed) == {
        "port": 1,
        "health": {
            "status": "unhealthy",
            "last_check": "2026-11-22T10:00:00Z",
            "message": "HTTP 503",
        },
        "unknown": [1, {"a": 2}],
    }


@pytest.mark.parametrize("value", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 5000])
def test_a_value_that_is_no_record_is_not_changed(value: bytes) -> None:
    assert with_health(value, Health("healthy", "", AT)) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ttl": 0.5}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"endpoints": ["127.0.0.1:2379"]}, "endpoint"),
        ({"check": "htp://x"}, "check"),
    ],
)
def test_a_registrar_that_cannot_work_is_refused_where_it_is_made(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Registrar(USERS, **settings)
