"""The TLS layer alone, between a protocol that does what a test says and a peer in its hands.

    layer = Layer(server_side=True)
    layer.far.feed(b"hi")
    assert layer.above.said == [b"hi"]

No HTTP, and no worker: what is asked is what the layer makes of calls and callbacks in any order.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from proxy.engine.flow import as_protocol
from proxy.engine.tls.connection import TlsConnection
from proxy.engine.tls.handshakes import Handshakes
from proxy.tls.contexts import ServerPolicy, client_context, server_context
from tests.support.loop_and_network import FakeTransport, Network, SteppedLoop
from tests.support.tls_far_end import TlsFarEnd, authority


@cache
def server_side() -> ssl.SSLContext:
    """A server's context as listeners have them."""
    return server_context([authority()[1]], ServerPolicy())


@cache
def to_instances() -> ssl.SSLContext:
    """A client's context as the proxy has them."""
    return client_context(authority()[0])


class Above:
    """A protocol above TLS that notes what it is told, in order, and whether it may be.

    Owns what it was told.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.said: list[bytes] = []
        self.ends = 0
        self.lost: list[Exception | None] = []
        self.full = False
        self.unasked = 0
        """Calls of `data_received` while reading was paused, or behind the end."""
        self.holds = False
        """Reading is paused by this protocol."""
        self.on_made: Callable[[], object] = lambda: None
        self.on_data: Callable[[], object] = lambda: None
        self.on_full: Callable[[], object] = lambda: None
        self.goes_on = False
        """What to say to an end."""

    @property
    def heard(self) -> bytes:
        return b"".join(self.said)

    def hold(self) -> None:
        self.holds = True
        self.transport.pause_reading()

    def release(self) -> None:
        self.holds = False
        self.transport.resume_reading()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.on_made()

    def data_received(self, data: bytes) -> None:
        self.unasked += self.holds or self.ends > 0 or bool(self.lost)
        self.said.append(data)
        self.on_data()

    def eof_received(self) -> bool:
        self.unasked += self.holds
        self.ends += 1
        return self.goes_on

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)

    def pause_writing(self) -> None:
        self.full = True
        self.on_full()

    def resume_writing(self) -> None:
        self.full = False


class Layer:
    """One connection of the layer, its peer, and what is above it.

    Owns the loop, and the waiter's notes.
    """

    def __init__(
        self,
        server_side_: bool = True,
        above: Above | None = None,
        late_pause: bool = False,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        shake: bool = True,
        speak: bool = True,
    ) -> None:
        """`server_side_`: which side the layer is; `speak`: as soon as it is secured."""
        self.above = above or Above()
        self.loop = SteppedLoop(Network())
        self.handshakes = Handshakes(self.loop.call_soon)
        self.secured = 0
        self.not_secured: list[Exception | None] = []
        self._speaks = speak
        ours = server_side() if server_side_ else to_instances()
        options: dict[str, Any] = (
            {"server_side": True} if server_side_ else {"server_hostname": "h"}
        )
        self.connection = TlsConnection(
            lambda incoming, outgoing: ours.wrap_bio(incoming, outgoing, **options),
            self,
            self.handshakes,
            self.loop.call_soon,
        )
        self.raw = FakeTransport(
            self.loop, as_protocol(self.connection), peer=None, own=None, late_pause=late_pause
        )
        if server_side_:
            theirs = ssl.create_default_context(cadata=authority()[0].decode())
            theirs.check_hostname = False
        else:
            theirs = server_context([authority()[1]], ServerPolicy())
            theirs.options &= ~ssl.OP_NO_RENEGOTIATION  # Instances do whatever they like.
        theirs.maximum_version = version
        self.far = TlsFarEnd(self.raw, theirs, server_side=not server_side_)
        if shake:
            self.far.shake(self.settle)

    def on_open(self, connection: TlsConnection) -> None:
        """See `Secured`."""

    def on_secured(self, connection: TlsConnection) -> None:
        """See `Secured`."""
        self.secured += 1
        if self._speaks:
            connection.speak(self.above)

    def on_not_secured(self, connection: TlsConnection, error: Exception | None) -> None:
        """See `Secured`."""
        self.not_secured.append(error)
        connection.transport.close()

    def settle(self) -> None:
        """Until nothing moves."""
        while self.loop.run_ready() or self.raw.deliver() or self.raw.deliver_lost():
            pass

    def feed(self, *pieces: bytes) -> None:
        """The peer says it, each piece in a read."""
        self.far.feed(*pieces)
        self.settle()

    def taken(self) -> bytes:
        """What the peer has heard since the last look."""
        taken = bytes(self.far.taken)
        cast(bytearray, self.far.taken).clear()
        return taken
