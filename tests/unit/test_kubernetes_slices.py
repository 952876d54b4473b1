"""EndpointSlices → records: conditions, ports, addresses, and answers that are none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.membership import Instance
from proxy.registry.base import RegistryError
from proxy.registry.kubernetes.options import Options
from proxy.registry.kubernetes.slices import Frame, Meta, Page, Slice, decode, records, version
from proxy.registry.records import Unreadable, read
from proxy.settings.registry import RegistryTls
from tests.support.scripted_kubernetes import endpoint, slice_of

OPTIONS = Options(endpoints=("https://a",))


def instances(document: Any, options: Options = OPTIONS) -> list[Instance]:
    made = []
    for key, value in records(decode(json.dumps(document).encode(), Slice), options):
        service, _, id_ = key.decode().split("/")
        instance, odd = read(service, id_, value)
        assert odd == ""
        made.append(instance)
    return made


def one(**changes: Any) -> Instance:
    [instance] = instances(slice_of("web", "web-x", endpoint("web-1", **changes)))
    return instance


@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        ({}, "healthy"),
        (None, "healthy"),
        ({"ready": None}, "healthy"),
        ({"ready": True, "serving": True, "terminating": False}, "healthy"),
        ({"ready": False, "serving": False}, "not ready"),
        ({"ready": False, "serving": True, "terminating": True}, "draining"),
        ({"ready": False, "serving": False, "terminating": True}, "terminating"),
        ({"ready": False, "terminating": True}, "terminating"),
        ({"ready": True, "terminating": True}, "draining"),
    ],
)
def test_conditions(conditions: dict[str, Any] | None, health: str) -> None:
    assert one(conditions=conditions).health == health


def test_an_instance_is_called_by_its_pod() -> None:
    instance = one(zone="a", nodeName="n1")
    assert (instance.id, instance.address, instance.port) == ("web-1", "10.0.0.1", 8080)
    assert instance.metadata == {"zone": "a", "node": "n1"}
    assert one(targetRef=None).id == "10.0.0.1"


HTTP = {"name": "http", "port": 8080, "protocol": "TCP"}
METRICS = {"name": "metrics", "port": 9090}


@pytest.mark.parametrize(
    ("ports", "port", "metadata"),
    [
        ([METRICS, HTTP], 8080, {}),
        ([METRICS], 9090, {}),
        ([{"port": 80}], 80, {}),
        ([{"name": "dns", "port": 53, "protocol": "UDP"}, METRICS], 9090, {}),
        ([HTTP | {"appProtocol": "kubernetes.io/h2c"}], 8080, {"protocol": "h2c"}),
        ([HTTP | {"appProtocol": "https"}], 8080, {"scheme": "https"}),
        ([HTTP | {"appProtocol": "unheard-of"}], 8080, {}),
    ],
)
def test_ports(ports: list[Any], port: int, metadata: dict[str, str]) -> None:
    [instance] = instances(slice_of("web", "x", endpoint("a"), ports=ports))
    assert (instance.port, instance.metadata) == (port, metadata)


@pytest.mark.parametrize("ports", [None, [], [METRICS, {"name": "admin", "port": 1}]])
def test_a_port_that_is_not_there_is_named(ports: Any) -> None:
    with pytest.raises(Unreadable, match=r"port .http, of (none|metrics, admin),"):
        instances(slice_of("web", "x", endpoint("a"), ports=ports))


@pytest.mark.parametrize(
    "changes",
    [
        {"addressType": "IPv6"},
        {"metadata": {"name": "x"}},
        {"metadata": {"name": "x", "labels": None}},
        {"endpoints": None},
        {"endpoints": [{"addresses": []}]},
    ],
)
def test_slices_that_make_no_instance(changes: dict[str, Any]) -> None:
    assert instances(slice_of("web", "x", endpoint("a")) | changes) == []


def test_addresses_of_another_kind_are_taken_where_that_is_asked_for() -> None:
    document = slice_of("web", "x", endpoint("a", "fd00::1"), addressType="IPv6")
    options = msgspec.structs.replace(OPTIONS, address_type="IPv6")
    assert [instance.address for instance in instances(document, options)] == ["fd00::1"]


@pytest.mark.parametrize(("text", "number"), [("17", 17), ("", 0), ("x1", 0), ("-1", 0)])
def test_resource_versions(text: str, number: int) -> None:
    assert version(Meta(resource_version=text)) == number


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"items": 1}', b"<html>"])
def test_answers_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(RegistryError, match="not an answer of Kubernetes"):
        decode(body, Page)
    with pytest.raises(RegistryError, match="not an answer of Kubernetes"):
        decode(body, Frame)


def test_a_proxy_in_a_cluster_uses_what_pods_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    options = Options().in_place()
    assert options.addresses == ("https://[fd00::1]:6443",)
    assert options.token_file is not None
    assert options.token_file.endswith("/serviceaccount/token")
    assert options.tls is not None
    assert str(options.tls.ca).endswith("/serviceaccount/ca.crt")
    own = Options(token="mine", tls=RegistryTls(ca="own.pem")).in_place()
    assert (own.token_file, own.tls) == (None, RegistryTls(ca="own.pem"))
    assert OPTIONS.in_place() is OPTIONS
