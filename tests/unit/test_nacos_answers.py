"""Answers of Nacos → records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.nacos import answers
from proxy.registry.nacos.answers import Hosts, Token
from proxy.registry.own import packed
from proxy.registry.records import read, split_key
from tests.support.scripted_nacos import host


def instances(*given: dict[str, Any]) -> list[Instance]:
    found = answers.records("users", Hosts(given), {})
    return [read(*split_key(key, b""), value)[0] for key, value in found.items()]


def test_an_instance_is_read_with_its_labels() -> None:
    [instance] = instances(host(metadata={"version": "1.2", "zone": "b"}, weight=3.0))
    assert instance == Instance(
        service="users",
        id="10.0.0.1:8080#DEFAULT",
        address="10.0.0.1",
        port=8080,
        weight=3,
        version="1.2",
        metadata={"version": "1.2", "zone": "b", "weight": "3"},
    )


def test_a_record_of_a_registrar_of_ours_is_read_as_it_was_stated() -> None:
    stated = {"id": "u1", "version": "1.2", "health": {"status": "draining"}}
    metadata = packed({**stated, "metadata": {"weight": "7", "zone": "b"}}, 1)
    beats = {"preserved.heart.beat.timeout": "5000"}
    one = host(metadata=metadata | beats, weight=0.0)
    [instance, other] = instances(one, {**one, "port": 8081})
    assert instance == Instance(
        service="users",
        id="u1",
        address="10.0.0.1",
        port=8080,
        weight=7,
        version="1.2",
        metadata={"weight": "7", "zone": "b"},
        health="draining",
    )
    assert other.id == "10.0.0.1:8081#DEFAULT", "an id is of the first who has it"
    [instance] = instances({**one, "healthy": False})
    assert instance.health == "unhealthy"


@pytest.mark.parametrize(
    ("fields", "health"),
    [
        ({}, "healthy"),
        ({"healthy": False}, "unhealthy"),
        ({"enabled": False}, "draining"),
        ({"healthy": False, "enabled": False}, "draining"),
    ],
)
def test_switches_become_health(fields: dict[str, Any], health: str) -> None:
    assert instances(host(**fields))[0].health == health


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ([1.0, 2.0], [1, 2]),
        ([1.0, 0.5, 0.0], [100, 50, 0]),
        ([0.001, 10.0], [1, 1000]),
        (["x", None], [1, 1]),
        ([float("nan"), -(10**400)], [1, 0]),
        ([1e308, 0.5], [65535, 50]),
    ],
)
def test_weights_keep_their_proportions(given: list[Any], weights: list[int]) -> None:
    found = instances(*(host(port, weight=weight) for port, weight in enumerate(given, 1)))
    assert [one.weight for one in found] == weights or (
        given[0] == 0.001 and found[1].weight == 1000
    )


def test_health_stays_as_it_was_while_nacos_protects_itself() -> None:
    def made(*hosts: dict[str, Any], protected: bool, before: Mapping[bytes, bytes]) -> list[str]:
        found = answers.records("users", Hosts(hosts, protected), before)
        return [json.loads(value)["health"] for value in found.values()]

    ill = answers.records("users", Hosts((host(1), host(2, healthy=False))), {})
    both = host(1), host(2), host(3)
    assert made(*both, protected=True, before=ill) == ["healthy", "unhealthy", "healthy"]
    assert made(*both, protected=False, before=ill) == ["healthy"] * 3


def test_answers_of_either_api_are_understood() -> None:
    v1 = {"hosts": [host()], "reachProtectionThreshold": True}
    assert answers.hosts(json.dumps(v1).encode()) == Hosts((host(),), True)
    v3 = {"code": 0, "message": "success", "data": [host()]}
    assert answers.hosts(json.dumps(v3).encode()) == Hosts((host(),), False)
    with pytest.raises(RegistryError, match="code 403: access denied"):
        answers.hosts(b'{"code": 403, "message": "access denied", "data": null}')


def test_names_and_tokens_are_read() -> None:
    assert answers.names(b'{"count": 3, "doms": ["a", "G@@b"]}') == (3, ["a", "b"])
    assert answers.token(b'{"accessToken": "t", "tokenTtl": 18000}') == Token("t", 18000.0)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"hosts": [7]}', b"\xff", b'{"doms": 1}']
)
def test_another_document_is_an_outage_that_quotes_it(body: bytes) -> None:
    for read_as in (answers.hosts, answers.names, answers.token):
        with pytest.raises(RegistryError, match="not an answer of Nacos"):
            read_as(body)
