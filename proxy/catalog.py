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
}

PROVIDERS: Mapping[str, str] = {
    "etcd": "proxy.registry.etcd:EtcdProvider",
    "static": "proxy.registry.static:StaticProvider",
}

CHECKS: Mapping[str, str] = {
    "http": "proxy.health.http:HttpCheck",
    "tcp": "proxy.health.tcp:TcpCheck",
    "exec": "proxy.health.exec:ExecCheck",
}


def load(table: Mapping[str, str], name: str) -> Any:
    """The class behind a name. KeyError for a name that is not in the table."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
