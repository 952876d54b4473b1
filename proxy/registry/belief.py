"""How far the answer of a registry that is asked for everything is believed. Pure.

Whoever asks again and again sees absences, not departures: an answer lacks an instance because it
was deregistered, or because the registry came up empty, knows a part, or may tell a part only. So
what an answer *names* is believed at once, and so is the absence of a few. A pool that an answer
empties, or leaves less than half of, is a doubt: what is missing is retained until answers have
lacked it for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum, auto

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Registry as a whole, at one moment."""

    records: Mapping[bytes, bytes]
    """By key, as a roster takes them."""
    source: str = ""
    """Endpoint that says it, of several that may know different things."""
    revision: int = 0
    """Of the registry, if it counts; 0 = it does not."""
    left: AbstractSet[bytes] = frozenset()
    """Keys of those who left, as the registry says itself."""
    refused: str = ""
    """Why the registry may be hiding what it knows; "" = it is not."""


class Step(Enum):
    """Ways to take an answer."""

    ADOPT = auto()
    """The answer takes the place of what was known."""
    HOLD = auto()
    """Take over what the answer names; retain what it lacks."""
    ASK_AGAIN = auto()
    """Take nothing of the answer."""


def believe(
    before: Answer | None,
    answer: Answer,
    service_of: Callable[[bytes], str],
    *,
    asked_again: bool = False,
    returned: bool = False,
) -> tuple[Step, str]:
    """The step to take, and the reason of one that is not `ADOPT`. `before`: the last answer that
    was taken; `service_of`: the pool of a key, "" = none; `asked_again`: an answer was just
    doubted; `returned`: there was an outage since `before`."""
    if answer.refused:
        return Step.ASK_AGAIN, "refused"
    if before is None:
        return Step.ADOPT, ""
    known = before.records.keys() - answer.left
    lacking = known - answer.records.keys()
    if answer.revision < before.revision:
        # From the same source the store itself is an earlier one; another may merely lag.
        lags = answer.source != before.source and not asked_again
        return (Step.ASK_AGAIN if lags else Step.HOLD), "went_back"
    if lacking and answer.source != before.source:
        return Step.HOLD, "moved"
    if lacking and returned:
        # A server that was started anew may not have heard of everybody yet.
        return Step.HOLD, "returned"
    sizes = Counter(filter(None, map(service_of, known)))
    left = Counter(map(service_of, answer.records))
    if any(not left[service] for service in sizes):
        return Step.HOLD, "empty"
    shrunk = any(left[service] < size / 2 for service, size in sizes.items())
    return (Step.HOLD, "shrunk") if shrunk else (Step.ADOPT, "")
