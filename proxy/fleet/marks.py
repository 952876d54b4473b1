"""Marks: instances that every proxy of a fleet drains, under `/fairlead/marks/SERVICE/ID`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from proxy.registry.etcd.wire import KeyValue

PREFIX = "/fairlead/marks/"

FORGET_AFTER = 3600.0
"""Seconds for which an instance must have been away for its mark to go: longer than a host takes to
be repaired by hand, and names of instances that never come back do not pile up."""

LONGEST_BY = 128
"""Characters of who has made a mark, which stand in the reason of its instance."""


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """A word about one instance."""

    by: str = ""
    at: str = ""
    until: datetime | None = None
    """None: until it is taken back."""
    revision: int = 0


Marks = Mapping[tuple[str, str], Mark]
"""Service and id → mark."""


def key_of(service: str, id_: str) -> bytes:
    """The key of an instance's mark."""
    return f"{PREFIX}{service}/{id_}".encode()


def read(held: Mapping[bytes, KeyValue], now: datetime) -> Marks:
    """The marks that hold at `now`. One whose value cannot be read holds: somebody wanted it. One
    whose key cannot be read is about no instance."""
    marks = {}
    for key, found in held.items():
        try:
            service, slash, id_ = key.decode().removeprefix(PREFIX).partition("/")
        except UnicodeDecodeError:
            continue
        try:
            mark = msgspec.json.decode(found.value, type=Mark)
        except (ValueError, RecursionError):
            mark = Mark()
        if mark.until is not None and mark.until.tzinfo is None:
            mark = msgspec.structs.replace(mark, until=None)
        if slash and (mark.until is None or now < mark.until):
            marks[service, id_] = msgspec.structs.replace(
                mark, by=mark.by[:LONGEST_BY], revision=found.mod_revision
            )
    return marks


class Absences:
    """Owns since when marked instances have been away, in monotonic seconds."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}

    def due(
        self, marks: Marks, is_there: Callable[[str, str], bool], now: float
    ) -> list[tuple[str, str]]:
        """The marks that are to go. Call every now and then while the registry is believed."""
        self._since = {whom: self._since.get(whom, now) for whom in marks if not is_there(*whom)}
        return [whom for whom, since in self._since.items() if now - since >= FORGET_AFTER]
