"""`subset:`, `zone:` and `priority_key:`, the instances that requests choose among."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from proxy.membership import Instance
from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import TEXT, choice, number


class SubsetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Instances by their metadata."""

    select: Annotated[dict[str, str], TEXT, "Only instances whose metadata say all of this."] = {}
    otherwise: Annotated[
        str,
        choice(("any", "none"), "what to do otherwise"),
        "While no registered instance says so: `any` = all of them, `none` = none (503).",
    ] = "any"


class ZoneSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Instances nearby."""

    prefer: Annotated[
        str, TEXT, "The zone that this proxy is in, such as `${ZONE:-}`; none = no preference."
    ] = ""
    key: Annotated[str, TEXT, "The key in the metadata of instances that names theirs."] = "zone"
    min_ready: Annotated[
        float,
        number(0.01, 1),
        "Share of the zone's instances that has to be ready for it to get all requests. With fewer"
        " it gets so much less, and other zones the rest.",
    ] = 0.5


OVERFLOW: Final = 1 / 1.4
"""Share of a tier's instances that has to be ready for it to get all requests: Envoy's
overprovisioning factor of 140 %."""


def chosen(instances: tuple[Instance, ...], subset: SubsetSettings | None) -> Sequence[Instance]:
    """The instances of a subset."""
    if subset is None:
        return instances
    wanted = subset.select.items()
    some = [instance for instance in instances if wanted <= instance.metadata.items()]
    return instances if not some and subset.otherwise == "any" else some


def place_of(instance: Instance, zone: ZoneSettings | None, priority_key: str) -> tuple[int, bool]:
    """Tier of an instance, the lowest first, and whether it is in the preferred zone. One that
    says nothing readable of its tier is in tier 0."""
    tier = instance.metadata.get(priority_key, "") if priority_key else ""
    nearby = zone is None or not zone.prefer or instance.metadata.get(zone.key) == zone.prefer
    return int(tier) if tier.isdecimal() and len(tier) <= 4 else 0, nearby


def check_subset(given: Given, subset: SubsetSettings, report: Report) -> None:
    """Complain of a subset that is everybody."""
    if not subset.select and report.sound(given.at("select")):
        report.complain(given.path, "selects nothing; allowed: at least one key under select")
