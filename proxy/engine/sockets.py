"""Listening sockets of a worker: from where they come, and how they end."""

from __future__ import annotations

import asyncio
import socket
import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final

from proxy.channel import receive_sockets
from proxy.engine.listener_config import ListenerConfig
from proxy.engine.listener_counts import ListenerCounts
from proxy.messages import BACKLOG

LAST_ACCEPTS = 0.2
"""Seconds from the last SYN that is taken to the end of a socket: a full backlog is accepted many
times over in them, and clients a fifth of a second away finish their handshakes."""

_ATTACH_FILTER: Final = 26
"""SO_ATTACH_FILTER, which the module `socket` does not name."""
_NO_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # the flags of TCP
        (0x54, 0, 0, 0x12),  # SYN and ACK
        (0x15, 0, 1, 0x02),  # SYN alone: the next; else the one after
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # take
    )
)
"""A classic BPF program: drops segments that begin a connection."""


class _Listening:
    """A listening socket."""

    __slots__ = ("facts", "lasting", "server", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.facts: ListenerConfig | None = None
        """Facts for its connections; None = its configuration was refused."""
        self.lasting = False
        """The service manager listens on it when this process has ended."""
        self.server: asyncio.Server | None = None
        """Accepts from it."""


class Sockets:
    """Owns the listening sockets of a worker, by the numbers that the control process gave them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptors: socket.socket | None,
        connection: Callable[[ListenerConfig], asyncio.Protocol],
    ) -> None:
        """`descriptors`: brings sockets; `connection`: the protocol of a new connection."""
        self._loop = loop
        self._descriptors = descriptors
        self._connection = connection
        self._by_number: dict[int, _Listening] = {}  # ≤ 1 KiB + 256 KiB per listener

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def open(self) -> tuple[int, ...]:
        """Numbers of those that are accepted from."""
        return tuple(number for number, each in self._by_number.items() if each.server is not None)

    def receive(self, numbers: Iterable[int]) -> None:
        """Take over those that are new. OSError when they are not to be had."""
        while not self._by_number.keys() >= {*numbers}:  # ≤ 256
            assert self._descriptors is not None
            for number, sock in receive_sockets(self._descriptors).items():  # ≤ 256
                sock.setblocking(False)
                self._by_number[number] = _Listening(sock)

    def renamed(self, names: Mapping[int, str], kept: Collection[str]) -> dict[str, ListenerCounts]:
        """Counts of listeners that have other names now: by the new one. `kept`: names that there
        are on."""
        found = {}
        for number, name in names.items():  # ≤ 256 per listener
            facts = self._by_number[number].facts
            if facts is not None and facts.settings.name not in kept:
                found[name] = facts.counts
        return found

    def use(
        self,
        names: Mapping[int, str],
        listeners: Mapping[str, ListenerConfig],
        lasting: Collection[int],
    ) -> None:
        """Facts for connections from here on. Sockets that are not named keep what they have."""
        ports: dict[str, set[int]] = {}
        for number, name in names.items():  # ≤ 256 per listener
            each = self._by_number[number]
            each.facts = listeners[name]
            each.lasting = number in lasting
            unix = each.sock.family == socket.AF_UNIX
            ports.setdefault(name, set()).add(0 if unix else each.sock.getsockname()[1])
        for name, found in ports.items():  # ≤ 256
            listeners[name].port = found.pop() if len(found) == 1 else 0

    async def accept(self) -> None:
        """Accept from all."""
        for each in list(self._by_number.values()):  # ≤ 256 per listener
            if each.server is not None or each.facts is None:
                continue
            make = partial(self._accepted, each)
            if each.sock.family == socket.AF_UNIX:
                each.server = await self._loop.create_unix_server(
                    make, sock=each.sock, backlog=BACKLOG
                )
            else:
                each.server = await self._loop.create_server(make, sock=each.sock, backlog=BACKLOG)

    def _accepted(self, listening: _Listening) -> asyncio.Protocol:
        assert listening.facts is not None
        return self._connection(listening.facts)

    def release(self, numbers: Iterable[int]) -> list[_Listening]:
        """Sockets that are not the worker's any more, for `close`."""
        found = [self._by_number.pop(number, None) for number in list(numbers)]
        return [each for each in found if each is not None]

    def release_all(self) -> list[_Listening]:
        """All sockets, for `close`."""
        return self.release(self._by_number)

    async def close(self, released: Collection[_Listening], last: bool) -> None:
        """Accept from these no more. `last`: nobody does, and who waits in them must not be reset:
        no more may join, and those who have are accepted before the end."""
        ending = [each for each in released if last and not each.lasting]
        if any(each.server is not None for each in ending):
            for each in ending:  # ≤ 256 per listener
                _end_arrivals(each.sock)
            await asyncio.sleep(LAST_ACCEPTS)
        for each in released:  # ≤ 256 per listener
            if each.server is not None:
                each.server.close()
            else:
                each.sock.close()
        # The loop may have accepted somebody in this very turn, and tells of it in the next.
        await asyncio.sleep(0)


def _end_arrivals(sock: socket.socket) -> None:
    """Let nobody more into the queue of a socket. Clients whose SYN is dropped try again a second
    later, and find the port closed, or somebody else's; those in the middle of the handshake come
    in. The file of a unix socket is gone by now, so nobody finds that."""
    if sock.family == socket.AF_UNIX:
        return
    code = array("B", _NO_SYN)
    program = struct.pack("HL", len(_NO_SYN) // 8, code.buffer_info()[0])
    try:
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
    except OSError:
        sock.listen(0)  # A kernel without it: no more than one may join at a time.
