"""A page of metrics as a test wants it: who is registered, what workers have counted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from proxy.control.metrics import Page
from proxy.control.pools import PoolRegistry
from proxy.control.scrape import Scrape
from proxy.control.slots import Slots
from proxy.control.statistics import Reported, Retired, Totals
from proxy.membership import Instance, Membership
from proxy.messages import NodeStats, PolicyState, ServiceStats, WorkerStats
from proxy.statuses import InvalidRecord, RegistrySource, RegistryStatus


def instance(id_: str, **fields: Any) -> Instance:
    given: dict[str, Any] = {"service": "users", "address": "10.0.0.1", "port": 80, **fields}
    return Instance(id=id_, **given)


def book(*instances: Instance) -> PoolRegistry:
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0)
    pools.apply(Membership(services={"users": instances}), 0.0)
    return pools


def report(requests: int, *ids: str, number: int = 0) -> WorkerStats:
    """A worker that served `requests`, all on each of the instances."""
    service = ServiceStats(
        requests={"GET 200": requests, "POST 502": 1},
        duration_buckets=[requests, 1, *[0] * 13, 2],
        duration_sum=0.5 * requests,
        faults={"connect_refused": 1},
        retries={"connect_refused": 2},
        limited={"rate_limit": 4},
        breaker_opened=1,
        tunnels_closed=2,
        calls={"0": 2, "14": 1},
        hedges={"won": 1},
        mirrored={"sent": 1},
        callers={"web 200": 3, "web 400": 1},
        caller_seconds={"web": 0.5},
    )
    nodes = [
        NodeStats(
            "users",
            f"{id_}@10.0.0.1:80",
            requests,
            {"ok": requests - 1, "dns_failed": 1},
            latency={16: requests},
            seconds=0.25,
        )
        for id_ in ids
    ]
    states = {"users": PolicyState("open", 3)}
    return WorkerStats(
        number,
        3,
        1,
        {"users": service},
        nodes,
        states=states,
        handshakes={"https": {"full": 3}},
        http2_closed={"https": {"rapid_reset": 1}},
        filters={"staff": {"denied": 2}},
    )


def total(retired: Retired, messages: Iterable[WorkerStats]) -> Totals:
    """The sum over workers of which each sent one message."""
    workers = []
    for message in messages:
        workers.append(Reported())
        workers[-1].take(message)
    return Totals(retired, workers)


def several(**old: Any) -> RegistryStatus:
    """Two registries, of which `old` has a backup in use unless told otherwise."""
    parts = {
        "old": RegistryStatus(
            **{
                "provider": "etcd",
                "connected": True,
                "age": 1.5,
                "resyncs": {"compacted": 2},
                "sources": (
                    RegistrySource(provider="etcd", alive=False),
                    RegistrySource(provider="file", alive=True, active=True),
                ),
                **old,
            }
        ),
        "new": RegistryStatus(
            provider="consul",
            connected=False,
            instances=3,
            sessions=5,
            connects=2,
            answers=40,
            errors=4,
        ),
    }
    return RegistryStatus(provider="merged", connected=False, parts=parts)


def scrape(pools: PoolRegistry, totals: Totals, **more: Any) -> str:
    given: dict[str, Any] = {
        "pools": pools.by_service,
        "totals": totals,
        "registry": RegistryStatus(
            provider="etcd",
            connected=True,
            age=1.5,
            resyncs={"compacted": 2},
            invalid=(InvalidRecord(key="/services/users/x", reason="no address", kept=False),),
        ),
        "balancer_of": lambda service: "round_robin",
        "inflight": lambda slot: slot * 10,
        "client_connections": 7,
        "tunnels": 2,
        "workers": 2,
        "admin_closed": {"slow_head": 1},
        "processes": {"control": os.getpid()},
        "samples": [
            ("fairlead_tls_generation", {"listener": "https"}, 1),
            (
                "fairlead_certificate_loads_total",
                {"listener": "https", "service": "", "result": "loaded"},
                2,
            ),
            ("fairlead_acme_orders_total", {"name": "a.example", "result": "issued"}, 1),
            (
                "fairlead_certificate_expiry_timestamp_seconds",
                {"listener": "https", "service": "", "certificate": "a.example"},
                1.79e9,
            ),
        ],
    }
    page = Page(Scrape(**{**given, **more}))
    for _ in page.steps():
        pass
    return page.text().decode()


def samples(text: str) -> dict[str, float]:
    """`name{label="value",…}` with the labels in order → value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
