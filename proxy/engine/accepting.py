"""The protocol with which a new connection of a listener begins."""

from __future__ import annotations

import asyncio

from proxy.engine.flow import as_protocol
from proxy.engine.http1.server import ClientConnection
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.services import Services
from proxy.engine.tcp import TcpArrival
from proxy.engine.tls.peek import Peek
from proxy.engine.tls.server import ServerHandshake


def new_connection(
    services: Services, listener: ListenerConfig, announced: tuple[str, int] | None = None
) -> asyncio.Protocol:
    """The protocol of a connection that was accepted, behind what was `announced` in front of it:
    see `ListenerConfig.client`."""
    if listener.plain:
        return as_protocol(ClientConnection(services, listener, announced))
    challenges = services.challenges
    if listener.settings.tls_passthrough:
        return as_protocol(Peek(services, listener, announced))
    if listener.certificates is not None:
        if challenges is not None and challenges.in_tls:
            return as_protocol(Peek(services, listener, announced))
        return as_protocol(ServerHandshake(services, listener, announced).connection)
    return as_protocol(TcpArrival(services, listener, announced))
