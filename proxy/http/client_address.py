"""The address that counts: that of the client, also behind proxies that say whose it is.

A trusted proxy appends whom it speaks for to a field. What stands at the right was written by
who is near; what stands at the left may be anybody's invention. So the field is read from the
right, and never further than trust reaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import RequestFields

FURTHEST: Final = 32
"""Addresses of one field that are looked at, and the most that `hops` may be: nobody has as many
proxies in a row, and a head full of trusted addresses must not cost more than another one."""
_FAR: Final = 8 * 1024
"""Bytes of a value that are looked at: twice what so many elements of `Forwarded` take."""
_ROOM: Final = 512 * 1024
"""Bytes of remembered values of the field, with the addresses in them: of a thousand clients and
more."""
_LARGEST: Final = 512
"""Bytes of one of them: a chain of some twenty addresses."""

_PORT: Final = re.compile(rb"\d{0,5}|_[A-Za-z0-9._-]+")  # RFC 7239 §6.2 allows invented ones.
_ELEMENT: Final = re.compile(rb'(?:[^",]+|"[^"]*")*')
_PAIR: Final = re.compile(rb'(?:[^";]+|"[^"]*")+')
_FORWARDED: Final = b"forwarded"


def parse(text: bytes) -> IPv4Address | IPv6Address | None:
    """The address in one entry: `1.2.3.4`, `1.2.3.4:567`, `2001:db8::1`, `[2001:db8::1]:567`, in
    quotes or not, with a zone or not. None for what is no address: `unknown`, `_hidden`, nothing.
    An IPv4 address in the clothes of IPv6 (RFC 4291 §2.5.5.2) is one of IPv4."""
    text = text.strip(b" \t")
    if len(text) >= 2 and text[:1] == text[-1:] == b'"':
        text = text[1:-1].strip(b" \t")
    port = b""
    if text[:1] == b"[":
        text, bracket, rest = text[1:].partition(b"]")
        if not bracket or (rest and rest[:1] != b":"):
            return None
        port = rest[1:]
        if b":" not in text:
            return None
    elif text.count(b":") == 1:
        text, _, port = text.partition(b":")
    if not _PORT.fullmatch(port):
        return None
    try:
        # A zone is a name that some other machine gave to one of its links.
        address = ip_address(text.partition(b"%")[0].decode("latin-1"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(text: str) -> IPv4Network | IPv6Network:
    """A network of `trusted_proxies`; addresses are compared as `parse` gives them."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _of_forwarded(value: bytes) -> Iterator[bytes]:
    """The `for` of each element of RFC 7239, from the right. Quotes are counted from the right,
    too: one that a client left open at the left swallows nothing that was appended to it."""
    mirrored = value[::-1]
    at = 0
    while True:  # ≤ FURTHEST + 1
        match = _ELEMENT.match(mirrored, at)
        assert match is not None  # It matches nothing, too.
        at = match.end()
        if at < len(mirrored) and mirrored[at] != ord(","):
            yield b""  # A quote without its other half.
            return
        pairs = [pair.partition(b"=") for pair in _PAIR.findall(match[0][::-1])]
        named = [said for name, _, said in pairs if name.strip(b" \t").lower() == b"for"]
        yield named[0] if len(named) == 1 else b""
        at += 1
        if at > len(mirrored):
            return


def _of_list(value: bytes) -> Iterator[bytes]:
    entries = value.rsplit(b",", FURTHEST)
    entries.reverse()
    return iter(entries)


class ClientAddresses:
    """Trust in the peers of one listener, and the clients that they speak for. Owns the addresses
    found in the latest values of the field."""

    __slots__ = ("_field", "_hops", "_networks", "_remembered", "_values")

    def __init__(self, trusted: Sequence[str], header: str, hops: int) -> None:
        """`trusted`: networks; `header`, `hops`: see `listeners.*.client_ip`."""
        self._networks = tuple(map(_network, trusted))
        self._field = header.lower().encode("ascii")
        self._hops = hops
        self._values = _of_forwarded if self._field == _FORWARDED else _of_list
        self._remembered: Memo[bytes, bytes] = Memo(_ROOM, ENTRY + _LARGEST)  # ≤ _ROOM

    @property
    def trusts_any(self) -> bool:
        """There are trusted peers at all."""
        return bool(self._networks)

    def trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        """Whether a peer may speak for others."""
        return address is not None and any(address in network for network in self._networks)

    def find(self, fields: RequestFields, peer: bytes) -> bytes:
        """The client of a request that came from `peer`, which is trusted, in one spelling."""
        value = fields.claims.get(self._field)
        if value is None:
            # Only to pass it on was up to `Connection`, which any client may have written.
            value = fields.claims_named.get(self._field)
            if value is None:
                return peer
        found = self._remembered.young.get(value)
        if found is None:
            found = self._remembered.old.get(value)
            if found is None:
                found = self._read(value)
            self._remembered.put(value, found, ENTRY + len(value))
        return found or peer

    def _read(self, value: bytes) -> bytes:
        """Empty: the peer itself is all that is known."""
        if len(value) > _FAR:
            value = value[-_FAR:].partition(b",")[2]
        known: IPv4Address | IPv6Address | None = None
        for number, entry in enumerate(self._values(value), 1):  # ≤ FURTHEST + 1
            if number > FURTHEST:
                break
            if self._hops:
                if number < self._hops:
                    continue
                known = parse(entry)
                break
            address = parse(entry)
            if address is None:
                break  # Who stands further left was not named by anybody we know.
            known = address
            if not self.trusts(address):
                break
        return b"" if known is None else str(known).encode("ascii")
