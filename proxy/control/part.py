"""A part of the instances of a service, for whoever shows a page of thousands."""

from __future__ import annotations

from typing import NamedTuple, get_args

from multidict import MultiMapping

from proxy.control.registrations import Refusal
from proxy.membership import Instance
from proxy.messages import Status

LEFT = "left"
"""Status of an instance that is in the pool no more, and has something in flight still."""
STATUSES = (*get_args(Status), LEFT)


class Part(NamedTuple):
    """A choice among the instances of a service."""

    name: str = ""
    """In the id or the endpoint, whatever its case."""
    statuses: tuple[str, ...] = ()
    """Empty: any."""
    zone: str = ""
    first: int = 0
    """Number of those that are left out at the beginning."""
    end: int | None = None

    def has(self, known: Instance, status: str) -> bool:
        """Whether an instance is meant, wherever it stands."""
        return (
            (not self.statuses or status in self.statuses)
            and (not self.zone or known.metadata.get("zone") == self.zone)
            and (
                not self.name
                or self.name in known.id.lower()
                or self.name in f"{known.address}:{known.port}"
            )
        )


def part_of(query: MultiMapping[str]) -> Part:
    """The part that a request names by `name`, `status`, `zone`, `offset` and `limit`. Refusal."""
    numbers = []
    for name in ("offset", "limit"):
        text = query.get(name, "0")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Refusal(400, f"{name}: {text[:20]!r}: must be a whole number")
        numbers.append(int(text))
    first, limit = numbers
    statuses = tuple(query.getall("status", []))
    if wrong := set(statuses) - {*STATUSES}:
        one, *_ = sorted(wrong)
        allowed = ", ".join(STATUSES)
        raise Refusal(400, f"status: {one[:20]!r}: must be one of {allowed}")
    end = first + limit if limit else None
    return Part(query.get("name", "").lower(), statuses, query.get("zone", ""), first, end)
