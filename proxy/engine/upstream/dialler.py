"""The interface of who asks for a connection to an instance."""

from __future__ import annotations

from typing import Protocol

from proxy.engine.node import Node
from proxy.engine.streams import UpstreamStream
from proxy.errors import Fault
from proxy.proxy_header import Ends


class Dialler(Protocol):
    """A caller that waits for a connection."""

    def ends(self) -> Ends | None:
        """The ends of the connection that it is made for; None = it is the proxy's own."""
        ...

    def on_connected(self, node: Node, connection: UpstreamStream) -> None:
        """The connection is up and belongs to the caller."""
        ...

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """There is no connection and there will be none."""
        ...

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        """There is none, either, for a reason that is not the connection's but ours."""
        ...
