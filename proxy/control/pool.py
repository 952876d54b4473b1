"""A service as the control process knows it: its instances, the verdicts, the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.control.slow_start import SCALE, SlowStart, scaled
from proxy.membership import Instance
from proxy.messages import PoolChange, PoolNode, PoolSnapshot, Status
from proxy.settings.choosing import place_of
from proxy.settings.protocol import spoken
from proxy.settings.service import ServiceSettings, is_keyed


@dataclass(frozen=True, slots=True)
class Member:
    """An instance of a pool with the verdict on it."""

    instance: Instance
    status: Status
    reason: str
    """Why it is not ready; empty when it is."""
    slot: int
    until: float | None = None
    """When an ejection ends."""
    since: float = 0.0
    """When the instance came to this status."""

    def told(self, now: float) -> str:
        """The reason, and how long it will hold where that is known."""
        left = self.back_in(now)
        return self.reason if left is None else f"{self.reason}, back in {left:.0f} s"

    def back_in(self, now: float) -> float | None:
        """Seconds until an ejection ends."""
        return None if self.until is None else round(max(0.0, self.until - now), 1)


@dataclass(slots=True)
class Tally:
    """Counts of one service's changes in the registry, since the pool exists."""

    discoveries: int = 0
    """Times its set of instances was learnt anew: the first list and each change."""
    registered: int = 0
    deregistered: int = 0
    updated: int = 0
    health: dict[str, int] = field(default_factory=dict)
    """`healthy | draining | unhealthy` → statements read from the registry."""


@dataclass(slots=True)
class Pool:
    """A service as the control process knows it. Only `PoolRegistry` writes to it."""

    service: str
    static: bool
    source: tuple[Instance, ...] = ()
    fallback: bool = False
    """`source` is not from the registry, which knows nobody, but `fallback_instances`."""
    trusted: bool = True
    """Instances of the configuration may lead anywhere: it is all of the machine's own file."""
    members: tuple[Member, ...] = ()
    snapshot: PoolSnapshot = field(default_factory=lambda: PoolSnapshot("", 0, ()))
    _latest_change: tuple[PoolSnapshot, PoolSnapshot, PoolChange | None] | None = None
    """From where, to where, and the way: what one worker asks for, the others will."""
    empty_since: float | None = None
    """When the registry last named it, if it does not now."""
    tally: Tally = field(default_factory=Tally)
    slow_start: SlowStart = field(default_factory=SlowStart)
    scaled: bool = False
    """Nodes in the snapshot have shares of their weights, because somebody is new."""
    step_at: float | None = None
    """When the weights of newcomers are to be looked at again."""

    def change_from(self, told: PoolSnapshot) -> PoolChange | None:
        """The way to the current snapshot for a worker that was told another one; None if it is to
        be told as a whole."""
        latest = self._latest_change
        if latest is not None and latest[0] is told and latest[1] is self.snapshot:
            return latest[2]
        change = change_between(told, self.snapshot)
        self._latest_change = told, self.snapshot, change
        return change

    @property
    def local(self) -> bool:
        """Whether the instances stand in the machine's own file."""
        return self.trusted and (self.static or self.fallback)

    @property
    def warming(self) -> int:
        """Instances in slow start: those with less than their full weight."""
        return sum(node.share < 1.0 and node.weight > 0 for node in self.snapshot.nodes)


def change_between(before: PoolSnapshot, after: PoolSnapshot) -> PoolChange | None:
    """The way from one snapshot to a later one; None if that is to be told as a whole."""
    if before.panic != after.panic or before.published != after.published:
        return None
    known = {node.key: node for node in before.nodes}
    nodes = []
    for node in after.nodes:
        old = known.pop(node.key, None)
        if old is not node and old != node:
            nodes.append(node)
    if 2 * (len(nodes) + len(known)) > len(after.nodes):
        return None
    return PoolChange(
        after.service, before.generation, after.generation, tuple(nodes), tuple(known)
    )


@dataclass(slots=True)
class Changes:
    """Effects of one update of the pools."""

    pools: list[str] = field(default_factory=list)
    """Services whose snapshot is a new one."""
    gone: list[str] = field(default_factory=list)
    """Services that have no pool any more."""
    learned: list[str] = field(default_factory=list)
    """Services of which the registry says something else, whether workers need to know or not."""
    registered: int = 0
    deregistered: int = 0
    updated: int = 0
    panic_began: list[str] = field(default_factory=list)
    panic_ended: list[str] = field(default_factory=list)
    fallback_began: list[str] = field(default_factory=list)
    """Services that `fallback_instances` serve from now on."""
    fallback_ended: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.pools or self.gone)


def node_of(
    member: Member,
    local: bool,
    settings: ServiceSettings,
    shares: Mapping[str, float] | None = None,
) -> PoolNode:
    """`local`: as in `PoolNode`; `settings`: of the service; `shares`: of those that have not their
    full weight yet, by key."""
    instance = member.instance
    protocol, server_name = spoken(settings.protocol, settings.tls, instance)
    weight, share = instance.weight, 1.0
    if shares:
        share = round(shares.get(instance.key, 1.0) * SCALE) / SCALE
        weight = weight if is_keyed(settings) else scaled(weight, share)
    tier, nearby = place_of(instance, settings.zone, settings.priority_key)
    return PoolNode(
        key=instance.key,
        id=instance.id,
        address=instance.address,
        port=instance.port,
        weight=weight,
        status=member.status,
        slot=member.slot,
        local=local,
        server_name=server_name,
        protocol=protocol,
        tier=tier,
        nearby=nearby,
        share=share,
    )
