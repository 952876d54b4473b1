"""Callers that a service allows: by the name that the client has proved, by method and by path.

An entry that fits is enough. A client without a name is nobody, whom no entry fits. Where a path
may be read in several ways all of them must be allowed: which one the instance takes is not known.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.errors import CALLER_DENIED, Refused
from proxy.settings.callers import ANYBODY, Caller, CallersSettings


class Callers:
    """Entries of one service's `callers`, by caller."""

    __slots__ = ("_entries", "_service", "dry_run")

    def __init__(self, service: str, settings: CallersSettings) -> None:
        self._service = service
        self.dry_run = settings.dry_run
        self._entries: dict[str, list[Caller]] = {}  # ≤ 1 KiB + 1 KiB per route
        for entry in settings.allow:  # ≤ routes
            self._entries.setdefault(entry.service, []).append(entry)

    def refusal(self, caller: str, method: str, paths: Iterable[str]) -> Refused | None:
        """The refusal of a request, or None. `caller`: in lower case, empty = nobody is known;
        `method`: empty = it is a connection, and has no path, either; `paths`: all readings."""
        place = f"callers of {self._service}"
        if not caller:
            return Refused(CALLER_DENIED, f"{place}: the client has not proved to be a service")
        entries = [*self._entries.get(caller, ()), *self._entries.get(ANYBODY, ())]
        if not entries:
            return Refused(CALLER_DENIED, f"{place}: {caller} is not among them")
        if not method and not any(_fits_all(entry) for entry in entries):
            limits = "by method or path alone, and a connection has neither"
            return Refused(CALLER_DENIED, f"{place}: {caller} is allowed {limits}")
        for path in paths:  # ≤ 18
            if not any(_fits(entry, method, path) for entry in entries):
                return Refused(CALLER_DENIED, f"{place}: {caller} is not allowed {method} {path}")
        return None


def _fits_all(entry: Caller) -> bool:
    return not entry.methods and not entry.path_prefixes


def _fits(entry: Caller, method: str, path: str) -> bool:
    if entry.methods and method not in entry.methods:
        return False
    prefixes = entry.path_prefixes
    return not prefixes or any(
        path == one or path.startswith(one.removesuffix("/") + "/") for one in prefixes
    )
