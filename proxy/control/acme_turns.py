"""Words in which orders of certificates are spoken of, by one proxy and among several."""

from __future__ import annotations

import msgspec

from proxy.messages import CertificatePair

Challenges = tuple[dict[str, str], dict[str, CertificatePair]]
"""Token → answer, and name → certificate: what workers are to answer."""


class Busy(Exception):
    """Another proxy of the fleet orders."""


class Failure(msgspec.Struct, frozen=True):
    """The last order for a name, which failed; whoever in the fleet made it."""

    failures: int
    retry: float
    """No order before: seconds since 1970."""
    problem: str
