"""Peers that hang up while nobody reads them.

The event loop hears that a connection has ended by reading it. A connection whose reading is
paused (see `ReadGate`), or which has ended in its direction and is kept for the other one, may be
reset without anybody being told. The kernel knows, and tells a second poller, in which such
connections stand from the first time on that they are not read. One that is always read never
gets there and costs nothing.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final

ENDED: Final = select.EPOLLRDHUP
"""The peer has said its last byte (FIN). It may still read."""
RESET: Final = select.EPOLLERR
"""The connection is gone in both directions. Not EPOLLHUP: that also says that both sides have
ended it in good order, with bytes that are still to be read."""

_MOST: Final = 256
"""Hang-ups looked at in one turn of the loop, so that others have theirs."""


def has_ended(transport: asyncio.Transport) -> bool:
    """Whether the kernel knows that the other end has said its last byte, or is gone, which the
    loop may hear of in a moment. One system call."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))


class Watch:
    """One connection that is watched: what was heard of it so far, and who wants to know."""

    __slots__ = ("call", "fd", "heard")

    def __init__(self, fd: int, call: Callable[[], None]) -> None:
        self.fd = fd
        self.call = call
        self.heard = 0
        """`ENDED`, `RESET`, and other bits of epoll."""


class Hangups:
    """Owns the second poller of a worker, and which connection stands in it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Callable[[], select.epoll] = select.epoll,
    ) -> None:
        """`poller` makes one; it is made when there is something to watch."""
        self._loop = loop
        self._make = poller
        self._poller: select.epoll | None = None
        self._watches: dict[int, Watch] = {}  # ≤ 1 KiB + 400 B per connection

    def __len__(self) -> int:
        """Connections that are watched."""
        return len(self._watches)

    def watch(self, transport: asyncio.Transport, call: Callable[[], None]) -> Watch | None:
        """Have `call()` called, in a turn of the loop of its own, whenever something is heard of
        the other end; it finds that in `heard`. Until `forget`, also while the connection is
        read, when the loop tells of its end as well. None: there is nothing to watch, or no
        descriptor to do it with, and the limits in time must do."""
        sock = transport.get_extra_info("socket")
        if sock is None or transport.is_closing():
            return None
        watch = Watch(sock.fileno(), call)
        try:
            if self._poller is None:
                self._poller = self._make()
                self._loop.add_reader(self._poller.fileno(), self._on_ready)
            # Edge-triggered: what was heard is told once, not in each turn until the connection is
            # closed.
            self._poller.register(watch.fd, ENDED | select.EPOLLET)
        except OSError:
            return None
        self._watches[watch.fd] = watch
        return watch

    def tell(self, watch: Watch) -> None:
        """Have it called. In a turn of its own: one that fails must not take others with it, which
        are told of their edge only once."""
        self._loop.call_soon(watch.call)

    def forget(self, watch: Watch) -> None:
        """The connection is closed, or somebody else's from here on."""
        if self._watches.get(watch.fd) is not watch:
            return  # It was closed before, and its descriptor is another connection's by now.
        del self._watches[watch.fd]
        if self._poller is not None:
            try:
                self._poller.unregister(watch.fd)
            except OSError:
                pass  # Closed: the kernel has done it.

    def close(self) -> None:
        """The worker stops."""
        self._watches.clear()
        if self._poller is not None:
            self._loop.remove_reader(self._poller.fileno())
            self._poller.close()
            self._poller = None

    def _on_ready(self) -> None:
        if self._poller is None:
            return
        for fd, events in self._poller.poll(0, _MOST):  # ≤ _MOST
            watch = self._watches.get(fd)
            if watch is not None:
                watch.heard |= events
                self.tell(watch)
