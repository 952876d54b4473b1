"""`mirror:`, copies of requests."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.settings.addresses import NAME
from proxy.settings.read import SHARE


class MirrorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A service that gets copies of requests."""

    service: Annotated[str, NAME, "The service that gets copies; its answers are thrown away."]
    share: Annotated[float, SHARE, "Share of the requests that are copied, at random."] = 1.0
