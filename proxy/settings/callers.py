"""`callers:`, which services may call a service."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from proxy.settings.addresses import NAMES, parse_name
from proxy.settings.complaints import Report
from proxy.settings.declare import Given, Short, check_filled
from proxy.settings.read import SWITCH, Read
from proxy.settings.route_values import EXACT_PATH, METHOD

ANYBODY: Final = "*"


def _parse_caller(text: str) -> str:
    return text if text == ANYBODY else parse_name(text).lower()


_CALLER: Final = Read(_parse_caller, "name", f"{NAMES}, or * for every service")


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `allow`."""

    service: Annotated[
        str, _CALLER, "A service that may call; `*`: every one of the trust domain. Without case."
    ]
    methods: Annotated[tuple[str, ...], METHOD, "Only with these methods. Without it any."] = ()
    path_prefixes: Annotated[
        tuple[str, ...],
        EXACT_PATH,
        "Only these paths and what is below them, by whole segments, as routes match them. Without"
        " it any.",
    ] = ()


class CallersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`callers:` of a service."""

    allow: Annotated[
        tuple[Caller, ...],
        Short("service"),
        "Who may: names of services, or mappings; one that fits is enough. None = nobody may.",
    ] = ()
    dry_run: Annotated[
        bool,
        SWITCH,
        "Refuse nobody, and only count who would be: `fairlead_limited_total` with"
        " `callers.dry_run`.",
    ] = False


def check_callers(given: Given, report: Report) -> None:
    """Complain of entries that would let in more than they seem to."""
    for entry in given.get("allow") or ():
        check_filled(entry, ("methods", "path_prefixes"), report)
