"""Keys of `registry:` for Docker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from proxy.settings.addresses import parse_endpoint
from proxy.settings.declare import Distinct
from proxy.settings.read import TEXT, Read, parse_text
from proxy.settings.registry import RegistryOptions, Tls


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
    tls: Tls = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        return self.endpoints
