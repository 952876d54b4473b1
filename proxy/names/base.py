"""`Resolver`: the seam between what asks for names and what answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple


class Answer(NamedTuple):
    """The addresses behind a name, in the order in which to try them (RFC 6724)."""

    addresses: tuple[str, ...]
    """IPv4 and IPv6 addresses as text; at least one."""
    ttl: float
    """Seconds for which they hold, by the name server's word; 0 = it said nothing, or not to keep
    them."""


class Unresolved(OSError):
    """There is no address for a name."""

    def __init__(self, reason: str, denied: bool = False) -> None:
        """`denied`: a name server was reached, and says that there is none."""
        super().__init__(reason)
        self.denied = denied

    def again(self) -> Unresolved:
        """The same to be raised: an exception that is kept, and raised each time, would keep a
        trace of each."""
        return Unresolved(str(self), self.denied)


Told = Callable[[Answer | Unresolved], None]


class Resolver(ABC):
    """Asks for one name at a time, any number of them at once."""

    @abstractmethod
    def ask(self, name: str, told: Told) -> None:
        """Look up `name`, a host name in ASCII. `told` hears of the result exactly once, in a later
        turn of the event loop, within some ten seconds whatever the name servers do."""

    @abstractmethod
    def close(self) -> None:
        """Give up every question; nobody is told. Safe to call more than once."""
