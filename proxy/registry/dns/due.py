"""When each service's name is to be asked for again. Pure.

That is when its records run out, which whoever writes them says; but no sooner than a second after
the last time, since Consul and hosts files say 0, and no later than `longest`, since those who say
an hour change their minds before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf
from typing import Final

SHORTEST: Final = 1.0
"""Seconds between two questions for one name."""

TOGETHER: Final = 0.5
"""Seconds by which a question may come early, to be asked with others: each time there is a
connection to make. Answers hold for whole seconds, so a name that was due with others stays so."""


class Due:
    """Owns the time at which each of these services is due. `now` is monotonic seconds."""

    def __init__(self, services: Iterable[str], longest: float) -> None:
        self._longest = longest
        self._at = dict.fromkeys(services, -inf)

    def told(self, service: str, ttl: int | None, now: float) -> None:
        """Take note that its records hold for `ttl` seconds; None = nobody says how long."""
        wait = self._longest if ttl is None else max(ttl, SHORTEST)
        self._at[service] = now + min(wait, self._longest)

    def now(self, now: float) -> Collection[str]:
        """Services to ask for; all of them if none is due, as somebody wants to know anyway."""
        early = min(TOGETHER, self._longest / 2)
        return [one for one, at in self._at.items() if at <= now + early] or self._at.keys()

    @property
    def next_at(self) -> float:
        """When the first is due."""
        return min(self._at.values())
