"""From a key and its JSON to an instance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.model import Instance
from proxy.registry.records import MAX_WEIGHT, Unreadable, read, split_key, weight

PREFIX = b"/services/"


def parsed(**fields: Any) -> Instance:
    body = {"address": "10.0.0.5", "port": 8080} | fields
    return read("users", "users-1", json.dumps(body).encode())


def refused(value: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        read("users", "users-1", value)
    return str(caught.value)


def test_the_whole_record() -> None:
    assert parsed(
        id="users-1",
        name="users",
        version="1.4.0",
        metadata={"weight": "2", "zone": "eu-1"},
        health={"status": "draining", "last_check": "2026-11-22T10:00:00Z", "message": "bye"},
        register_time="2026-11-22T09:00:00Z",
    ) == Instance(
        service="users",
        id="users-1",
        address="10.0.0.5",
        port=8080,
        weight=2,
        version="1.4.0",
        metadata={"weight": "2", "zone": "eu-1"},
        health="draining",
        health_message="bye",
    )


def test_address_and_port_are_enough() -> None:
    instance = parsed()
    assert (instance.weight, instance.version, instance.metadata) == (1, "", {})
    assert instance.health == "healthy"


def test_the_key_wins_over_the_body() -> None:
    instance = parsed(id="somebody-else", name=17)
    assert (instance.service, instance.id) == ("users", "users-1")


@pytest.mark.parametrize("health", [None, {}, {"status": None}, {"message": "fine"}])
def test_no_status_is_healthy(health: object) -> None:
    assert parsed(health=health).health == "healthy"


def test_numbers_and_booleans_in_metadata_become_text() -> None:
    given = {"weight": 3, "canary": True, "cost": 0.5, "zone": None}
    instance = parsed(metadata=given, version=2)
    assert instance.metadata == {"weight": "3", "canary": "true", "cost": "0.5", "zone": ""}
    assert instance.weight == 3
    assert instance.version == "2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("2", 2),
        ("007", 7),
        ("0", 0),
        ("000", 0),
        ("65535", 65535),
        ("65536", MAX_WEIGHT),
        ("9" * 5000, MAX_WEIGHT),
        ("", 1),
        ("-1", 1),
        ("+2", 1),
        ("1.5", 1),
        (" 2", 1),
        ("2kg", 1),
        ("٣", 1),
        ("²", 1),
    ],
)
def test_weight(text: str, expected: int) -> None:
    assert weight(text) == expected


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::1", "::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("localhost", "localhost"),
        ("users-1.internal.example.", "users-1.internal.example."),
        ("my_container", "my_container"),
        ("1password.example", "1password.example"),
    ],
)
def test_addresses(given: str, stored: str) -> None:
    assert parsed(address=given).address == stored


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "10.0.0",
        "999.1.1.1",
        "1",
        "10.0.0.5:80",
        "http://a",
        "a b",
        "a\nb",
        "a\n",
        "a..b",
        ".a",
        "-a",
        "[localhost]",
        "[::1",
        "bücher.example",
        "a" * 64,
        "a." * 130,
        "-".join("a" * 200) + "!",
        "user@host",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    reason = refused(json.dumps({"address": address, "port": 1}).encode())
    assert "neither an IP address nor a host name" in reason
    assert len(reason) < 400


@pytest.mark.parametrize("port", ["0", "65536", "-1", '"80"', "80.0", "8e1", "true", "null"])
def test_ports_that_are_refused(port: str) -> None:
    assert "`$.port`" in refused(b'{"address": "a", "port": %s}' % port.encode())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"address": "a", "port": 1} {}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"address": "\xff", "port": 1}', "not JSON"),
        (b'{"address": "a", "port": 1, "x": ' + b"[" * 100_000, "not JSON"),
        (b"[]", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b"{}", "missing required field `address`"),
        (b'{"address": "a"}', "missing required field `port`"),
        (b'{"address": 1, "port": 1}', "`$.address`"),
        (b'{"address": "a", "port": 1, "metadata": {"a": []}}', "`$.metadata"),
        (b'{"address": "a", "port": 1, "health": "ok"}', "`$.health`"),
        (b'{"address": "a", "port": 1, "health": {"status": 1}}', "`$.health.status`"),
    ],
)
def test_values_that_are_refused(value: bytes, reason: str) -> None:
    assert reason in refused(value)


def test_split_key() -> None:
    assert split_key("/services/größe/a b:80".encode(), PREFIX) == ("größe", "a b:80")


@pytest.mark.parametrize(
    "key",
    [
        b"/services/",
        b"/services/users",
        b"/services/users/",
        b"/services//users-1",
        b"/services/users/a/b",
        b"/services/users/a/",
        b"/elsewhere/users/a",
        b"/services/users/\xff",
        b"/services/users/a\nb",
        b"/services/us\x7fers/a",
    ],
)
def test_keys_that_are_refused(key: bytes) -> None:
    with pytest.raises(Unreadable, match="key"):
        split_key(key, PREFIX)
