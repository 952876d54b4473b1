"""Keys of `registry:` for relays."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, ClassVar, Self

from proxy.settings.addresses import ENDPOINT
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.read import SECRET
from proxy.settings.registry import RemoteOptions, TokenFile


class Options(RemoteOptions, frozen=True, kw_only=True):
    """Relays of one registry, of which one is followed at a time."""

    type: ClassVar[str] = "relay"

    endpoints: Annotated[
        tuple[str, ...],
        ENDPOINT,
        Distinct(),
        "`http://host:port` or `https://host:port` of each relay. Required.",
    ] = ()
    token: Annotated[str, SECRET, "The relays' `relay.token`."] = ""
    token_file: TokenFile = None

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """See `RegistryOptions`."""
        if self.username and report.sound(given.at("username")):
            message = "has no meaning for type relay; allowed: a token"
            report.complain(given.at("username"), message)
        return super().checked(given, directory, report)
