"""`Registration`: the handle of one registered instance, for the service that it stands for."""

from __future__ import annotations

from datetime import UTC, datetime

from proxy.health.base import printable
from proxy.register.entry import Entry
from proxy.register.keeper import Keeper
from proxy.register.record import Health, Record


class Registration:
    """A registered instance: what its service may say about it. All of it is wanted state,
    said at once and written as soon as the registry takes it; only the latest word is written."""

    def __init__(self, keeper: Keeper, entry: Entry) -> None:
        self._keeper = keeper
        self._entry = entry

    @property
    def record(self) -> Record:
        """The registered record, address and id filled in."""
        return self._entry.record

    @property
    def key(self) -> str:
        return self._keeper.key(self._entry)

    @property
    def registered(self) -> bool:
        """In the registry, as far as known: written, and the lease alive."""
        return self._keeper.registered(self._entry)

    @property
    def taken(self) -> bool:
        """A newer process with the same id has the key. It is left alone; when it goes, this
        one is registered again."""
        return self._entry.taken

    async def wait_registered(self, limit: float) -> bool:
        """Wait until it is; False after `limit` seconds."""
        return await self._keeper.until(lambda: self.registered, limit)

    def report(self, status: str, message: str = "") -> None:
        """State health: `healthy` is served, `draining` gets no new requests, anything else is
        not served. Once `draining`, later statements are ignored."""
        self._say(Health(printable(status) or "unknown", printable(message), datetime.now(UTC)))

    def seen(self) -> None:
        """Health is as it was; renew `last_check`. A status that somebody else wrote stays."""
        self._say(Health(None, "", datetime.now(UTC)))

    def _say(self, health: Health) -> None:
        if self._entry.report(health):
            self._keeper.wake()

    @property
    def reported(self) -> bool:
        """Whether what was said is written, or is not to be written any more."""
        return self._entry.health is None or self._entry.leaving

    def __repr__(self) -> str:
        return f"<Registration {self.key} {'registered' if self.registered else 'not registered'}>"
