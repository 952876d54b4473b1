"""Names for whoever has no place to hold them: a health check, a client of a registry."""

from __future__ import annotations

import asyncio

from proxy.names.base import Resolver
from proxy.names.cache import Name, Names

UNUSED = 3600.0
"""Seconds after which a name that was not asked for is forgotten: its instance has left, since the
longest interval between probes that makes sense is far shorter."""


class Lookups:
    """Owns the names that somebody looks up now and then. Made outside an event loop; belongs to
    the one in which it is used until `close`."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        """`resolver`: by default this machine's."""
        self._given = resolver
        self._names: Names | None = None
        self._held: dict[str, tuple[Name, float]] = {}
        """Text → name, and when it was last asked for."""

    async def addresses(self, text: str) -> tuple[str, ...]:
        """The addresses behind a name, or the address itself. OSError when there is none."""
        loop = asyncio.get_running_loop()
        if self._names is None or self._names.loop is not loop:
            self._names = Names(loop, self._given)
            self._held.clear()
        now = loop.time()
        if text not in self._held:
            for old in [old for old, (_, at) in self._held.items() if now - at > UNUSED]:
                del self._held[old]
        name = self._held[text][0] if text in self._held else self._names.get(text)
        self._held[text] = (name, now)
        return name.known() or await name.find()

    def close(self) -> None:
        """Give up what is being asked. Safe to call more than once; lookups may follow."""
        if self._names is not None:
            self._names.close()
        self._names = None
        self._held.clear()
