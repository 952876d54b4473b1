"""Keys of Consul as it answers them."""

from __future__ import annotations

from uuid import UUID

import msgspec

from proxy.registry.base import BadReply


class Pair(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """A key in an answer."""

    key: str
    modify_index: int
    value: bytes | None = None
    session: str = ""
    """Owner of the key, which may take it along."""

    @property
    def lease(self) -> int:
        """The session as a number; 0 = none. BadReply for what is no session."""
        try:
            return UUID(self.session).int if self.session else 0
        except ValueError:
            raise BadReply(f"not a session of Consul: {self.session[:60]!r}") from None
