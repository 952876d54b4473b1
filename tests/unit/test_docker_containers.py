"""Containers of Docker → records: addresses, ports, labels, and the words of its checks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.docker.containers import Container, Event, decode, key, record
from proxy.registry.docker.options import Options
from proxy.registry.records import Unreadable, read
from tests.support.scripted_docker import container


def one(network: str = "", **changes: Any) -> Instance:
    document = json.dumps([container("web", "web-1", **changes)]).encode()
    [found] = decode(document, tuple[Container, ...])
    service, _, name = key(found).decode().partition("/")
    options = msgspec.structs.replace(Options(), network=network)
    instance, odd = read(service, name, record(found, options))
    assert odd == ""
    return instance


@pytest.mark.parametrize(
    ("state", "status", "health"),
    [
        ("running", "Up 3 minutes", "healthy"),
        ("running", "Up 3 minutes (healthy)", "healthy"),
        ("running", "Up 3 minutes (unhealthy)", "unhealthy"),
        ("running", "Up 2 seconds (health: starting)", "starting"),
        ("paused", "Up 3 minutes (Paused)", "paused"),
        ("restarting", "Restarting (1) 2 seconds ago", "restarting"),
    ],
)
def test_states(state: str, status: str, health: str) -> None:
    assert one(State=state, Status=status).health == health


def test_an_instance_is_called_by_the_container() -> None:
    instance = one()
    assert (instance.service, instance.id) == ("web", "web-1")
    assert (instance.address, instance.port) == ("10.0.0.1", 8080)
    assert one(Names=None).id == "web-10123456"


def test_labels_are_metadata() -> None:
    labels = {"fairlead.meta.zone": "a", "fairlead.meta.weight": "3", "fairlead.version": "2"}
    instance = one(Labels=labels)
    assert instance.metadata == {"zone": "a", "weight": "3"}
    assert (instance.weight, instance.version) == (3, "2")


SEVERAL = [{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 81, "Type": "tcp"}]


@pytest.mark.parametrize(
    ("changes", "port"),
    [
        ({"Labels": {"fairlead.port": "90"}}, 90),
        ({"Labels": {"fairlead.port": "80"}, "Ports": SEVERAL}, 80),
        ({"Ports": [*SEVERAL[:1], *SEVERAL[:1], {"PrivatePort": 53, "Type": "udp"}]}, 80),
    ],
)
def test_ports(changes: dict[str, Any], port: int) -> None:
    assert one(**changes).port == port


NETWORKS = {"Networks": {"back": {"IPAddress": "10.0.1.1"}, "front": {"IPAddress": "10.0.2.1"}}}
ALONE = {"Networks": {"six": {"IPAddress": "", "GlobalIPv6Address": "fd00::1"}}}


@pytest.mark.parametrize(
    ("network", "changes", "address"),
    [
        ("back", {"NetworkSettings": NETWORKS}, "10.0.1.1"),
        (
            "back",
            {"NetworkSettings": NETWORKS, "Labels": {"fairlead.network": "front"}},
            "10.0.2.1",
        ),
        ("back", {}, "10.0.0.1"),
        ("", {"NetworkSettings": ALONE}, "fd00::1"),
        ("", {"NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}, "127.0.0.1"),
    ],
)
def test_addresses(network: str, changes: dict[str, Any], address: str) -> None:
    assert one(network, **changes).address == address


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Ports": []}, "port .fairlead.port, of none,"),
        ({"Ports": SEVERAL}, "port .fairlead.port, of 80, 81,"),
        ({"NetworkSettings": NETWORKS}, "address .fairlead.network, of back, front"),
        ({"NetworkSettings": {}}, "address .fairlead.network, of none"),
    ],
)
def test_a_port_or_address_that_is_missing_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        one(**changes)


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[1]", b"<html>"])
def test_answers_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(RegistryError, match="not an answer of Docker"):
        decode(body, tuple[Container, ...])


def test_an_event_names_the_container() -> None:
    event = decode(b'{"Action": "die", "Actor": {"Attributes": {"name": "a"}}, "x": 1}', Event)
    assert (event.action, event.actor.attributes) == ("die", {"name": "a"})


@pytest.mark.parametrize(
    ("action", "changes"),
    [("start", True), ("health_status: healthy", True), ("exec_start: /bin/sh -c x", False)],
)
def test_commands_in_a_container_change_nothing(action: str, changes: bool) -> None:
    assert Event(action=action).changes is changes
