"""Registries as one URL, as the side-car's command line has them."""

from __future__ import annotations

import pytest

from proxy.register.backend import registry_at
from proxy.registry.consul.options import Options as Consul
from proxy.registry.consul_kv.options import Options as ConsulKv
from proxy.registry.etcd.options import Options as Etcd
from proxy.registry.eureka.options import Options as Eureka
from proxy.registry.nacos.options import Options as Nacos
from proxy.registry.zookeeper.options import Options as ZooKeeper
from proxy.settings.registry import RegistryOptions


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("etcd://a:2379", Etcd(endpoints=("http://a:2379",))),
        ("etcd://a:1,b:2/own/", Etcd(endpoints=("http://a:1", "http://b:2"), prefix="/own/")),
        ("consul://127.0.0.1:8500", Consul(endpoints=("http://127.0.0.1:8500",))),
        ("consul://[::1]:8500/", Consul(endpoints=("http://[::1]:8500",))),
        ("consul-kv://a:1", ConsulKv(endpoints=("http://a:1",))),
        ("consul-kv://a:1/own/", ConsulKv(endpoints=("http://a:1",), prefix="own/")),
        ("eureka://a:1/own", Eureka(endpoints=("http://a:1/own",))),
        ("eureka://a:1,b:2", Eureka(endpoints=("http://a:1/eureka", "http://b:2/eureka"))),
        ("nacos://a:1", Nacos(endpoints=("http://a:1",))),
        ("zookeeper://a,b:1", ZooKeeper(endpoints=("a:2181", "b:1"))),
        ("zookeeper://a/own", ZooKeeper(endpoints=("a:2181",), prefix="/own")),
    ],
)
def test_urls(url: str, options: RegistryOptions) -> None:
    assert registry_at(url) == options


def test_a_url_under_tls() -> None:
    assert registry_at("consul://a:1", secure=True).addresses == ("https://a:1",)
    assert registry_at("zookeeper://a:1", secure=True).addresses == ("a:1",)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://a:1", "allowed: consul://host:port, consul-kv://host:port, etcd:"),
        ("a:1", "no registry"),
        ("static://a", "no registry"),
        ("consul://", "endpoints: .*has no host"),
        ("consul://a:x", "endpoints: .*is not a URL"),
        ("consul://u:secret@a", "endpoints: the value holds a user name"),
        ("consul://a/own", "prefix has no meaning for type consul"),
        ("zookeeper://a/./b", "prefix: .*ZooKeeper refuses"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registry_at(url)
