"""Every plug-in of the product, one line each: name in `proxy.yaml` → `module:Class`; and how
those of others are found.

Strings, not imports: a worker must not load the registry client, and a provider that nobody
configured costs nothing. Contract tests run over these tables, so a new line is tested
without new test code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from traceback import format_exception_only
from typing import Any

BALANCERS: Mapping[str, str] = {
    "round_robin": "balancers.round_robin:RoundRobin",
    "weighted_round_robin": "balancers.weighted_round_robin:WeightedRoundRobin",
    "random": "balancers.random_choice:RandomChoice",
    "consistent_hash": "balancers.consistent_hash:ConsistentHash",
    "maglev": "balancers.maglev:Maglev",
    "least_connections": "balancers.least_connections:LeastConnections",
    "p2c": "balancers.p2c:PowerOfTwoChoices",
    "peak_ewma": "balancers.peak_ewma:PeakEwma",
}

PROVIDERS: Mapping[str, str] = {
    "consul": "proxy.registry.consul.provider:ConsulProvider",
    "consul-kv": "proxy.registry.consul_kv.provider:ConsulKvProvider",
    "dns": "proxy.registry.dns.provider:DnsProvider",
    "docker": "proxy.registry.docker.provider:DockerProvider",
    "etcd": "proxy.registry.etcd.provider:EtcdProvider",
    "eureka": "proxy.registry.eureka.provider:EurekaProvider",
    "file": "proxy.registry.file.provider:FileProvider",
    "http": "proxy.registry.http.provider:HttpProvider",
    "kubernetes": "proxy.registry.kubernetes.provider:KubernetesProvider",
    "nacos": "proxy.registry.nacos.provider:NacosProvider",
    "relay": "proxy.registry.relay.provider:RelayProvider",
    "static": "proxy.registry.static.provider:StaticProvider",
    "zookeeper": "proxy.registry.zookeeper.provider:ZooKeeperProvider",
}

REGISTRATION_BACKENDS: Mapping[str, str] = {
    "consul": "proxy.register.consul_backend:ConsulBackend",
    "consul-kv": "proxy.register.consul_kv_backend:ConsulKvBackend",
    "etcd": "proxy.register.etcd_backend:EtcdBackend",
    "eureka": "proxy.register.eureka_backend:EurekaBackend",
    "nacos": "proxy.register.nacos_backend:NacosBackend",
    "zookeeper": "proxy.register.zookeeper_backend:ZooKeeperBackend",
}
"""The registries in which services can be registered."""

CHECKS: Mapping[str, str] = {
    "http": "proxy.health.http:HttpCheck",
    "tcp": "proxy.health.tcp:TcpCheck",
    "exec": "proxy.health.exec:ExecCheck",
    "grpc": "proxy.health.grpc:GrpcCheck",
}

FILTERS: Mapping[str, str] = {
    # In the order of docs/filters.md.
    "headers": "proxy.filters.headers:SetHeaders",
    "allow": "proxy.filters.networks:Allow",
    "deny": "proxy.filters.networks:Deny",
    "rate_limit": "proxy.filters.rate_limit:RateLimit",
    "body_limit": "proxy.filters.body_limit:BodyLimit",
    "maintenance": "proxy.filters.pages:Maintenance",
    "error_pages": "proxy.filters.pages:ErrorPages",
    "basic_auth": "proxy.filters.basic_auth:BasicAuth",
    "cors": "proxy.filters.cors:Cors",
    "forward_auth": "proxy.filters.forward_auth:ForwardAuth",
    "jwt": "proxy.filters.jwt:Jwt",
    "compress": "proxy.filters.compress:Compress",
}

MECHANISMS: Mapping[str, str] = {
    "retry": "proxy.engine.resilience.retry:RetryBudget",
    "ejection": "proxy.control.ejections:Ejections",
    "health_check": "proxy.health.schedule:Schedule",
    "panic_threshold": "proxy.control.judging:panics",
    "slow_start": "proxy.control.slow_start:SlowStart",
    "circuit_breaker": "proxy.engine.resilience.breaker:Breaker",
    "adaptive_concurrency": "proxy.engine.resilience.concurrency:Concurrency",
    "hedge": "proxy.engine.resilience.hedging:Hedging",
    "max_inflight": "proxy.engine.resilience.queue:Queue",
    "rate_limit": "proxy.engine.resilience.limits:BucketTable",
    "drain": "proxy.control.pools:PoolRegistry",
    "registry.mass_loss_guard": "proxy.registry.decorators.mass_loss:MassLossPolicy",
    "registry.backups": "proxy.registry.decorators.failover:FailoverPolicy",
}
"""Key in the configuration, of a service unless it says otherwise → where it is decided, without
I/O and without a clock. Not plug-ins: nothing is loaded by this table, but a test sees to it that
each of them is pure, is described, and has unit and property tests."""


GROUPS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "balancers": ("balancers.base:Balancer", BALANCERS),
    "checks": ("proxy.health.base:Check", CHECKS),
    "filters": ("proxy.filters.base:Filter", FILTERS),
    "registries": ("proxy.registry.base:Provider", PROVIDERS),
}
"""Group, to which others may add → the class that each plug-in extends, and the product's own."""


class PlugInError(ValueError):
    """A plug-in of somebody's own is there and cannot be used. The text continues a sentence that
    begins with its name."""


@cache
def plug_in(group: str, name: str) -> Any:
    """The class behind a name of a group: one of the product; else what stands there, if the name
    is `package.module:Class`; else the entry point of that name in the group `fairlead.GROUP`.

    KeyError for a name that nobody has, PlugInError if it does not load or is something else. A
    class that was found is the same one for the life of the process."""
    base, ours = GROUPS[group]
    if name in ours:
        return load(ours, name)
    kind = imported(name if ":" in name else installed(group)[name])
    if not (isinstance(kind, type) and issubclass(kind, _resolve(base))):
        raise PlugInError(f"does not extend {base.replace(':', '.')}")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise PlugInError(f"lacks {', '.join(missing)} of {base.replace(':', '.')}")
    return kind


def provider(options: Any) -> Any:
    """The provider of a registry with these options, which know their type. Raises as `plug_in`."""
    return plug_in("registries", options.type)(options)


def imported(name: str) -> Any:
    """The module of this name, or the class `package.module:Class`. PlugInError if it does not
    load."""
    try:
        return _resolve(name)
    except Exception as error:
        said = format_exception_only(error)[-1].strip()
        raise PlugInError(f"does not load: {said}") from error


def installed(group: str) -> Mapping[str, str]:
    """The plug-ins that packages bring by entry points: name → `module:Class`."""
    # Most proxies have no plug-ins, and it takes 15 ms to import.
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=f"fairlead.{group}")}


def registry_options(name: str) -> Any:
    """The keys that a type of registry has in `registry:`, a subclass of `RegistryOptions`: the
    `Options` in the module `options` beside its provider, or of the provider itself if that is
    somebody's own. Raises as `plug_in`."""
    if name not in PROVIDERS:
        options = getattr(plug_in("registries", name), "Options", None)
        if not isinstance(options, type):
            raise PlugInError("has no class Options, with the keys that it has in registry")
        return options
    package = PROVIDERS[name].partition(":")[0].rpartition(".")[0]
    return import_module(f"{package}.options").Options


def load(table: Mapping[str, str], name: str) -> Any:
    """The class behind a name. KeyError for a name that is not in the table."""
    return _resolve(table[name])


def _resolve(entry: str) -> Any:
    name, _, attribute = entry.partition(":")
    module = import_module(name)
    return getattr(module, attribute) if attribute else module
