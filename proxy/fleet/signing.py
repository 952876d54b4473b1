"""Requests that proxies of a fleet ask each other, signed with a key that they share. Pure.

A signature is good for one question at one address, once, for half a minute; and for reading alone.
So a server that somebody else has put on the list of proxies can do nothing with one that it was
sent: the address in it is its own, and no proxy answers to that.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

SCHEME: Final = "Fairlead-Fleet"
ASKED: Final = "/api/v1/services"
"""The one target that may be asked for so."""
SKEW: Final = 30.0
"""Seconds that clocks may differ, and a request be on its way."""
MOST_SEEN: Final = 4_096
"""Signatures that are remembered so that none counts twice: those of a minute. Only who has the key
can add to them; beyond that nobody is believed for a while."""

_HEADER: Final = re.compile(
    rf"{SCHEME} from=([A-Za-z0-9_.:~@+-]{{1,128}}), at=([0-9]{{1,12}}), nonce=([0-9a-f]{{32}}),"
    r" mac=([0-9a-f]{64})"
)


def sign(key: bytes, sender: str, authority: str, target: str, now: float, nonce: bytes) -> str:
    """Value of `Authorization` for a GET of `target` at `authority`; `now`: seconds since 1970;
    `nonce`: 16 random bytes."""
    at = str(int(now))
    mac = _mac(key, sender, authority, target, at, nonce.hex())
    return f"{SCHEME} from={sender}, at={at}, nonce={nonce.hex()}, mac={mac}"


def _mac(key: bytes, *parts: str) -> str:
    return hmac.new(key, "\n".join(("1", "GET", *parts)).encode(), "sha256").hexdigest()


class Signatures:
    """Owns the signatures that were used of late."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        """Nonce → until when it is remembered."""

    def refusal(self, key: bytes, value: str, authority: str, target: str, now: float) -> str:
        """Why a signature is not believed; "" = it is, this once. `authority`: where this proxy is
        reached, as it tells others."""
        found = _HEADER.fullmatch(value)
        if found is None:
            return "is no signature"
        sender, at, nonce, mac = found.groups()
        wanted = _mac(key, sender, authority, target, at, nonce)
        if not authority or not hmac.compare_digest(mac, wanted):
            return "is not signed with the fleet's key for this address"
        if abs(int(at) - now) > SKEW:
            return f"is of another time; clocks may differ by {SKEW:g} s"
        self._seen = {one: until for one, until in self._seen.items() if until > now}
        if nonce in self._seen or len(self._seen) >= MOST_SEEN:
            return "was used before"
        self._seen[nonce] = now + 2 * SKEW
        return ""


def authority_of(url: str) -> str:
    """Host and port of a URL that proxies are reached at; "" = it is not under TLS."""
    return url.removeprefix("https://") if url.startswith("https://") else ""
