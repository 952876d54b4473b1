"""One service's instances as a client balances over them: live nodes, and the balancer.

Pure but for the counts: membership in, picks out; no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import cast

from balancers.base import NO_KEY, Balancer, hash_key
from proxy import catalog
from proxy.control.judging import judge, panics
from proxy.membership import Instance
from proxy.messages import Status


class Node:
    """Owns the number of requests in flight on one instance in this process. What the balancers
    see (`balancers.base.Node`)."""

    __slots__ = ("address", "id", "key", "load", "port", "reason", "share", "status", "usable",
                 "weight")  # fmt: skip

    def __init__(self, instance: Instance) -> None:
        self.id = instance.id
        self.key = instance.key
        self.address = instance.address
        self.port = instance.port
        self.weight = instance.weight
        self.share = 1.0
        self.status: Status = "unhealthy"
        self.reason = ""
        self.usable = False
        self.load = 0

    def __repr__(self) -> str:
        return f"<Node {self.key} {self.status} load={self.load}>"


class Pool:
    """Owns the nodes of one service, keyed by identity so that counts outlive every change, and
    the balancer over those registered now."""

    def __init__(self, balancer: Callable[..., Balancer], rng: Random) -> None:
        """`balancer(nodes, rng)` builds one."""
        self._make = balancer
        self._rng = rng
        self._instances: tuple[Instance, ...] | None = None
        self._nodes: dict[str, Node] = {}
        self._departed: dict[str, Node] = {}
        """Left with requests in flight: should they return, these still count."""
        self._balancer: Balancer = balancer([], rng)

    @property
    def nodes(self) -> Collection[Node]:
        return self._nodes.values()

    def follow(self, instances: tuple[Instance, ...]) -> None:
        """Take over the membership, judged by the proxy's rules: when nobody is ready, health is
        ignored. Costs nothing while the tuple is the identical one."""
        if instances is self._instances:
            return
        self._instances = instances
        verdicts = [judge(instance) for instance in instances]
        panic = panics(verdict[0] for verdict in verdicts)
        known, self._nodes = self._nodes, {}
        for instance, (status, reason, *_) in zip(instances, verdicts, strict=True):
            key = instance.key
            node = known.pop(key, None) or self._departed.pop(key, None) or Node(instance)
            node.weight = instance.weight
            node.status, node.reason = status, reason
            node.usable = status == "ready" or (panic and status != "draining")
            self._nodes[key] = node
        self._departed = {
            key: node for key, node in (self._departed | known).items() if node.load > 0
        }
        balancer = self._make(list(self._nodes.values()), self._rng)
        balancer.inherit(self._balancer)
        self._balancer = balancer

    def pick(self, key: bytes | None, tried: Collection[Node]) -> Node | None:
        """A usable node not in `tried`, or None. The same key gives the same instance as
        in the proxy."""
        number = hash_key(key) if key and self._balancer.uses_key else NO_KEY
        return cast(Node | None, self._balancer.pick(number, tried))

    def take(self, node: Node) -> None:
        """Count one more request to `node` as in flight."""
        self._moved(node, 1)

    def release(self, node: Node) -> None:
        """Count one request to `node` as no longer in flight."""
        self._moved(node, -1)

    def _moved(self, node: Node, by: int) -> None:
        node.load += by
        if node.load == 0 and self._departed.get(node.key) is node:
            del self._departed[node.key]
        if self._balancer.follows_load:
            self._balancer.load_changed(node)


def builder(name: str, params: dict[str, int | float]) -> Callable[..., Balancer]:
    """The constructor of a balancer of the catalogue, or of a plug-in. ValueError for a name or
    parameter that nobody has."""
    try:
        kind: Callable[..., Balancer] = catalog.plug_in("balancers", name)
    except KeyError:
        allowed = ", ".join(sorted(catalog.BALANCERS))
        raise ValueError(f"balancer: {name!r}: allowed are {allowed}") from None
    except catalog.PlugInError as error:
        raise ValueError(f"balancer: {name!r} {error}") from None

    def build(nodes: list[Node], rng: Random) -> Balancer:
        return kind(nodes, rng, **params)

    try:
        build([], Random(0))
    except TypeError as error:
        raise ValueError(f"balancer: {name}: {error}") from None
    return build
