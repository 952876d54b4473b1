"""Answers of Consul's HTTP API → records, and how far they can be trusted. Pure.

A record has the form of ours (`records.py`), which is read as strictly as in any other registry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from proxy.registry import base
from proxy.registry.base import RegistryError
from proxy.registry.consul.meta import ID, OWN, unpacked
from proxy.registry.consul.options import Options

decode = partial(base.decode, "Consul")

SERVERS: Final = "consul"
"""Service under which the servers of Consul register. Every catalogue has it; what listens there
speaks no HTTP, so it is no pool."""

MAX_LAG: Final = 5.0
"""Seconds that the agent's server may be behind its leader. A server hears of the leader twice a
second at least, so one that lags more is cut off."""

_NODE_DEAD: Final = "serfHealth"
"""Check by which Consul's agents say that one of them does not answer."""
_NODE_MAINTENANCE: Final = "_node_maintenance"
_SERVICE_MAINTENANCE: Final = "_service_maintenance:"


class Node(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """`Node` of an answer; so the others below. None of them is watched by the garbage collector:
    with thousands of instances its rounds took most of the time."""

    node: str
    address: str = ""
    id_: str = msgspec.field(default="", name="ID")
    tagged_addresses: dict[str, str] | None = None


class Weights(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    passing: int = 1
    warning: int = 1


class Tagged(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    address: str = ""
    port: int = 0


class Service(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    id_: str = msgspec.field(name="ID")
    service: str
    tags: tuple[str, ...] | None = None
    address: str = ""
    tagged_addresses: dict[str, Tagged] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    weights: Weights | None = None


class Check(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    check_id: str = msgspec.field(name="CheckID")
    status: str
    name: str = ""
    notes: str | None = ""


class Registered(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """Instance of a service, as `/v1/health/service/…` has it."""

    node: Node
    service: Service
    checks: tuple[Check, ...] | None = None


def index_of(headers: Mapping[str, str]) -> int:
    """Index of an answer, which blocking queries wait to be passed; never 0, which would not wait.
    RegistryError when the answer comes from a server that has no leader, or is behind its own."""
    if headers.get("x-consul-knownleader", "true") != "true":
        raise RegistryError("No cluster leader: the agent's server knows none, and may be behind")
    lag = headers.get("x-consul-lastcontact", "0")
    if not lag.isdigit() or int(lag) > MAX_LAG * 1000:
        raise RegistryError(f"the agent's server last heard of its leader {lag} ms ago")
    index = headers.get("x-consul-index", "")
    return max(1, int(index)) if index.isascii() and index.isdigit() and len(index) < 20 else 1


def hides(headers: Mapping[str, str]) -> bool:
    """Whether the token may not see all of the answer; Consul tells since 1.11."""
    return headers.get("x-consul-results-filtered-by-acls") == "true"


def names(body: bytes) -> frozenset[str]:
    """Services in the catalogue. RegistryError for anything but the answer of one."""
    return frozenset(decode(body, dict[str, tuple[str, ...]]))


def pieces(body: bytes) -> Sequence[msgspec.Raw]:
    """Instances of one service, each for `registered`: to decode thousands at once takes 50 ms.
    RegistryError for anything but an answer of that kind, here and there."""
    return decode(body, tuple[msgspec.Raw, ...])


def registered(piece: msgspec.Raw) -> Registered:
    """An instance of a service."""
    return decode(piece, Registered)


def servers(body: bytes) -> frozenset[str]:
    """Ids of the nodes of Consul's servers; none if the token may not see them."""
    found = map(registered, pieces(body))
    return frozenset(one.node.id_ for one in found if one.node.id_)


def agent_is_well(body: bytes) -> bool:
    """Whether a node's agent answers the others, by the checks of the node. RegistryError for
    anything but an answer of that kind."""
    checks = decode(body, tuple[Check, ...])
    return any(check.check_id == _NODE_DEAD and check.status == "passing" for check in checks)


def ids(found: Sequence[Registered]) -> list[str]:
    """Ids of instances, in their order. Consul's are unique on one node only, and are the name of
    the service where nobody gave one: then the node's name makes it one."""
    stated = [(one.service.meta or {}).get(ID) or one.service.id_ for one in found]
    known = Counter(stated)
    return [
        id_ if known[id_] == 1 and id_ != one.service.service else f"{one.node.node}:{id_}"
        for one, id_ in zip(found, stated, strict=True)
    ]


def record(one: Registered, options: Options) -> bytes:
    """Record of an instance, in our form."""
    tags = one.service.tags or ()
    meta = one.service.meta or {}
    ours = unpacked(meta) or {}
    metadata: dict[str, Any] = {name: v for name, v in meta.items() if not name.startswith(OWN)}
    if isinstance(ours.get("metadata"), dict):
        metadata |= ours["metadata"]
    if tags:
        metadata["tags"] = ",".join(tags)
    stated = [tag.removeprefix("version=") for tag in tags if tag.startswith("version=")]
    version = ours.get("version") or metadata.get("version") or (stated[0] if stated else "")
    status, message, warned = _health(one.checks or ())
    weights = one.service.weights or Weights()
    weight = weights.warning if warned else weights.passing
    if weight != 1:
        metadata.setdefault("weight", str(weight))
    address, port = _endpoint(one, options.address)
    return msgspec.json.encode(
        {
            "address": address,
            "port": port,
            "version": version,
            "metadata": metadata,
            "health": {"status": status, "message": message},
        }
    )


def _endpoint(one: Registered, choice: str) -> tuple[str, int]:
    tagged = (one.service.tagged_addresses or {}).get(choice)
    if tagged is not None and tagged.address:
        return tagged.address, tagged.port or one.service.port
    node = (one.node.tagged_addresses or {}).get(choice) or one.node.address
    return one.service.address or node, one.service.port


def _health(checks: Sequence[Check]) -> tuple[str, str, bool]:
    """Status, its reason, and whether a check warns. Maintenance is said on purpose, so it comes
    first. Outputs of checks are not looked at: they may change every second."""
    for check in checks:
        node = check.check_id == _NODE_MAINTENANCE
        if node or check.check_id.startswith(_SERVICE_MAINTENANCE):
            return "draining", check.notes or ("maintenance of its node" if node else ""), False
    failing = [check for check in checks if check.status not in ("passing", "warning")]
    if failing:
        words = [_said(check) for check in failing]
        return failing[0].status, "; ".join(words), False
    return "healthy", "", any(check.status == "warning" for check in checks)


def _said(check: Check) -> str:
    if check.check_id == _NODE_DEAD:
        return "the agent of its node does not answer"
    return check.name or check.check_id
