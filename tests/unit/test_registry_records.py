"""From a key and its JSON to an instance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.membership import Instance
from proxy.registry.records import (
    MAX_VALUE,
    MAX_WEIGHT,
    Unreadable,
    read,
    service_of,
    split_key,
    weight,
)

PREFIX = b"/services/"


def parsed(**fields: Any) -> Instance:
    return both(**fields)[0]


def both(**fields: Any) -> tuple[Instance, str]:
    """With what was odd about it."""
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


@pytest.mark.parametrize("health", [None, {}, {"status": None}, {"message": "fine"}, []])
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


def test_a_protocol_that_nobody_knows_makes_a_record_unreadable() -> None:
    assert parsed(metadata={"protocol": "h2c"}).metadata == {"protocol": "h2c"}
    with pytest.raises(Unreadable, match='protocol "dubbo" is none of h1, h2c, h2, grpc'):
        parsed(metadata={"protocol": "dubbo"})


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
        (" 10.0.0.5 ", "10.0.0.5"),
        ("a.example\n", "a.example"),
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
        "2130706433",
        "0x7f000001",
        "0X7F.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.0x1",
        "127.1.",
        "1.2.3.4%eth0",
        "fe80::1%",
        "fe80::1%a@b",
        "fe80::1%a\nb",
        "::1%" + "x" * 16,
        "a\0b",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    reason = refused(json.dumps({"address": address, "port": 1}).encode())
    assert "neither an IP address nor a host name" in reason
    assert len(reason) < 400


@pytest.mark.parametrize(
    "port", ["0", "65536", "-1", '"80a"', '"8080/tcp"', "80.5", "1e99", "true", "[80]", '"8" * 99']
)
def test_ports_that_are_refused(port: str) -> None:
    port = port.replace('"8" * 99', f'"{"8" * 99}"')
    reason = refused(b'{"address": "a", "port": %s}' % port.encode())
    assert "is not a whole number from 1 to 65535" in reason
    assert reason.startswith(f"port {port[:20]}")


@pytest.mark.parametrize("port", ["8080", '"8080"', '" 8080\\n"', "8080.0", "8.08e3", '"08080"'])
def test_spellings_of_a_port(port: str) -> None:
    assert read("u", "1", b'{"address": "a", "port": %s}' % port.encode())[0].port == 8080


@pytest.mark.parametrize(
    ("word", "health"),
    [
        *[
            (word, "healthy")
            for word in ("healthy", "Healthy", " HEALTHY\n", "UP", "up", "passing")
        ],
        *[(word, "healthy") for word in ("ok", "OK", "Passing", "warning", "", " ", True, None)],
        *[(word, "draining") for word in ("draining", "Draining", " DRAINING ", "maintenance")],
        ("OUT_OF_SERVICE", "draining"),
        *[
            (word, word)
            for word in ("unhealthy", "DOWN", "STARTING", "UNKNOWN", "critical", "okay")
        ],
        *[(word, word) for word in ("no", "ups", "not healthy")],
        (False, "false"),
        (0, "0"),
        (1, "1"),
    ],
)
def test_words_of_health(word: object, health: str) -> None:
    assert parsed(health={"status": word}).health == health
    assert parsed(health=word).health == health


@pytest.mark.parametrize(
    ("fields", "odd"),
    [
        ({"metadata": []}, ""),
        ({"metadata": 0}, ""),
        ({"metadata": ["a", "b"]}, 'metadata ["a","b"] is not an object: ignored'),
        ({"metadata": "zone=b"}, 'metadata "zone=b" is not an object: ignored'),
        ({"metadata": {"labels": {"zone": "eu"}, "tags": ["a"]}}, ""),
        ({"health": []}, ""),
        ({"health": {"status": {}}}, ""),
        ({"health": ["ok"]}, 'health.status ["ok"] is not a word: ignored'),
        ({"health": {"status": {"code": 1}}}, 'health.status {"code":1} is not a word: ignored'),
        ({"metadata": {"weight": "heavy"}}, 'metadata.weight "heavy" counts as 1'),
        ({"metadata": {"weight": 2.5}}, "metadata.weight 2.5 counts as 1"),
        ({"metadata": {"weight": -1}}, "metadata.weight -1 counts as 1"),
        ({"metadata": {"weight": True}}, "metadata.weight true counts as 1"),
        ({"metadata": {"weight": 10**9}}, "metadata.weight 1000000000 counts as 65535"),
        ({"metadata": {"weight": "007"}}, ""),
        ({"metadata": {"weight": ""}}, ""),
        ({"metadata": {"weight": None}}, ""),
    ],
)
def test_oddities_of_a_record_that_is_used_are_told(fields: dict[str, Any], odd: str) -> None:
    instance, told = both(**fields)
    assert (told, instance.health) == (odd, "healthy")


def test_two_odd_things_are_both_told() -> None:
    assert both(metadata=7, health=["x"])[1].count("ignored") == 2


def test_nested_labels_are_kept_as_json() -> None:
    given = {"labels": {"zone": "eu"}, "tags": ["a", 1], "empty": []}
    assert parsed(metadata=given).metadata == {
        "labels": '{"zone":"eu"}',
        "tags": '["a",1]',
        "empty": "[]",
    }
    assert parsed(version={"major": 1}).version == '{"major":1}'
    assert parsed(health={"status": "ok", "message": ["db"]}).health_message == '["db"]'


@pytest.mark.parametrize(("stated", "counts"), [(2.0, 2), (0.0, 0), (3, 3), ("2.0", 1)])
def test_a_weight_is_a_whole_number_however_json_spells_it(stated: object, counts: int) -> None:
    assert parsed(metadata={"weight": stated}).weight == counts


@pytest.mark.parametrize(
    "value",
    [
        b'\xef\xbb\xbf{"address": "a", "port": 1}',
        b'{"address": "a", "port": 1, "message": "cut \\ud83d"}',
        b'{"address": "a", "port": 1, "metadata": {"\\udc00": "\\ud83d\\ude00 \\\\ud83d"}}',
        b'{"address": "a", "port": 1, "metadata": {"big": 1e999}, "version": -1e999}',
        b'{"address": "a", "port": 1, "metadata": ' + b"1" * 5000 + b"}",
        b'{"address": "a", "port": 1, "port": 1}',
        b'{"address": "a", "port": 1, "metadata": {"load": NaN, "most": [-Infinity]}}',
        b'{"address": "a", "port": 1, "health": {"message": "OK\n\tall well\x00"}}',
    ],
    ids=[
        *("byte order mark", "half a pair", "whole pair", "too large", "very long", "twice"),
        *("no number", "raw line end"),
    ],
)
def test_json_that_parsers_disagree_about(value: bytes) -> None:
    assert read("users", "users-1", value)[0].port == 1


def test_half_a_pair_becomes_the_replacement_character_and_a_whole_one_stays() -> None:
    value = rb'{"address": "a", "port": 1, "version": "\ud83d\ude00 \ud83d \\ud83d"}'
    assert read("users", "users-1", value)[0].version == "\U0001f600 \ufffd \\ud83d"


def test_every_complaint_about_address_and_port_at_once() -> None:
    assert refused(b'{"address": "10.0.0", "port": 0}') == (
        'address "10.0.0" is neither an IP address nor a host name in ASCII;'
        " port 0 is not a whole number from 1 to 65535"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"address": "a", "port": 1} {}', "not JSON"),
        (b"127.0.0.1:8080", "not JSON (Extra data: line 1 column 6 (char 5)): '127.0.0.1:8080'"),
        (b'{"address": "a", "port": NaN}', "port null is not a whole number"),
        (b'{"address": "a\nb", "port": 1}', 'address "a\\nb" is neither'),
        (b"\xff\xfe", "not UTF-8 (byte 0)"),
        (b'{"address": "\xff", "port": 1}', "not UTF-8 (byte 13)"),
        (b'{"address": "a", "port": 1, "x": "\xff"}', "not UTF-8 (byte 34)"),
        (b'{"address": "a", "port": 1, "x": ' + b"[" * 20_000, "nested too deeply"),
        (b'{"address": "a", "port": 1, "x": "%s"}' % (b"x" * MAX_VALUE), "at most 65536 are read"),
        (b"[]", "the value is [], not an object with address and port"),
        (b"null", "the value is null"),
        (b'"10.0.0.5"', 'the value is "10.0.0.5", not an object'),
        (b"{}", "no address and no port in the value, which has: nothing"),
        (b'{"address": "a"}', "no port in the value, which has: address"),
        (b'{"host": "a", "port": null}', "no address and no port in the value, which has: host, p"),
        (b'{"address": "", "port": ""}', 'address "" is neither an IP address nor a host name'),
        (b'{"address": 1, "port": 1}', "address 1 is neither"),
        (b'{"address": ["a"], "port": 1}', 'address ["a"] is neither'),
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
        b"/services/users/" + b"a" * 256,
        b"/services/" + "ü".encode() * 128 + b"/a",
    ],
)
def test_keys_that_are_refused(key: bytes) -> None:
    with pytest.raises(Unreadable, match="key"):
        split_key(key, PREFIX)


@pytest.mark.parametrize(
    ("key", "service"),
    [
        (b"/services/users/a", "users"),
        (b"/services/users/a/b", "users"),
        (b"/services/users/\xff", "users"),
        (b"/services/users", ""),
        (b"/services/", ""),
    ],
)
def test_the_service_that_a_key_is_about(key: bytes, service: str) -> None:
    assert service_of(key, PREFIX) == service
