"""Discovery as a library: who serves a service, and client-side balancing for aiohttp.

    async with Discovery("http://127.0.0.1:2379") as discovery:
        await discovery.wait_ready(10)
        async with DiscoverySession(discovery) as session:
            async with session.get("http://users/42") as answer:
                ...

It reads the registry with the proxy's own providers and judges instances by the proxy's own
rules, and loads nothing of the proxy's HTTP engine or configuration. docs/discovery.md is the
manual.
"""

from __future__ import annotations

from proxy.discovery.discovery import Callback, Discovery, NotReady
from proxy.discovery.session import Balancing, BalancingMiddleware, DiscoverySession, NoInstance
from proxy.membership import Instance
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.settings.registry import RegistryTls
from proxy.statuses import RegistryStatus

__all__ = [
    "Balancing",
    "BalancingMiddleware",
    "Callback",
    "Discovery",
    "DiscoverySession",
    "EtcdOptions",
    "Instance",
    "NoInstance",
    "NotReady",
    "RegistryStatus",
    "RegistryTls",
]
