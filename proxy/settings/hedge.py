"""`hedge:` of a service, second attempts beside slow first ones."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from proxy.settings.read import SHARE, Read, parse_duration

_QUANTILE: Final = re.compile("p([5-9][0-9])")


def _parse_after(text: str) -> str:
    if not _QUANTILE.fullmatch(text) and parse_duration(text) < 0.001:
        raise ValueError("is too short")
    return text


_AFTER: Final = Read(
    _parse_after,
    "word",
    "p50 to p99, or a duration such as 50ms of at least 1ms",
    json={"type": "string", "pattern": r"^p[5-9][0-9]$|^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"},
)


class HedgeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Second attempts, on another instance, of requests that wait for their answer."""

    after: Annotated[
        str,
        _AFTER,
        "When a request counts as slow: `p95` = when 95 % of the service's answers had begun, of"
        " the last 10 to 20 seconds in this worker; `p50` to `p99`, or a duration.",
    ] = "p95"
    max_share: Annotated[
        float, SHARE, "Hedges per request at most, on the average of the last ten seconds."
    ] = 0.05

    @property
    def quantile(self) -> float:
        """The quantile of the time to an answer; 0 = it is a time of its own."""
        match = _QUANTILE.fullmatch(self.after)
        return int(match[1]) / 100 if match else 0.0

    @property
    def delay(self) -> float:
        """Seconds; 0 = a quantile says."""
        return 0.0 if self.quantile else parse_duration(self.after)
