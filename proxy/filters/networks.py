"""`allow` and `deny`: who may ask, by the client's address."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Annotated, ClassVar, Final

from proxy.errors import DENIED, Refused
from proxy.filters.base import Filter, FilterOptions
from proxy.filters.message import Request
from proxy.http.client_address import parse
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import RequestHead
from proxy.settings.addresses import CIDR
from proxy.settings.declare import Distinct


@lru_cache(maxsize=1024)  # ≤ 512 KiB
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    return parse(address.encode("ascii"))


class Networks:
    """Addresses that lie in any of some networks."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._networks: Final = [ip_network(one) for one in networks]  # ≤ 1 MiB

    def __contains__(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in one for one in self._networks)


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `allow` and of `deny`."""

    networks: Annotated[
        tuple[str, ...],
        CIDR,
        Distinct(),
        "Networks such as `10.0.0.0/8`, or addresses. A list in place of the mapping is short for"
        " these.",
    ]


class Allow(Filter):
    """Refusal of clients that are in none of the networks."""

    options: ClassVar[type[FilterOptions] | None] = Options
    short: ClassVar[str] = "networks"
    meaning: ClassVar[str] = "Only clients in these networks; others get 403."

    def __init__(self, options: Options) -> None:
        self._networks = Networks(options.networks)

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """See `Filter`."""
        return facts.client(request.fields).decode("ascii") in self._networks

    def on_request(self, request: Request) -> None:
        """See `Filter`. Of whom no address is known is in none: a connection over a Unix socket."""
        if request.client not in self._networks:
            raise Refused(DENIED, "the client's address is not allowed")


class Deny(Allow):
    """Refusal of clients that are in one of the networks."""

    meaning: ClassVar[str] = "No clients in these networks; they get 403."

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """See `Filter`."""
        return not super().edits_only(request, facts)

    def on_request(self, request: Request) -> None:
        """See `Filter`."""
        if request.client in self._networks:
            raise Refused(DENIED, "the client's address is denied")
