"""Keys of `registry:` for lists on HTTP servers."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, ClassVar, Self

from proxy.settings.addresses import URL
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.read import POSITIVE, SECRET, TEXT
from proxy.settings.registry import RemoteOptions, TokenFile


class Options(RemoteOptions, frozen=True, kw_only=True):
    """One list, which all endpoints have."""

    type: ClassVar[str] = "http"
    form: ClassVar[str] = "http://host:port/path"

    endpoints: Annotated[
        tuple[str, ...],
        URL,
        Distinct(),
        "`http://host:port/path` or `https://…` of the list; of several, which have the same list,"
        " one is asked at a time. Required.",
    ] = ()
    interval: Annotated[float, POSITIVE, "Time between two questions."] = 10.0
    service_label: Annotated[
        str, TEXT, "The label that names the service, of groups of targets with labels."
    ] = "service"
    token: Annotated[str, SECRET, "Bearer token to show."] = ""
    token_file: TokenFile = None

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """See `RegistryOptions`."""
        if (self.token or self.token_file) and self.username and report.sound(given.at("username")):
            report.complain(given.at("username"), "stands beside a token; allowed: one of them")
        return super().checked(given, directory, report)
