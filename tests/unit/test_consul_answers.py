"""Answers of Consul → records of ours: statuses, weights, addresses, ids, what is not believed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.membership import Instance
from proxy.registry.base import Refused, RegistryError
from proxy.registry.consul import answers
from proxy.registry.consul.meta import lease_of, packed, unpacked
from proxy.registry.consul.options import Options
from proxy.registry.records import Unreadable, read
from tests.support.scripted_consul import check, entry

OPTIONS = Options(endpoints=("http://a:8500",))


def registered(body: bytes) -> list[answers.Registered]:
    return [answers.registered(piece) for piece in answers.pieces(body)]


def one(options: Options = OPTIONS, **changes: Any) -> Instance:
    """The instance that an entry with these changes makes."""
    [found] = registered(json.dumps([entry("web", "web-1", **changes)]).encode())
    instance, odd = read("web", "web-1", answers.record(found, options))
    assert odd == ""
    return instance


OWN = "service:web-1"
MAINTENANCE = check("_service_maintenance:web-1", "critical", Notes="new disk")


@pytest.mark.parametrize(
    ("checks", "status", "message"),
    [
        ([], "healthy", ""),
        (None, "healthy", ""),
        ([check("serfHealth"), check(OWN)], "healthy", ""),
        ([check(OWN, "warning")], "healthy", ""),
        ([check(OWN, "critical")], "critical", OWN),
        ([check(OWN, "critical"), check("disk", "critical")], "critical", f"{OWN}; disk"),
        ([check("serfHealth", "critical")], "critical", "the agent of its node does not answer"),
        ([MAINTENANCE], "draining", "new disk"),
        ([check(OWN, "critical"), MAINTENANCE], "draining", "new disk"),
        ([check("_node_maintenance", "critical")], "draining", "maintenance of its node"),
        ([check(OWN, "critical", Notes=None)], "critical", OWN),
        ([check(OWN, "odd")], "odd", OWN),
    ],
)
def test_statuses(checks: Any, status: str, message: str) -> None:
    instance = one(Checks=checks)
    assert (instance.health, instance.health_message) == (status, message)


def test_outputs_of_checks_change_nothing() -> None:
    assert one(Checks=[check(OWN, Output="1 ms")]) == one(Checks=[check(OWN, Output="2 ms")])


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        ({}, 1),
        ({"Weights": None}, 1),
        ({"Weights": {"Passing": 5, "Warning": 2}}, 5),
        ({"Weights": {"Passing": 5, "Warning": 2}, "Checks": [check(OWN, "warning")]}, 2),
        ({"Weights": {"Passing": 0, "Warning": 1}}, 0),
        ({"Weights": {"Passing": 5, "Warning": 2}, "Meta": {"weight": "7"}}, 7),
    ],
)
def test_weights(changes: dict[str, Any], weight: int) -> None:
    assert one(**changes).weight == weight


NODE = {"TaggedAddresses": {"lan": "10.0.0.9", "wan": "1.2.3.9"}}
TAGGED = {"lan": {"Address": "10.0.0.2", "Port": 81}, "wan": {"Address": "1.2.3.4", "Port": 0}}


@pytest.mark.parametrize(
    ("choice", "changes", "address", "port"),
    [
        ("auto", {}, "10.0.0.1", 8080),
        ("auto", {"Address": ""}, "10.0.0.9", 8080),
        ("auto", {"TaggedAddresses": TAGGED}, "10.0.0.1", 8080),
        ("lan", {"TaggedAddresses": TAGGED}, "10.0.0.2", 81),
        ("wan", {"TaggedAddresses": TAGGED}, "1.2.3.4", 8080),
        ("wan", {}, "10.0.0.1", 8080),
        ("wan", {"Address": "", "Node": NODE}, "1.2.3.9", 8080),
        ("wan", {"Address": "10.0.0.1", "Node": NODE}, "10.0.0.1", 8080),
        ("auto", {"Address": "", "Node": NODE}, "10.0.0.9", 8080),
        ("wan", {"Address": "", "Node": {"TaggedAddresses": None}}, "10.0.0.9", 8080),
    ],
)
def test_addresses(choice: str, changes: dict[str, Any], address: str, port: int) -> None:
    instance = one(msgspec.structs.replace(OPTIONS, address=choice), **changes)
    assert (instance.address, instance.port) == (address, port)


def test_an_instance_without_a_port_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="port 0"):
        one(Port=0)


def test_tags_and_meta_are_metadata() -> None:
    instance = one(Tags=["blue", "version=2.1"], Meta={"zone": "a"})
    assert instance.metadata == {"tags": "blue,version=2.1", "zone": "a"}
    assert instance.version == "2.1"
    assert one(Tags=["version=2.1"], Meta={"version": "3"}).version == "3"


@pytest.mark.parametrize(
    ("entries", "ids"),
    [
        ([("a", "n1"), ("b", "n1")], ["a", "b"]),
        ([("web", "n1")], ["n1:web"]),
        ([("web", "n1"), ("web", "n2")], ["n1:web", "n2:web"]),
        ([("a", "n1"), ("a", "n2"), ("b", "n2")], ["n1:a", "n2:a", "b"]),
    ],
)
def test_ids_are_those_of_consul_where_these_are_unique(
    entries: list[tuple[str, str]], ids: list[str]
) -> None:
    document = [entry("web", id_, Node={"Node": node}) for id_, node in entries]
    assert answers.ids(registered(json.dumps(document).encode())) == ids


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ({"x-consul-index": "7"}, 7),
        ({"x-consul-index": "0"}, 1),
        ({"x-consul-index": "-7"}, 1),
        ({}, 1),
        ({"x-consul-index": "7", "x-consul-knownleader": "true", "x-consul-lastcontact": "48"}, 7),
    ],
)
def test_an_index(fields: dict[str, str], index: int) -> None:
    assert answers.index_of(fields) == index


@pytest.mark.parametrize(
    "fields",
    [
        {"x-consul-index": "7", "x-consul-knownleader": "false"},
        {"x-consul-index": "7", "x-consul-lastcontact": "5001"},
        {"x-consul-index": "7", "x-consul-lastcontact": "long"},
    ],
)
def test_an_answer_of_a_server_that_is_cut_off_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(RegistryError, match="leader"):
        answers.index_of(fields)


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"{}", b'[{"Node": 1}]', b"[1]", b"\xff"])
def test_a_list_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(RegistryError, match="not an answer of Consul"):
        registered(body)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"web": 1}', b'{"web": null}'])
def test_a_catalogue_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(RegistryError, match="not an answer of Consul"):
        answers.names(body)


def test_an_agent_is_well_as_long_as_the_others_say_so() -> None:
    assert answers.agent_is_well(json.dumps([check("serfHealth")]).encode())
    assert not answers.agent_is_well(json.dumps([check("serfHealth", "critical")]).encode())
    assert not answers.agent_is_well(b"[]")


RECORD = {"address": "10.0.0.1", "port": 80, "metadata": {"zone": "ü", "long": "x" * 2000}}


def test_a_record_of_ours_stands_in_the_meta_whole() -> None:
    value = json.dumps(RECORD | {"version": "3"}).encode()
    meta = packed("a", value, 7, 1)
    assert all(len(text) <= 512 and text.isascii() for text in meta.values())
    assert unpacked(meta) == json.loads(value)
    assert lease_of(meta) == 7
    assert packed("a", value, 7, 2) != meta
    instance = one(Meta=meta)
    assert instance.metadata == RECORD["metadata"]
    assert instance.version == "3"
    document = json.dumps([entry("web", "web/a", Meta=meta)]).encode()
    assert answers.ids(registered(document)) == ["a"]


def test_a_record_that_is_too_long_for_the_meta_is_refused() -> None:
    with pytest.raises(Refused, match="Consul holds 24576"):
        packed("a", json.dumps({"long": "x" * 25_000}).encode(), 7, 1)


@pytest.mark.parametrize("meta", [{}, {"fairlead-record-0": '{"a'}, {"fairlead-record-0": "[1]"}])
def test_a_meta_without_a_record(meta: dict[str, str]) -> None:
    assert unpacked(meta) is None
    assert one(Meta=meta).metadata == {}


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 40])
def test_a_lease_that_is_none(text: str) -> None:
    assert lease_of({"fairlead-lease": text}) == 0
