"""Records as registrars in the world write them: what each is taken for, and why others are
refused. Shapes and keys are those counted in public repositories."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.registry.formats.layout import FORMATS, is_record, literal, read_any, service_at
from proxy.registry.formats.writing import WRITTEN, written
from proxy.registry.records import Unreadable

P = b"/services/"
KRATOS = (
    b'{"id":"7d","name":"users","version":"v1.2","metadata":{"zone":"b"},"endpoints":'
    b'["grpc://10.0.0.5:9000?isSecure=false","http://10.0.0.5:8000?isSecure=true"]}'
)
MICRO = (
    b'{"name":"users","version":"latest","metadata":null,"endpoints":[{"name":"Users.Get"}],"nodes":'
    b'[{"id":"users-9","address":"10.0.0.4:1"},{"id":"users-1","address":"10.0.0.5:8080",'
    b'"metadata":{"protocol":"grpc","broker":"http"}}]}'
)
REGISTRATOR = (
    b'{"Name":"users","IP":"10.0.0.5","PublicPort":8080,"PrivatePort":80,"ContainerID":"3f",'
    b'"Tags":["a"],"Attrs":{}}'
)
"""As its adapter for ZooKeeper writes it."""
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
MEMBER = {"serviceEndpoint": {"host": "10.0.0.5", "port": 8080}, "additionalEndpoints": {}}

READ: list[tuple[bytes, bytes, bytes, str, tuple[Any, ...]]] = [
    # prefix, key, value; what it is taken for; service, id, address, port
    (P, b"users/1", b'{"address":"10.0.0.5","port":8080}', "fairlead", ("users", "1")),
    (P, b"users/1", b"10.0.0.5:8080", "text", ("users", "1")),
    (P, b"users/1", b' "10.0.0.5:8080"\n', "text", ("users", "1")),
    (P, b"users/1", b"http://10.0.0.5:8080/", "text", ("users", "1")),
    (P, b"users", b"10.0.0.5:8080", "text", ("users", "10.0.0.5:8080")),
    (P, b"users/servers/1", b"10.0.0.5:8080", "text", ("users", "servers:1")),
    (P, b"users/1/listen", b"10.0.0.5:8080", "text", ("users", "1:listen")),
    (P, b"users/10.0.0.5", b"8080", "text", ("users", "10.0.0.5")),
    (P, b"users/10.0.0.5:8080", b"", "text", ("users", "10.0.0.5:8080")),
    (P, b"users/10.0.0.5:8080:3", b"", "text", ("users", "10.0.0.5:8080:3")),
    (P, b"users/node:users:80", b"10.0.0.5:8080", "text", ("users", "node:users:80")),
    (b"", b"users.rpc/7587869", b"10.0.0.5:8080", "text", ("users.rpc", "7587869")),
    (P, b"users/1", b'{"host":"10.0.0.5","port":8080,"name":"a"}', "nerve", ("users", "1")),
    (P, b"users/a/1", b'{"host":"10.0.0.5","port":8080}', "nerve", ("users", "a:1")),
    (P, b"users/1", b'{"ip":"10.0.0.5","port":"8080"}', "nerve", ("users", "1")),
    (P, b"users/1", b'{"Host":"10.0.0.5","Port":8080}', "nerve", ("users", "1")),
    (P, b"users/1", b'{"addr":"10.0.0.5:8080"}', "nerve", ("users", "1")),
    (P, b"users/1", b'{"address":"10.0.0.5:8080"}', "nerve", ("users", "1")),
    (P, b"users/1", b'{"endpoint":"http://10.0.0.5:8080"}', "nerve", ("users", "1")),
    (P, b"users", b'{"host":"10.0.0.5","port":8080}', "nerve", ("users", "10.0.0.5:8080")),
    (b"", b"users/1", b'{"Op":0,"Addr":"10.0.0.5:8080","Metadata":null}', "grpc", ("users", "1")),
    (b"", b"a/users/1", b'{"Op":0,"Addr":"10.0.0.5:8080"}', "grpc", ("a.users", "1")),
    (b"a/users/", b"1", b'{"Op":0,"Addr":"10.0.0.5:8080"}', "grpc", ("users", "1")),
    (b"/micro/registry/", b"users/users-1", MICRO, "go-micro", ("users", "users-1")),
    (P, b"users/10.0.0.5:8080", REGISTRATOR, "nerve", ("users", "10.0.0.5:8080")),
    (P, b"users/71b4", json.dumps(CURATOR).encode(), "curator", ("users", "71b4")),
    (P, b"users/member_1", json.dumps(MEMBER).encode(), "serverset", ("users", "10.0.0.5:8080")),
    (b"/microservices/", b"users/7d", KRATOS.replace(b"8000", b"8080"), "kratos", ("users", "7d")),
]


@pytest.mark.parametrize(("prefix", "key", "value", "shape", "name"), READ)
def test_each_shape_is_told_by_its_value(
    prefix: bytes, key: bytes, value: bytes, shape: str, name: tuple[str, str]
) -> None:
    instance, _ = read_any(prefix + key, value, prefix=prefix, form="auto")
    assert (instance.service, instance.id, instance.origin) == (*name, shape)
    assert (instance.address, instance.port) == ("10.0.0.5", 8080)
    assert service_at(prefix + key, prefix=prefix, form=shape) in (name[0], "1")


def metadata(value: bytes) -> dict[str, str]:
    return read_any(P + b"users/users-1", value, prefix=P, form="auto")[0].metadata


def test_labels_and_schemes_become_metadata() -> None:
    assert metadata(b"https://10.0.0.5") == {"scheme": "https"}
    assert metadata(KRATOS) == {"zone": "b", "scheme": "https"}
    assert metadata(MICRO) == {"protocol": "grpc", "broker": "http"}
    assert metadata(b'{"Addr":"h:1","Metadata":{"weight":2}}') == {
        "protocol": "grpc",
        "weight": "2",
    }
    assert metadata(b'{"host":"h","port":1,"weight":3}') == {"weight": "3"}
    assert metadata(b"grpcs://h:1") == {"scheme": "https", "protocol": "grpc"}


def test_the_version_and_the_weight_of_a_record_are_read() -> None:
    instance, odd = read_any(P + b"users/7d", KRATOS, prefix=P, form="kratos")
    assert (instance.version, instance.port) == ("v1.2", 8000)
    assert odd == "of several endpoints 'http://10.0.0.5:8000?isSecure=true' is used"
    weighted, _ = read_any(P + b"users/h:80:5", b"", prefix=P, form="text")
    assert (weighted.port, weighted.weight) == (80, 5)
    _, odd = read_any(P + b"users/1", b'{"Addr":"h:1","Metadata":"x"}', prefix=P, form="grpc")
    assert odd == "Metadata is no object: ignored"


def test_go_zero_keys_are_a_service_and_a_lease() -> None:
    read = [
        read_any(key, b"h:1", prefix=prefix, form="go-zero")[0]
        for prefix, key in ((b"", b"users.rpc/75"), (b"users.rpc/", b"users.rpc/75"))
    ]
    assert [(one.service, one.id) for one in read] == [("users.rpc", "75")] * 2


@pytest.mark.parametrize(
    ("key", "value", "form", "reason"),
    [
        (b"users/1", b"hello", "auto", "'hello' is not host:port, and no URL"),
        (b"users/1", b"true", "auto", "'true' is not host:port, and no URL"),
        (b"users/timeout", b"30", "auto", "'30' is not host:port, and no URL"),
        (b"users/1", b"10.0.0.5:0", "auto", 'port "0" is not a whole number'),
        (b"users/1", b"redis://h:1", "auto", "'redis://h:1' has the scheme 'redis'; read are"),
        (b"users/1", b"grpc://h", "auto", "'grpc://h' is a URL without a port"),
        (b"users/1", b"http://:80", "auto", "'http://:80' is a URL without a host"),
        (b"users/1", b"http://[::1:80", "auto", "'http://[::1:80' is not a URL"),
        (b"users/1", b"{", "auto", "the value is not JSON"),
        (b"users/1", b"[1]", "auto", "'[1]' is not host:port, and no URL"),
        (b"users/1", b"\xff", "auto", "the value is not UTF-8 (byte 0)"),
        (
            b"users/1",
            b'{"name":"x"}',
            "auto",
            "no address and no port in the value, which has: name",
        ),
        (b"users/1", b'{"host":"h"}', "auto", "no port in the value, which has: host"),
        (b"users/1", b'{"nodes":[]}', "auto", "nodes in the value holds no object"),
        (b"users/1", b'{"Addr":7}', "auto", "no Addr in the value, which has: Addr"),
        (b"a/b/c", b'{"address":"h","port":1}', "auto", "key is not of the form /services/<serv"),
        (b"users/", b"h:1", "auto", "key is not of the form /services/<service>/<id>"),
        (b"a\n/b", b"h:1", "auto", "key holds control characters"),
        (b"\xff/b", b"h:1", "auto", "key is not UTF-8"),
        (b"x" * 256, b"h:1", "auto", "key has a service or an id of more than 255 bytes"),
        (b"users/1", b"h:1", "grpc", "the value is 'h:1', and the format grpc has an object"),
        (b"users/1", b'{"host":"h","port":1}', "fairlead", "no address in the value, which has"),
        (b"users/1", b'{"host":"h","port":1}', "kratos", "no list endpoints in the value, which"),
        (b"users/1", b'{"host":"h","port":1}', "text", "the value is an object, and the"),
        (b"users/1", b"h:1", "curator", "the value is 'h:1', and the format curator has an obj"),
        (b"users/1", b'{"port":1}', "curator", "no address in the value, which has: port"),
        (b"users/1", b'{"address":"h"}', "curator", "no port in the value, which has: address"),
        (b"users/1", b'{"serviceEndpoint":{}}', "auto", "no host in the value, which has: nothing"),
        (b"users/1", b"{}", "serverset", "no serviceEndpoint in the value, which has: nothing"),
        (b"users", b'{"address":"h","port":1}', "fairlead", "key is not of the form"),
    ],
)
def test_a_refusal_says_why(key: bytes, value: bytes, form: str, reason: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read_any(P + key, value, prefix=P, form=form)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(("prefix", "key", "value", "shape", "name"), READ)
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_reads_a_record_of_another_one_or_refuses_it(
    form: str, prefix: bytes, key: bytes, value: bytes, shape: str, name: object
) -> None:
    try:
        instance, _ = read_any(prefix + key, value, prefix=prefix, form=form)
    except Unreadable:
        assert form not in (shape, "auto")
    else:
        assert instance.port in (8080, 9000)


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
    value = json.dumps(CURATOR | changes).encode()
    instance, odd = read_any(P + b"users/71b4", value, prefix=P, form="auto")
    assert (instance.port, instance.health, instance.metadata, odd) == (port, health, metadata, "")


@pytest.mark.parametrize(
    ("changes", "health", "metadata"),
    [
        ({}, "healthy", {}),
        ({"status": "ALIVE", "shard": 1}, "healthy", {"shard": "1"}),
        ({"status": "STOPPING"}, "STOPPING", {}),
        ({"shard": "x"}, "healthy", {}),
    ],
)
def test_members_of_a_server_set(
    changes: dict[str, Any], health: str, metadata: dict[str, str]
) -> None:
    value = json.dumps(MEMBER | changes).encode()
    instance, odd = read_any(P + b"users/member_0000000012", value, prefix=P, form="auto")
    assert (instance.health, instance.metadata, odd) == (health, metadata, "")


@pytest.mark.parametrize(
    ("key", "value", "is_one"),
    [
        (b"/services/users", b"", False),
        (b"/services/users", b" \n", False),
        (b"/services/users/10.0.0.5:8080", b"", True),
        (b"/services/a:b/users", b"", False),
        (b"/services/users/1", b"x", True),
    ],
)
def test_a_place_without_a_value_is_a_record_if_its_name_is_an_address(
    key: bytes, value: bytes, is_one: bool
) -> None:
    assert is_record(key, value) is is_one


@pytest.mark.parametrize(
    ("written", "meant"),
    [("/services/", "/services/"), ("services", "services/"), ("", ""), ("svc-", "svc-")],
)
def test_a_prefix_is_taken_as_it_is_written_but_for_a_last_slash(written: str, meant: str) -> None:
    assert literal(written) == meant


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("address", ["10.0.0.5", "fd00::5", "[fd00::5]", "web.internal"])
def test_a_record_that_is_written_in_a_format_is_read_in_it(form: str, address: str) -> None:
    record = {"id": "1", "name": "users", "version": "1.2", "address": address, "port": 8080}
    labels = {"weight": "2", "scheme": "https"}
    value = written(form, json.dumps({**record, "metadata": labels}).encode())
    assert value is not None
    for read_as in (form, "auto"):
        instance, odd = read_any(P + b"users/1", value, prefix=P, form=read_as)
        assert (instance.service, instance.id, odd) == ("users", "1", "")
        assert (instance.address, instance.port) == (address.strip("[]"), 8080)
        if not value.startswith((b"1", b"[", b"w", b"f")):
            assert (instance.weight, instance.metadata["scheme"]) == (2, "https")


def test_a_protocol_is_the_scheme_of_kratos() -> None:
    record = {"address": "h", "port": 1, "metadata": {"protocol": "grpc"}}
    value = written("kratos", json.dumps(record).encode())
    assert value is not None
    assert json.loads(value)["endpoints"] == ["grpc://h:1?isSecure=false"]


@pytest.mark.parametrize("form", WRITTEN)
def test_an_instance_that_is_not_healthy_is_not_written_where_there_is_no_word_for_it(
    form: str,
) -> None:
    record = {"address": "h", "port": 1, "health": {"status": "draining"}}
    assert written(form, json.dumps(record).encode()) is None
