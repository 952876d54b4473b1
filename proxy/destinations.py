"""Where an instance that a registry names may not lead, whatever it is called.

Whoever may write a record is not thereby trusted with the machine of the proxy: a record with the
admin port would open the admin API to every client, one with a metadata service the credentials of
the machine. So each address is looked at when it is connected to, after names are resolved.
`registry.allow` lifts that for networks; instances of the local file are exempt.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

Address = IPv4Address | IPv6Address

LINK_LOCAL: Final = tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10")))
"""RFC 3927 and RFC 4291 §2.5.6. Metadata services of AWS, Azure, Google, DigitalOcean, Hetzner,
Oracle, OpenStack, and of AWS's containers (169.254.170.2) are in these. No router passes them on,
so no registry of more than one machine has a use for them."""
METADATA: Final = tuple(
    map(
        ip_network,
        (
            "fd00:ec2::254/128",  # AWS over IPv6
            "fd20:ce::254/128",  # Google over IPv6
            "fd00:42::42/128",  # Scaleway over IPv6
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure's host agent, which gives out certificates
            "192.0.0.192/32",  # Oracle, older machines
        ),
    )
)
"""Addresses of the same kind that are elsewhere, one by one: the networks around them have other
uses."""
_THIS_HOST: Final = (ip_network("127.0.0.0/8"), ip_network("0.0.0.0/8"))
"""RFC 1122 §3.2.1.3. Linux connects 0.0.0.0 to itself."""
_IPV4_INSIDE: Final = tuple(
    map(
        IPv6Network,
        (
            "::/96",  # IPv4-compatible, RFC 4291 §2.5.5.1
            "::ffff:0:0/96",  # IPv4-mapped, RFC 4291 §2.5.5.2: the socket goes over IPv4
            "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765 §2.1
            "64:ff9b::/96",  # NAT64, RFC 6052 §2.1
            "64:ff9b:1::/48",  # NAT64 of a local translator, RFC 8215; with prefixes of 96 bits
        ),
    )
)
_6TO4: Final = IPv6Network("2002::/16")
"""RFC 3056 §2: the IPv4 address comes after the first 16 bits."""

_KINDS: Final = 4096
"""Addresses whose kind is remembered; each is some 200 bytes."""

HERE: Final = "here"
"""Kind of an address that means this machine to whoever connects to it."""


class Destinations:
    """Says where connections to registered instances may not go. Pure, but for the question to the
    kernel whether an address is one of this machine's."""

    def __init__(
        self,
        admin_port: int = 0,
        allow: Iterable[str] = (),
        is_own: Callable[[str], bool] | None = None,
    ) -> None:
        """See `use`."""
        self._is_own = is_own or is_own_address
        self.use(admin_port, allow)

    def use(self, admin_port: int, allow: Iterable[str]) -> None:
        """Judge by these from here on. `admin_port`: of the admin listener, 0 = none; `allow`:
        networks, as CIDR."""
        self._admin_port = admin_port
        self._allow = tuple(ip_network(network) for network in allow)

    def refusal(self, address: str, port: int) -> str:
        """Why nobody may connect to `address`, an IP address as text; empty: they may."""
        kind = kind_of(address)
        if not kind or kind == HERE:
            if port != self._admin_port or not (kind or self._is_own_one(address)):
                return ""
            kind = f"this machine, and {port} the port of its admin listener"
        if any(_within(one, self._allow) for one in spellings(_parsed(address))):
            return ""
        return f"{address} is {kind}: refused to registered instances (registry.allow)"

    def refusal_of(self, host: str, port: int) -> str:
        """The same for what may be a name, of which nothing is known before it is resolved."""
        try:
            return self.refusal(host, port)
        except ValueError:
            return ""

    def _is_own_one(self, address: str) -> bool:
        return any(self._is_own(str(one)) for one in spellings(_parsed(address)))


@lru_cache(maxsize=_KINDS)  # ≤ _KINDS * 300
def kind_of(address: str) -> str:
    """`HERE` for this machine's own, in words what else is refused, empty for all others."""
    for one in spellings(_parsed(address)):  # ≤ 4
        if _within(one, LINK_LOCAL):
            return "a link-local address"
        if _within(one, METADATA):
            return "the address of a metadata service"
        if one.is_loopback or one.is_unspecified or _within(one, _THIS_HOST):
            return HERE
    return ""


def spellings(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address that it is another spelling of, if it is one."""
    if isinstance(address, IPv4Address) or int(address) < 2:
        return (address,)  # `::` and `::1` are no IPv4 addresses.
    if any(address in network for network in _IPV4_INSIDE):
        return (address, IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _6TO4:
        return (address, IPv4Address((int(address) >> 80) & 0xFFFFFFFF))
    return (address,)


def _parsed(address: str) -> Address:
    return ip_address(address.partition("%")[0])


def _within(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def is_own_address(address: str) -> bool:
    """Would a connection to `address` end at this machine? Asks the kernel each time: addresses
    come and go. One that cannot be asked for is taken for one."""
    ipv6 = ":" in address
    family, elsewhere = (
        (socket.AF_INET6, "2001:db8::1") if ipv6 else (socket.AF_INET, "192.0.2.1")
    )  # RFC 5737, RFC 3849: nobody's.
    if not _can_bind(family, address):
        return False
    if not _can_bind(family, elsewhere):
        return True
    # Any address can be bound to (ip_nonlocal_bind). From whom would a packet to it be?
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False  # It cannot be connected to anyway.
        return bool(probe.getsockname()[0] == address)


def _can_bind(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
