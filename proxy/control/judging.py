"""The verdict on one instance, and when a pool is served whatever the verdicts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from proxy.membership import Instance
from proxy.messages import Status


@dataclass(slots=True)
class Overrides:
    """Overrides of the registry's word for instances of one service.

    Owned by `PoolRegistry`; kept for instances that left, because they may be back in a moment.
    """

    drained: set[str] = field(default_factory=set)
    """Ids; the operator's word holds for whatever is registered under that name."""
    marked: dict[str, str] = field(default_factory=dict)
    """Ids that the whole fleet drains → by whom."""
    unhealthy: dict[str, str] = field(default_factory=dict)
    """Key of an instance that fails its active checks → what the last one said."""
    ejected: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Key → reason, and until when."""
    weights: dict[str, tuple[Instance, int]] = field(default_factory=dict)
    """Id → the instance as it was registered, and the weight that the operator gave it."""

    def __bool__(self) -> bool:
        return bool(self.drained or self.marked or self.unhealthy or self.ejected or self.weights)


NO_OVERRIDES = Overrides()
DRAINED = "drained by the operator"


def weighed(instances: Sequence[Instance], found: Overrides) -> Sequence[Instance]:
    """The instances with the operator's weights, which are forgotten of those that have left or
    registered anew."""
    if not found.weights:
        return instances
    stays = dict.fromkeys(found.weights, False)
    result = []
    for instance in instances:
        known, weight = found.weights.get(instance.id, (None, 0))
        if known == instance:
            stays[instance.id] = True
            instance = msgspec.structs.replace(instance, weight=weight)
        result.append(instance)
    for id_, is_there in stays.items():
        if not is_there:
            del found.weights[id_]
    return result


def judge(
    instance: Instance, found: Overrides = NO_OVERRIDES, refusal: str = ""
) -> tuple[Status, str]:
    """Status of an instance, and the reason if it is not ready. `refusal`: why its address must not
    be connected to, as far as that is known before names are resolved.

    Whoever takes an instance out on purpose is believed first; then whoever finds it unhealthy,
    the registry or our own checks: it is served only if neither does.
    """
    if instance.id in found.drained:
        return "draining", DRAINED
    if instance.id in found.marked:
        return "draining", _because("drained everywhere", found.marked[instance.id])
    if instance.health == "draining":
        return "draining", _because("draining in the registry", instance.health_message)
    if instance.health != "healthy":
        return "unhealthy", _because(
            f"{instance.health!r} in the registry", instance.health_message
        )
    if instance.weight == 0:
        return "draining", "weight 0"
    if refusal:
        return "unhealthy", refusal
    key = instance.key
    if key in found.unhealthy:
        return "unhealthy", _because("fails its checks", found.unhealthy[key])
    if key in found.ejected:
        return "ejected", found.ejected[key][0]
    return "ready", ""


def _because(reason: str, message: str) -> str:
    return f"{reason}: {message}" if message else reason


def panics(statuses: Iterable[Status], threshold: float = 0.0) -> bool:
    """Whether health is ignored: no instance is ready, or a smaller share than `threshold`, but
    some would serve if it were. It is ignored because an instance that is wrongly believed dead
    serves better than none, and few that are overrun serve worse than many of which some are dead.
    Those that drain were taken out on purpose: they stay out and do not count."""
    ready = failing = 0
    for status in statuses:
        if status == "ready":
            ready += 1
        elif status != "draining":
            failing += 1
    # Divided, because 0.28 * 25 is more than 7 for a computer, and 7 / 25 is just 0.28.
    return failing > 0 and (not ready or ready / (ready + failing) < threshold)
