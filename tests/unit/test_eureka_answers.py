"""Answers of Eureka → records, and what has changed in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.eureka.answers import Known, changed, everything
from proxy.registry.eureka.options import Options
from proxy.registry.records import Unreadable, read, split_key
from tests.support.scripted_eureka import ScriptedEureka, registered

OPTIONS = Options(endpoints=("http://eureka:8761/eureka",))


def said(*instances: dict[str, Any], hash_: str | None = None) -> bytes:
    server = ScriptedEureka()
    server.instances = {one["instanceId"]: one for one in instances}
    document = server.document(instances)
    if hash_ is not None:
        document["applications"]["apps__hashcode"] = hash_
    return json.dumps(document).encode()


def only(one: dict[str, Any], options: Options = OPTIONS) -> Instance:
    [(key, value)] = everything(said(one), options).records.items()
    return read(*split_key(key, b""), value)[0]


def ids(known: Known) -> list[str]:
    return [key.decode().partition("/")[2] for key in known.records]


def test_an_instance_is_read_with_its_labels() -> None:
    labels = {"weight": "3", "zone": "b", "version": "1.2"}
    instance = only(registered("users", "h:users:8080", metadata=labels))
    assert instance == Instance(
        service="users",
        id="h:users:8080",
        address="10.0.0.1",
        port=8080,
        weight=3,
        version="1.2",
        metadata=labels,
    )


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("UP", "healthy"),
        ("OUT_OF_SERVICE", "draining"),
        ("DOWN", "DOWN"),
        ("STARTING", "STARTING"),
        ("UNKNOWN", "UNKNOWN"),
    ],
)
def test_each_status_word_is_mapped(status: str, health: str) -> None:
    assert only(registered("users", "1", status=status)).health == health


def test_numbers_and_texts_beyond_strict_json_are_read() -> None:
    one = registered("users", "1", metadata={"x": float("nan"), "y": "\ud83d", "weight": "2"})
    assert only(one).weight == 2


def test_names_and_addresses_are_those_that_the_settings_prefer() -> None:
    one = registered("users", "1")
    assert only(one).service == "users"
    assert only(one, Options(names="as-is")).service == "USERS"
    assert only(one, Options(prefer="host")).address == "host.internal"
    assert only({**one, "ipAddr": ""}).address == "host.internal"


def test_a_secure_port_is_used_where_the_other_one_is_off() -> None:
    off, on = {"$": 80, "@enabled": "false"}, {"$": "8443", "@enabled": True}
    instance = only({**registered("users", "1"), "port": off, "securePort": on})
    assert (instance.port, instance.metadata) == (8443, {"scheme": "https"})
    with pytest.raises(Unreadable, match="no port"):
        only({**registered("users", "1"), "port": off, "securePort": off})


def test_a_list_of_one_may_be_the_item_itself() -> None:
    one = registered("users", "1")
    document = {"apps__hashcode": "UP_1_", "application": {"name": "USERS", "instance": one}}
    known = everything(json.dumps({"applications": document}).encode(), OPTIONS)
    assert ids(known) == ["1"]
    assert known.agrees


def test_changes_are_applied_in_their_order_and_may_be_told_again() -> None:
    one, two, three = (registered("users", id_) for id_ in "123")
    known = everything(said(one, two), OPTIONS)
    assert known.agrees
    delta = said(
        {**two, "actionType": "DELETED"},
        {**three, "actionType": "ADDED"},
        {**three, "actionType": "DELETED"},
        {**three, "actionType": "ADDED"},
        {**one, "status": "DOWN", "actionType": "MODIFIED"},
        hash_="DOWN_1_UP_1_",
    )
    for _ in range(2):
        known = changed(known, delta, OPTIONS)
        assert ids(known) == ["1", "3"]
        assert known.left == {b"users/2"}
        assert known.agrees


def test_a_hash_of_other_statuses_does_not_agree() -> None:
    known = everything(said(registered("users", "1")), OPTIONS)
    assert not changed(known, said(hash_="UP_2_"), OPTIONS).agrees
    assert changed(known, said(hash_="UP_1_"), OPTIONS).agrees


@pytest.mark.parametrize(
    "body",
    [
        b"<applications/>",
        b"{}",
        b"[]",
        b'{"applications": []}',
        b'{"applications": {"apps__hashcode": "", "application": [7]}}',
        b'{"applications": {"apps__hashcode": "", "application": {"instance": [[]]}}}',
        b"\xff",
    ],
)
def test_another_document_is_an_outage_that_quotes_it(body: bytes) -> None:
    with pytest.raises(RegistryError, match="not an answer of Eureka"):
        everything(body, OPTIONS)
