"""The choice of complaints about records to log: each once, and no more than a reader can
follow."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from proxy.statuses import InvalidRecord, OddRecord

log = structlog.get_logger()

LINES = 20
"""Of the log in `PERIOD`: the mistakes of a deployment, one by one. A registrar that writes a
thousand bad records, or a bad and a good one in turn, does not fill a disk."""

PERIOD = 10.0


class Complaints:
    """Owns how many lines are left in the current period. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._until = 0.0
        self._left = 0

    def tell(self, news: Sequence[InvalidRecord | OddRecord], now: float) -> None:
        """A warning for each, and one for all those that are too many."""
        if not news:
            return
        if now >= self._until:
            self._until, self._left = now + PERIOD, LINES
        shown, rest = news[: self._left], news[self._left :]
        for record in shown:
            if isinstance(record, InvalidRecord):
                log.warning(
                    "registry_record_refused",
                    key=record.key,
                    reason=record.reason,
                    kept=record.kept,
                )
            else:
                log.warning("registry_record_odd", key=record.key, reason=record.reason)
        if rest and self._left:
            log.warning(
                "registry_records_not_logged",
                number=len(rest),
                because=f"{LINES} records in {PERIOD:g} s are",
                see="GET /api/v1/registry",
            )
        self._left -= len(shown)
