"""Every plug-in of the product, one line each: name in `proxy.yaml` → `module:Class`.

Strings, not imports: a worker must not load the registry client, and a provider that nobody
configured costs nothing. Contract tests run over these tables, so a new line is tested
without new test code.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

BALANCERS: Mapping[str, str] = {
    "round_robin": "balancers.round_robin:RoundRobin",
    "weighted_round_robin": "balancers.weighted_round_robin:WeightedRoundRobin",
    "random": "balancers.random_choice:RandomChoice",
    "consistent_hash": "balancers.consistent_hash:ConsistentHash",
    "least_connections": "balancers.least_connections:LeastConnections",
    "p2c": "balancers.p2c:PowerOfTwoChoices",
    "peak_ewma": "balancers.peak_ewma:PeakEwma",
}

PROVIDERS: Mapping[str, str] = {
    "consul": "proxy.registry.consul.provider:ConsulProvider",
    "dns": "proxy.registry.dns.provider:DnsProvider",
    "docker": "proxy.registry.docker.provider:DockerProvider",
    "etcd": "proxy.registry.etcd.provider:EtcdProvider",
    "eureka": "proxy.registry.eureka.provider:EurekaProvider",
    "file": "proxy.registry.file.provider:FileProvider",
    "http": "proxy.registry.http.provider:HttpProvider",
    "kubernetes": "proxy.registry.kubernetes.provider:KubernetesProvider",
    "nacos": "proxy.registry.nacos.provider:NacosProvider",
    "static": "proxy.registry.static.provider:StaticProvider",
    "zookeeper": "proxy.registry.zookeeper.provider:ZooKeeperProvider",
}

REGISTRATION_BACKENDS: Mapping[str, str] = {
    "consul": "proxy.register.consul_backend:ConsulBackend",
    "etcd": "proxy.register.etcd_backend:EtcdBackend",
    "zookeeper": "proxy.register.zookeeper_backend:ZooKeeperBackend",
}
"""The registries in which services can be registered."""

CHECKS: Mapping[str, str] = {
    "http": "proxy.health.http:HttpCheck",
    "tcp": "proxy.health.tcp:TcpCheck",
    "exec": "proxy.health.exec:ExecCheck",
    "grpc": "proxy.health.grpc:GrpcCheck",
}

MECHANISMS: Mapping[str, str] = {
    "retry": "proxy.engine.resilience.retry:RetryBudget",
    "ejection": "proxy.control.ejections:Ejections",
    "health_check": "proxy.health.schedule:Schedule",
    "panic_threshold": "proxy.control.judging:panics",
    "slow_start": "proxy.control.slow_start:SlowStart",
    "circuit_breaker": "proxy.engine.resilience.breaker:Breaker",
    "max_inflight": "proxy.engine.resilience.queue:Queue",
    "rate_limit": "proxy.engine.resilience.limits:BucketTable",
    "drain": "proxy.control.pools:PoolRegistry",
    "registry.mass_loss_guard": "proxy.registry.decorators.mass_loss:MassLossPolicy",
    "registry.backups": "proxy.registry.decorators.failover:FailoverPolicy",
}
"""Key in the configuration, of a service unless it says otherwise → where it is decided, without
I/O and without a clock. Not plug-ins: nothing is loaded by this table, but a test sees to it that
each of them is pure, is described, and has unit and property tests."""


def registry_options(name: str) -> Any:
    """The keys that a type of registry has in `registry:`, a subclass of `RegistryOptions`: the
    `Options` in the module `options` beside its provider. KeyError for a name that is not in
    `PROVIDERS`."""
    package = PROVIDERS[name].partition(":")[0].rpartition(".")[0]
    return import_module(f"{package}.options").Options


def load(table: Mapping[str, str], name: str) -> Any:
    """The class behind a name. KeyError for a name that is not in the table."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
