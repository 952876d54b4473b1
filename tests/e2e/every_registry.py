"""All registries that are drilled, and each as a user configures it."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.catalog import registry_options
from proxy.settings.registry import RegistryOptions
from tests.e2e.drilled import SERVICE, Drilled
from tests.e2e.drilled_beats import (
    DrilledEureka,
    DrilledNacos,
    DrilledNacosPush,
    DrilledRealEureka,
    DrilledRealNacos,
)
from tests.e2e.drilled_consul import (
    DrilledConsul,
    DrilledConsulKv,
    DrilledScriptedConsul,
    DrilledScriptedConsulKv,
)
from tests.e2e.drilled_lists import (
    DrilledDns,
    DrilledDocker,
    DrilledFile,
    DrilledKubernetes,
    DrilledList,
)
from tests.e2e.drilled_stores import (
    DrilledEtcd,
    DrilledRelay,
    DrilledScriptedEtcd,
    DrilledZooKeeper,
)
from tests.support.scripted_names import A

DRILLED: dict[str, type[Drilled]] = {
    "etcd": DrilledEtcd,
    "etcd-scripted": DrilledScriptedEtcd,
    "consul": DrilledConsul,
    "consul-scripted": DrilledScriptedConsul,
    "consul-kv": DrilledConsulKv,
    "consul-kv-scripted": DrilledScriptedConsulKv,
    "eureka": DrilledRealEureka,
    "eureka-scripted": DrilledEureka,
    "http": DrilledList,
    "dns": DrilledDns,
    "docker": DrilledDocker,
    "file": DrilledFile,
    "kubernetes": DrilledKubernetes,
    "relay": DrilledRelay,
    "zookeeper": DrilledZooKeeper,
    "nacos": DrilledRealNacos,
    "nacos-http": DrilledNacos,
    "nacos-push": DrilledNacosPush,
}


class InNames(DrilledDns):
    """Thousands of names. As long as all instances have the same port they are the addresses of a
    name, of which four thousand are all that fits into an answer, else SRV records with them."""

    def options(self) -> RegistryOptions:
        ports = {port for _, port in self.known.values()}
        if len(ports) != 1:
            return super().options()
        target = f"{self.name}:{ports.pop()}"
        options: RegistryOptions = registry_options(self.type)(
            servers=(self.server.address,), services={SERVICE: target}
        )
        return options

    def write(self, shown: int | None = None) -> None:
        super().write(shown)
        self.server.extra = [(id_, A, address) for id_, (address, _) in self.known.items()]


EVERY: dict[str, type[Drilled]] = {**DRILLED, "dns": InNames}


def keys_of(registry: Drilled, **more: Any) -> dict[str, Any]:
    """The section `registry` that a user writes for it."""
    options = msgspec.to_builtins(registry.options())
    told = ("endpoints", "token", "prefix", "namespace", "path", "servers", "services")
    given = {key: options[key] for key in told if options.get(key)}
    return {"type": registry.type, **given, **(more if registry.asked else {})}
