"""Facts of a listener's configuration, as its connections need them."""

from __future__ import annotations

import asyncio
import sys
from ipaddress import IPv4Address
from math import ceil

from proxy.engine.edge import Edge
from proxy.engine.http1.parser import call_a_claim
from proxy.engine.listener_counts import ListenerCounts
from proxy.engine.tls.certificates import ServerCertificates
from proxy.engine.tls.transport import TlsTransport
from proxy.http.client_address import ClientAddresses
from proxy.http.client_address import parse as parse_address
from proxy.http.forwarding import ClientFacts
from proxy.http.request_id import IdField
from proxy.http.tls_facts import TlsFacts
from proxy.proxy_header import Ends
from proxy.settings.listener import ListenerSettings


def ends_of(transport: asyncio.BaseTransport, announced: tuple[str, int] | None) -> Ends | None:
    """The ends of a client's connection; None for a socket that has no addresses. `announced`: see
    `ListenerConfig.client`."""
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not isinstance(peer, tuple) or not isinstance(own, tuple):
        return None
    if announced is not None:
        return Ends(announced[0], 0, own[0], announced[1])
    return Ends(peer[0], peer[1], own[0], own[1])


class ListenerConfig:
    """Facts that all connections of one listener share. Built once per configuration."""

    def __init__(
        self,
        settings: ListenerSettings,
        via: bytes,
        workers: int,
        ids: IdField,
        certificates: ServerCertificates | None = None,
        counts: ListenerCounts | None = None,
    ) -> None:
        """`certificates`: what a listener with TLS proves itself with; `counts`: those of the
        configuration before."""
        self.settings = settings
        self.ids = ids
        self.limits = limits = settings.limits
        self.timeouts = settings.timeouts
        # What each request or connection asks: in settings it takes five times as long to find.
        self.max_head, self.max_fields = limits.head, limits.fields
        self.max_target, self.max_body = limits.target, limits.body
        self.max_requests, self.max_streams = limits.requests, limits.streams
        self.max_age = limits.connection_age
        self.head, self.idle = settings.timeouts.head, settings.timeouts.idle
        self.ends_loops, self.forwarded = settings.ends_loops, settings.forwarded
        self.merge_slashes, self.encoded_slashes = settings.merge_slashes, settings.encoded_slashes
        self.name = settings.name
        tcp = settings.tls_passthrough or settings.mode_tcp is not None
        self.plain = certificates is None and not tcp
        """HTTP begins with a connection's first byte."""
        self.via = via
        self.port = 0
        """Of its sockets; 0 = not the same for all, or not known: each connection is asked."""
        self.room = ceil(limits.connections / workers) or sys.maxsize
        """Connections that this worker may have open on the listener. The kernel spreads them
        evenly, so each worker keeps its share of the limit."""
        self.certificates = certificates
        self.counts = counts or ListenerCounts()
        self.counts.per_client = limits.connections_per_client
        self.half_close = settings.client_close == "half_close"
        """A client that has said its last byte may still read, and is served."""
        self.hsts = b"" if settings.hsts is None else settings.hsts.line
        """A field line for all answers."""
        redirect = settings.redirect_to_https
        self._redirecting = None if redirect is None else Edge(redirect)
        named = settings.client_ip
        call_a_claim(named.header.lower().encode("ascii"))
        self._addresses = ClientAddresses(settings.trusted_proxies, named.header, named.hops)

    def edge(self, transport: asyncio.Transport) -> Edge | None:
        """Demands on the requests of a connection."""
        if self.certificates is None:
            return self._redirecting
        return self.certificates.edge(transport.get_extra_info("tls"))

    def client(
        self, transport: asyncio.Transport, announced: tuple[str, int] | None
    ) -> ClientFacts:
        """The facts of a new connection. `announced`: the address it comes from and the port it
        was made to, where somebody in front of us said so."""
        facts = self._client(transport, announced)
        facts.transport, facts.announced = transport, announced
        facts.ends_loops = self.ends_loops
        if self.certificates is not None:
            connection: TlsTransport | None = transport.get_extra_info("tls")
            lines = self.certificates.shown(connection)
            facts.caller = self.certificates.caller(connection)
            if lines:
                facts.show(lines)
            if connection is not None:
                facts.tls = TlsFacts(connection.ssl)
        return facts

    def _client(
        self, transport: asyncio.Transport, announced: tuple[str, int] | None
    ) -> ClientFacts:
        peer = transport.get_extra_info("peername")
        if announced is not None:
            return self._facts(*announced)
        if not isinstance(peer, tuple):
            # A unix socket: whoever can open the file is local, and has no address. Or a
            # client that has reset its connection already: nobody to trust.
            local = self.settings.bind.startswith("unix:")
            return self._facts("", 0, local and self._addresses.trusts_any)
        port = self.port or int(transport.get_extra_info("sockname")[1])
        return self._facts(str(peer[0]), port)

    def _facts(self, peer: str, port: int, trusted: bool = False) -> ClientFacts:
        # An address of IPv4 has one spelling, and reading it costs more than all the rest here.
        if ":" in peer or self._addresses.trusts_any:
            parsed = parse_address(peer.encode("ascii"))
            if isinstance(parsed, IPv4Address):
                peer = str(parsed)  # It may have come to a socket that serves both families.
            trusted = trusted or self._addresses.trusts(parsed)
        addresses = self._addresses if trusted else None
        return ClientFacts(
            peer or "unknown",
            port,
            addresses,
            self.via,
            b"http" if self.certificates is None else b"https",
            forwarded=self.forwarded,
            merge_slashes=self.merge_slashes,
            encoded_slashes=self.encoded_slashes,
            listener=self.name,
        )
