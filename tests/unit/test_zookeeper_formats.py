"""Nodes of ZooKeeper as Curator, Spring Cloud and Finagle write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.membership import Instance
from proxy.registry.records import Unreadable, read
from proxy.registry.zookeeper.formats import FORMATS


def made(form: str, node: str, value: bytes) -> tuple[Instance, str]:
    return read("web", *FORMATS[form](node, value))


def one(form: str, node: str, value: Any) -> Instance:
    instance, odd = made(form, node, json.dumps(value).encode())
    assert odd == ""
    return instance


CURATOR = {
    "name": "web",
    "id": "71b4",
    "address": "10.0.0.5",
    "port": 8080,
    "sslPort": None,
    "payload": None,
    "registrationTimeUTC": 1,
    "serviceType": "DYNAMIC",
    "uriSpec": None,
}


def test_our_records_stand_as_they_are() -> None:
    instance = one("fairlead", "a", {"address": "10.0.0.5", "port": 80})
    assert (instance.id, instance.address, instance.port) == ("a", "10.0.0.5", 80)


@pytest.mark.parametrize(
    ("changes", "port", "health", "metadata"),
    [
        ({}, 8080, "healthy", {}),
        ({"enabled": True}, 8080, "healthy", {}),
        ({"enabled": False}, 8080, "draining", {}),
        ({"port": None, "sslPort": 8443}, 8443, "healthy", {"scheme": "https"}),
        ({"sslPort": 8443}, 8080, "healthy", {}),
        ({"payload": {"metadata": {"zone": "a"}}}, 8080, "healthy", {"zone": "a"}),
        ({"payload": "text"}, 8080, "healthy", {}),
        ({"payload": {"metadata": []}}, 8080, "healthy", {}),
    ],
)
def test_instances_of_curator(
    changes: dict[str, Any], port: int, health: str, metadata: dict[str, str]
) -> None:
    instance = one("curator", "71b4", CURATOR | changes)
    assert (instance.id, instance.address, instance.port) == ("71b4", "10.0.0.5", port)
    assert (instance.health, instance.metadata) == (health, metadata)


MEMBER = {"serviceEndpoint": {"host": "10.0.0.5", "port": 8080}, "additionalEndpoints": {}}


@pytest.mark.parametrize(
    ("changes", "health", "metadata"),
    [
        ({}, "healthy", {}),
        ({"status": "ALIVE", "shard": 1}, "healthy", {"shard": "1"}),
        ({"status": "STOPPING"}, "STOPPING", {}),
        ({"shard": "x"}, "healthy", {}),
    ],
)
def test_members_of_a_server_set_are_called_by_what_they_lead_to(
    changes: dict[str, Any], health: str, metadata: dict[str, str]
) -> None:
    instance = one("serverset", "member_0000000012", MEMBER | changes)
    assert (instance.id, instance.address, instance.port) == ("10.0.0.5:8080", "10.0.0.5", 8080)
    assert (instance.health, instance.metadata) == (health, metadata)


@pytest.mark.parametrize("form", ["curator", "serverset"])
@pytest.mark.parametrize("value", [b"", b"[]", b"10.0.0.5:8080", b"\xff", b"{}", b"[" * 9999])
def test_other_values_are_unreadable(form: str, value: bytes) -> None:
    with pytest.raises(Unreadable):
        made(form, "a", value)
