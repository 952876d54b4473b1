"""Records as registrars in the world write them: what each is taken for, and why others are
refused. Shapes and keys are those counted in public repositories."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from proxy.membership import Instance
from proxy.registry.formats.layout import FORMATS, is_record, literal, read_any, service_at
from proxy.registry.formats.writing import WRITTEN, id_in, key_end, written
from proxy.registry.records import Unreadable

P = b"/services/"


def read_one(key: bytes, value: bytes, *, prefix: bytes, form: str) -> tuple[Instance, str]:
    """The only instance of a record."""
    [instance], odd = read_any(key, value, prefix=prefix, form=form)
    return instance, odd


KRATOS = (
    b'{"id":"7d","name":"users","version":"v1.2","metadata":{"zone":"b"},"endpoints":'
    b'["grpc://10.0.0.5:9000?isSecure=false","http://10.0.0.5:8000?isSecure=true"]}'
)
MICRO = (
    b'{"name":"users","version":"latest","metadata":null,"endpoints":[{"name":"Users.Get"}],"nodes":'
    b'[{"id":"users-1","address":"10.0.0.5:8080","metadata":{"protocol":"grpc","broker":"http"}}]}'
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
STATUS = "instance_status"
"""Where Spring Cloud says it."""
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
    (P, b"users/1", b'{"host":"","ip":"10.0.0.5","port":8080}', "nerve", ("users", "1")),
    (P, b"users/1", b'{"address":"10.0.0.5:8080","port":null}', "nerve", ("users", "1")),
    (P, b"users/1", rb'"http:\/\/10.0.0.5:8080"', "text", ("users", "1")),
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
    instance, _ = read_one(prefix + key, value, prefix=prefix, form="auto")
    assert (instance.service, instance.id, instance.origin) == (*name, shape)
    assert (instance.address, instance.port) == ("10.0.0.5", 8080)
    assert service_at(prefix + key, prefix=prefix, form=shape) in (name[0], "1")


def metadata(value: bytes) -> dict[str, str]:
    return read_one(P + b"users/users-1", value, prefix=P, form="auto")[0].metadata


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
    instance, odd = read_one(P + b"users/7d", KRATOS, prefix=P, form="kratos")
    assert (instance.version, instance.port) == ("v1.2", 8000)
    assert odd == "of several endpoints 'http://10.0.0.5:8000?isSecure=true' is used"
    for id_, address in (("h:80:5", "h"), ("[fd00::5]:80:5", "fd00::5")):
        weighted, _ = read_one(P + f"users/{id_}".encode(), b"", prefix=P, form="text")
        assert (weighted.address, weighted.port, weighted.weight) == (address, 80, 5)
    beside, _ = read_one(P + b"users/[fd00::5]", b"80", prefix=P, form="text")
    assert (beside.address, beside.port) == ("fd00::5", 80)
    _, odd = read_one(P + b"users/1", b'{"Addr":"h:1","Metadata":"x"}', prefix=P, form="grpc")
    assert odd == "Metadata is no object: ignored"


@pytest.mark.parametrize(
    ("endpoints", "used"),
    [
        (["grpc://h:1", "HTTPS://h:2"], "HTTPS://h:2"),
        (["httpx://h:1", "http://h:2"], "http://h:2"),
        (["ws://h:1", "grpc://h:2"], "grpc://h:2"),
        (["tcp://h:2", "grpc://h:3"], "tcp://h:2"),
    ],
)
def test_of_endpoints_of_kratos_one_of_http_is_used_or_one_that_is_read(
    endpoints: list[str], used: str
) -> None:
    value = json.dumps({"endpoints": endpoints}).encode()
    instance, odd = read_one(P + b"users/1", value, prefix=P, form="auto")
    assert instance.port == 2
    assert odd == f"of several endpoints {used!r} is used"


@pytest.mark.parametrize(
    ("protocol", "transport", "stated"),
    [
        ("mucp", "http", {}),
        ("http", "", {"protocol": "http"}),
        ("grpc", "grpc", {"protocol": "grpc"}),
    ],
)
def test_servers_of_go_micro_that_speak_http_are_read(
    protocol: str, transport: str, stated: dict[str, str]
) -> None:
    said = {"protocol": protocol, "transport": transport}
    node = {"id": "a", "address": "h:1", "metadata": said}
    value = json.dumps({"name": "users", "nodes": [node]}).encode()
    instance, odd = read_one(P + b"users/a", value, prefix=P, form="auto")
    assert (instance.metadata, odd) == ({"transport": transport} | stated, "")


def test_a_server_of_go_micro_that_does_not_speak_http_is_refused() -> None:
    value = (
        b'{"nodes":[{"id":"a","address":"h:1","metadata":{"protocol":"mucp","transport":"nats"}}]}'
    )
    with pytest.raises(Unreadable, match=r'nodes\[0\]: metadata.protocol "mucp" is none of'):
        read_one(P + b"users/a", value, prefix=P, form="auto")


NODE = '{"id":"%s","address":"10.0.0.%d:80"}'


@pytest.mark.parametrize(
    ("nodes", "ids", "said"),
    [
        ([NODE % ("a", 1)], ["a"], ""),
        ([NODE % ("a", 1), NODE % ("b", 2)], ["a", "b"], ""),
        # The key's last part is none of the ids, unless a node has it.
        ([NODE % ("1", 1), NODE % ("b", 2)], ["1", "b"], ""),
        ([NODE % ("a/x", 1)], ["a-x"], ""),
        (['{"address":"10.0.0.1:80"}', '{"id":7,"address":"h:1"}'], ["10.0.0.1:80", "h:1"], ""),
        (
            ['{"id":"a","address":"h","port":1,"metadata":{"weight":"x"}}', NODE % ("b", 2)],
            ["a", "b"],
            'nodes[0]: metadata.weight "x" counts as 1',
        ),
        ([], [], "it holds no instance"),
    ],
)
def test_each_node_of_a_record_is_an_instance(nodes: list[str], ids: list[str], said: str) -> None:
    value = f'{{"name":"users","version":"2","nodes":[{",".join(nodes)}]}}'.encode()
    for form in ("auto", "go-micro"):
        instances, odd = read_any(P + b"users/1", value, prefix=P, form=form)
        assert [one.id for one in instances] == ids
        assert {(one.service, one.version, one.origin) for one in instances} <= {
            ("users", "2", "go-micro")
        }
        assert odd == said


@pytest.mark.parametrize(
    ("nodes", "readable", "unread", "reason"),
    [
        ([NODE % ("a", 1), '{"id":"b"}'], ["a"], {"b"}, "nodes[1]: no address in the value"),
        ([NODE % ("a", 1), NODE % ("a", 2)], ["a"], {"a"}, "nodes[1]: the id 'a' is another one's"),
        (["7", NODE % ("a", 1)], ["a"], None, "nodes[0]: the value is '7', and the format"),
        (
            ["7"] * 9,
            [],
            None,
            "nodes[0]: the value is '7', and the format go-micro has an object; n",
        ),
    ],
)
def test_a_node_that_cannot_be_read_harms_no_other(
    nodes: list[str], readable: list[str], unread: set[str] | None, reason: str
) -> None:
    value = f'{{"nodes":[{",".join(nodes)}]}}'.encode()
    with pytest.raises(Unreadable) as refused:
        read_any(P + b"users/1", value, prefix=P, form="auto")
    assert [one.id for one in refused.value.readable] == readable
    assert refused.value.unread == unread
    assert str(refused.value).startswith(reason)
    assert len(nodes) < 3 or str(refused.value).endswith("; and 7 more like these")


def test_go_zero_keys_are_a_service_and_a_lease() -> None:
    read = [
        read_one(key, b"h:1", prefix=prefix, form="go-zero")[0]
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
        (b"users/1", b"http://h:0", "auto", "'http://h:0' is a URL without a port"),
        (b"users/1", b"http://[::1:80", "auto", "'http://[::1:80' is not a URL"),
        (b"users/1", b"{", "auto", "the value is not JSON"),
        (b"users/1", b"[1]", "auto", "'[1]' is not host:port, and no URL"),
        (b"users/1", b"\xff", "auto", "the value is not UTF-8 (byte 0)"),
        (b"users/1", b"\x1f\x8b\x08\x00", "auto", "the value is compressed with gzip"),
        (b"users/1", b" ", "auto", "the value is empty, and the key's end '1' is not host:port"),
        (
            b"users/1",
            b'{"name":"x"}',
            "auto",
            "no address and no port in the value, which has: name",
        ),
        (b"users/1", b'{"host":"h"}', "auto", "no port in the value, which has: host"),
        (b"users/1", b'{"nodes":{}}', "go-micro", "no list nodes in the value, which has: nodes"),
        (b"users/1", b'{"nodes":["h:1"]}', "auto", "nodes[0]: the value is 'h:1', and the format"),
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
        read_one(P + key, value, prefix=P, form=form)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(("prefix", "key", "value", "shape", "name"), READ)
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_reads_a_record_of_another_one_or_refuses_it(
    form: str, prefix: bytes, key: bytes, value: bytes, shape: str, name: object
) -> None:
    try:
        instance, _ = read_one(prefix + key, value, prefix=prefix, form=form)
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
        *(
            ({"payload": {"metadata": {"instance_status": word}}}, 8080, health, {STATUS: word})
            for word, health in (("UP", "healthy"), ("OUT_OF_SERVICE", "draining"))
        ),
        ({"payload": {"metadata": []}}, 8080, "healthy", {}),
    ],
)
def test_instances_of_curator(
    changes: dict[str, Any], port: int, health: str, metadata: dict[str, str]
) -> None:
    value = json.dumps(CURATOR | changes).encode()
    instance, odd = read_one(P + b"users/71b4", value, prefix=P, form="auto")
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
    instance, odd = read_one(P + b"users/member_0000000012", value, prefix=P, form="auto")
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


ALL_WRITTEN = [(registry, form) for registry, forms in WRITTEN.items() for form in forms]


@pytest.mark.parametrize(("registry", "form"), ALL_WRITTEN)
@pytest.mark.parametrize("address", ["10.0.0.5", "fd00::5", "[fd00::5]", "web.internal"])
def test_a_record_that_is_written_in_a_format_is_read_in_it(
    registry: str, form: str, address: str
) -> None:
    id_ = id_in(registry, form, "host", address, 8080)
    record = {"id": id_, "name": "users", "version": "1.2", "address": address, "port": 8080}
    labels = {"weight": "2", "scheme": "https"}
    value = written(registry, form, json.dumps({**record, "metadata": labels}).encode())
    assert value is not None
    for read_as in (form, "auto"):
        key = P + f"users/{key_end(form, id_)}".encode()
        instance, odd = read_one(key, value, prefix=P, form=read_as)
        assert (instance.service, instance.id, odd) == ("users", id_, "")
        assert (instance.address, instance.port) == (address.strip("[]"), 8080)
        if not value.startswith((b"1", b"[", b"w", b"f", b'{"Name"')):
            assert (instance.weight, instance.metadata["scheme"]) == (2, "https")


@pytest.mark.parametrize(
    ("registry", "form", "address", "id_"),
    [
        ("etcd", "", "10.0.0.5", "box-8080"),
        ("etcd", "kratos", "10.0.0.5", "box-8080"),
        ("etcd", "grpc", "10.0.0.5", "10.0.0.5:8080"),
        ("etcd", "grpc", "[fd00::5]", "[fd00::5]:8080"),
        ("etcd", "registrator", "10.0.0.5", "box:box-8080:8080"),
        ("zookeeper", "registrator", "10.0.0.5", "10.0.0.5:8080"),
        ("zookeeper", "serverset", "10.0.0.5", "10.0.0.5:8080"),
        ("etcd", "go-zero", "10.0.0.5", "4289836647399436766"),
    ],
)
def test_an_instance_has_the_id_that_registrars_of_the_format_give_it(
    registry: str, form: str, address: str, id_: str
) -> None:
    assert id_in(registry, form, "box", address, 8080) == id_


def test_an_instance_in_curators_format_has_what_its_serializer_asks_for() -> None:
    record = {"id": "a", "name": "users", "address": "h", "port": 1, "metadata": {"zone": "b"}}
    record["register_time"] = "2026-11-22T09:00:00Z"
    value = written("zookeeper", "curator", json.dumps(record).encode())
    assert value is not None
    found = json.loads(value)
    assert found["registrationTimeUTC"] == 1795338000000
    assert found["payload"]["metadata"] == {"zone": "b"}
    assert (found["serviceType"], found["enabled"], found["sslPort"]) == ("DYNAMIC", True, None)


def test_a_member_of_a_server_set_is_a_number_with_a_shard() -> None:
    record = {"address": "[fd00::5]", "port": 1, "metadata": {"shard": "3", "zone": "b"}}
    value = written("zookeeper", "serverset", json.dumps(record).encode())
    assert value is not None
    assert json.loads(value) == {
        "serviceEndpoint": {"host": "fd00::5", "port": 1},
        "additionalEndpoints": {},
        "status": "ALIVE",
        "shard": 3,
        "metadata": {"shard": "3", "zone": "b"},
    }
    ends = {key_end("serverset", id_) for id_ in ("a", "b", "10.0.0.5:8080")}
    assert len(ends) == 3
    assert all(re.fullmatch("member_[0-9]+", end) for end in ends)
    assert key_end("kratos", "a") == "a"


def test_a_protocol_is_the_scheme_of_kratos() -> None:
    record = {"address": "h", "port": 1, "metadata": {"protocol": "grpc"}}
    value = written("etcd", "kratos", json.dumps(record).encode())
    assert value is not None
    assert json.loads(value)["endpoints"] == ["grpc://h:1?isSecure=false"]


@pytest.mark.parametrize(("registry", "form"), ALL_WRITTEN)
def test_an_instance_that_is_not_healthy_is_not_written_where_there_is_no_word_for_it(
    registry: str, form: str
) -> None:
    record = {"address": "h", "port": 1, "health": {"status": "draining"}}
    assert written(registry, form, json.dumps(record).encode()) is None
