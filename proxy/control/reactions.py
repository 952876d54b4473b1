"""Happenings as log lines and events: a table.

Log lines that no event has a like of are written where they happen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog

from proxy.control.events import Events
from proxy.control.pool import Changes

log = structlog.get_logger()


class Reaction(NamedTuple):
    """The log line and the event for one kind of happening; "" = none."""

    level: str = ""
    line: str = ""
    event: str = ""


REACTIONS: Mapping[str, Reaction] = {
    "pools": Reaction(event="pools"),
    "panic_began": Reaction("warning", "panic_began", "panic_began"),
    "panic_ended": Reaction("info", "panic_ended", "panic_ended"),
    "fallback_began": Reaction("warning", "fallback_began", "fallback_began"),
    "fallback_ended": Reaction("info", "fallback_ended", "fallback_ended"),
    "gone": Reaction("info", "service_forgotten"),
    "check_healthy": Reaction("info", "check_healthy", "check_healthy"),
    "check_unhealthy": Reaction("warning", "check_unhealthy", "check_unhealthy"),
    "ejected": Reaction("warning", "instance_ejected", "ejected"),
    "not_ejected": Reaction("warning", "instance_not_ejected", "not_ejected"),
    "reinstated": Reaction("info", "instance_reinstated", "reinstated"),
    "drained": Reaction("info", "instance_drained", "drained"),
    "undrained": Reaction("info", "instance_undrained", "undrained"),
    "weighed": Reaction("info", "instance_weighed", "weighed"),
    "breaker_opened": Reaction(event="breaker_opened"),
    "breaker_closed": Reaction(event="breaker_closed"),
    "worker_died": Reaction(event="worker_died"),
    "acme_issued": Reaction("info", "acme_issued", "acme_issued"),
    "acme_failed": Reaction("warning", "acme_failed", "acme_failed"),
    "certificates_changed": Reaction("info", "certificates_changed", "certificates_changed"),
    "certificate_unusable": Reaction("warning", "certificate_unusable", "certificate_unusable"),
    "certificate_usable": Reaction("info", "certificate_usable", "certificate_usable"),
    "certificate_expires_soon": Reaction(
        "warning", "certificate_expires_soon", "certificate_expires_soon"
    ),
    "certificate_expired": Reaction("error", "certificate_expired", "certificate_expired"),
}

OF_CHANGES = ("panic_began", "panic_ended", "fallback_began", "fallback_ended", "gone")
"""Fields of `Changes` with services, in the order in which they are told of."""


class Reactions:
    """Writes log lines and publishes events as the table says."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def tell(self, what: str, /, **fields: Any) -> None:
        """A thing happened: a key of `REACTIONS`."""
        level, line, event = REACTIONS[what]
        if line:
            getattr(log, level)(line, **fields)
        if event:
            self.events.publish(event, time.time(), **fields)

    def tell_changes(self, changes: Changes) -> None:
        """The pools changed."""
        for what in OF_CHANGES:
            for service in getattr(changes, what):
                self.tell(what, service=service)
        if changes:
            self.tell(
                "pools",
                changed=changes.pools,
                gone=changes.gone,
                registered=changes.registered,
                deregistered=changes.deregistered,
                updated=changes.updated,
            )


def id_in(key: str) -> str:
    """The id in an `Instance.key`; endpoints have no @ in them."""
    return key.rpartition("@")[0]
