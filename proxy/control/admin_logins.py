"""How often somebody may try to log in to the dashboard. Pure.

A token in Authorization is not counted: whoever asks for metrics from the same address, behind the
same gateway, must not be locked out by somebody else's typing mistakes, and a token is longer than
anybody can guess. A person who types one is told to wait.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

FREE: Final = 5
"""Failures of an address that cost no wait: somebody copies a token with a blank, and again."""
LONGEST: Final = 300.0
"""Seconds of the longest wait: after FREE failures it is one second, and doubles with each more."""
FORGET: Final = 3600.0
"""Seconds after which an address begins anew."""
ADDRESSES: Final = 1024
"""Addresses that are remembered; one more forgets the oldest."""
AT_ONCE: Final = 50
EACH: Final = 5.0
"""Failures of all addresses together, and the seconds that each further one takes: many addresses
guess no faster than one. Those that have logged in before are let through."""


def network_of(address: str) -> str:
    """The addresses that are one and the same: one of IPv4, and of IPv6 all that a host has."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.exploded[:19]


class Logins:
    """Owns the failures to log in of late, and who did not fail."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}
        """Network → failures, and when the latest was."""
        self._known: dict[str, None] = {}
        """Networks that have logged in, the oldest first."""
        self._spent = 0.0
        """Seconds of failures of all that are not paid off yet, as of `_at`."""
        self._at = 0.0

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may try; 0 = it may."""
        network = network_of(address)
        count, at = self._failed.get(network, (0, now))
        own = 0.0
        if count > FREE and now - at < FORGET:
            own = at + min(LONGEST, 2.0 ** min(count - FREE - 1, 16)) - now
        if network in self._known:
            return max(0.0, own)
        return max(0.0, own, self._spent - (now - self._at) - (AT_ONCE - 1) * EACH)

    def failed(self, address: str, now: float) -> None:
        """Count a token that was wrong."""
        network = network_of(address)
        count, at = self._failed.pop(network, (0, now))
        self._failed[network] = (1 if now - at >= FORGET else count + 1), now
        if len(self._failed) > ADDRESSES:
            del self._failed[next(iter(self._failed))]
        self._spent = max(0.0, self._spent - (now - self._at)) + EACH
        self._at = now

    def succeeded(self, address: str) -> None:
        """Forget the failures of whoever has the token."""
        network = network_of(address)
        self._failed.pop(network, None)
        self._known.pop(network, None)
        self._known[network] = None
        if len(self._known) > ADDRESSES:
            del self._known[next(iter(self._known))]
