"""Keys of `registry:` for Docker."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, ClassVar, Final, Self

import msgspec

from proxy.settings.addresses import parse_endpoint
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given, Off
from proxy.settings.read import TEXT, Read, parse_text
from proxy.settings.registry import RegistryOptions, RegistryTls, checked_tls


def _parse_daemon(text: str) -> str:
    if not text.startswith("unix:"):
        return parse_endpoint(text)
    path = "/" + parse_text(text.removeprefix("unix:")).lstrip("/")
    # sockaddr_un has 108 bytes for the path and its closing NUL.
    if len(path.encode()) > 107 or path.endswith("/"):
        raise ValueError("is not the path of a socket")
    return f"unix:{path}"


_DAEMON: Final = Read(_parse_daemon, "daemon", "unix:/path, http://host:port or https://host:port")


class Options(RegistryOptions, frozen=True, kw_only=True):
    """One daemon of Docker."""

    type: ClassVar[str] = "docker"

    endpoints: Annotated[
        tuple[str, ...],
        _DAEMON,
        Distinct(),
        "The daemon: `unix:` and the path of its socket, or `http[s]://host:port`. Whoever may use"
        " it is root on its machine.",
    ] = ("unix:/var/run/docker.sock",)
    network: Annotated[
        str, TEXT, "Network whose addresses are used of containers in several ones."
    ] = ""
    tls: Annotated[
        RegistryTls | None,
        Off(),
        "Settings for `https://` endpoints. Host names are always checked.",
    ] = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        return self.endpoints

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """See `RegistryOptions`."""
        tls = self.tls and checked_tls(self.tls, given.at("tls"), directory, report)
        return msgspec.structs.replace(self, tls=tls)
