"""Questions to the name servers of this machine, through c-ares. The only importer of `pycares`.

c-ares reads resolv.conf (servers, search, ndots), nsswitch.conf and the hosts file as the system's
own resolver does, tells how long an answer holds, and needs no thread: its sockets are watched by
the event loop. What it does not do is ask again before an answer ends, since it keeps answers
itself, or notice a resolv.conf that a container's engine replaced. Both end with a new channel.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from typing import Any, Final

import pycares

from proxy.names.base import Answer, Resolver, Told, Unresolved

TIMEOUT: Final = 1.0
"""Seconds for the first try at each server, doubled in each round. Name servers of a data centre
answer in milliseconds, and with two of them, one of which is dead, a request that waits three
seconds for its connection is still served."""
TRIES: Final = 3
"""Rounds. With one server that is 7 s until a question is given up."""
SHORTEST: Final = 0.02
LONGEST: Final = 0.25
"""Seconds between two looks at what has timed out: c-ares has no clock of its own."""

_DENIED: Final = frozenset((pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_ENODATA))
_GIVEN_UP: Final = frozenset((pycares.errno.ARES_ECANCELLED, pycares.errno.ARES_EDESTRUCTION))

_ENV_HOSTS: Final = 1 << 8
"""ARES_AI_ENVHOSTS of ares.h: read the file that `CARES_HOSTS` names, and none if it names none.
The binding has no name for it."""

SERVERS: Final = "FAIRLEAD_DNS_SERVERS"
"""Environment variable: name servers, `address` or `address:port` with commas between them, in
place of those of resolv.conf."""
HOSTS: Final = "CARES_HOSTS"
"""Environment variable of c-ares: another file than /etc/hosts."""


class CaresResolver(Resolver):
    """Owns the channels with questions under way, of which the newest takes new ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._servers = tuple(filter(None, os.environ.get(SERVERS, "").split(",")))
        self._channels: set[_Channel] = set()  # ≤ 1 KiB + 400 B per name
        self._newest: _Channel | None = None
        self._files: tuple[object, ...] = ()

    def ask(self, name: str, told: Told) -> None:
        try:
            self._channel_for(name).ask(name, told)
        except (pycares.AresError, UnicodeError, OSError) as error:
            # No memory, or no descriptor.
            self._loop.call_soon(told, Unresolved(f"cannot ask for {name}: {error}"))

    def close(self) -> None:
        for channel in list(self._channels):  # ≤ names
            channel.close()
        self._newest = None

    def _channel_for(self, name: str) -> _Channel:
        """The newest one, unless it would answer `name` from its memory or by files that are others
        now."""
        files = tuple(map(_signature, ("/etc/resolv.conf", os.environ.get(HOSTS) or "/etc/hosts")))
        newest = self._newest
        if newest is None or newest.remembers(name) or files != self._files:
            if newest is not None:
                newest.retire()
            self._files = files
            newest = self._newest = _Channel(
                self._loop,
                self._channels,
                timeout=TIMEOUT,
                tries=TRIES,
                servers=self._servers or None,
            )
        return newest


class _Channel:
    """Owns one channel of c-ares: its sockets in the loop, and the timer while it is asking."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, open_: set[_Channel], **options: Any
    ) -> None:
        """`open_`: where it is to be found until it is closed."""
        self._loop = loop
        self._open = open_
        self._asked: set[str] = set()  # ≤ 1 KiB + 400 B per name
        """Names that it may remember."""
        self._pending = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reading: set[int] = set()  # ≤ 4 KiB
        self._writing: set[int] = set()  # ≤ 4 KiB
        self._retired = False
        self._closed = False
        self._channel = pycares.Channel(sock_state_cb=self._watch, **options)
        open_.add(self)

    def remembers(self, name: str) -> bool:
        """Whether `name` was asked for before, and has an answer that might be given again."""
        return name in self._asked

    def ask(self, name: str, told: Told) -> None:
        """See `Resolver.ask`."""
        self._asked.add(name)
        self._pending += 1
        try:
            self._channel.getaddrinfo(
                name,
                None,
                family=socket.AF_UNSPEC,
                type=socket.SOCK_STREAM,
                flags=_ENV_HOSTS if os.environ.get(HOSTS) else 0,
                callback=partial(self._on_result, name, told),
            )
        except BaseException:
            self._pending -= 1
            raise
        self._set_timer()

    def retire(self) -> None:
        """Take no more questions, and close after the last answer."""
        self._retired = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        """Close the channel; from now on no caller is told."""
        if self._closed:
            return
        # What is left is ended here and now: the library's thread, which destroys the channel, must
        # find no socket that the loop watches.
        self._channel.cancel()
        self._closed = True
        self._channel.close()
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for fd in self._reading:  # ≤ 16
            self._loop.remove_reader(fd)
        for fd in self._writing:  # ≤ 16
            self._loop.remove_writer(fd)
        self._reading.clear()
        self._writing.clear()

    def _on_result(self, name: str, told: Told, result: Any, status: int | None) -> None:
        # Called by the library, which can do nothing with an exception.
        self._pending -= 1
        if status in _GIVEN_UP:
            return
        answer = _read(name, result, status)
        if isinstance(answer, Answer) and not answer.ttl:
            self._asked.discard(name)  # Of a hosts file, or not to be kept: it is not remembered.
        self._loop.call_soon(told, answer)
        if self._retired and not self._pending:
            self._loop.call_soon(self.close)

    def _watch(self, fd: int, readable: bool, writable: bool) -> None:
        """Watch a socket of c-ares as it wants."""
        if self._closed:
            return
        for wanted, watched, add, remove, process in (
            (
                readable, self._reading, self._loop.add_reader, self._loop.remove_reader,
                self._channel_readable,
            ),
            (
                writable, self._writing, self._loop.add_writer, self._loop.remove_writer,
                self._channel_writable,
            ),
        ):  # fmt: skip
            if wanted and fd not in watched:
                watched.add(fd)
                add(fd, process, fd)
            elif not wanted and fd in watched:
                watched.discard(fd)
                remove(fd)

    def _channel_readable(self, fd: int) -> None:
        self._channel.process_fd(fd, pycares.ARES_SOCKET_BAD)

    def _channel_writable(self, fd: int) -> None:
        self._channel.process_fd(pycares.ARES_SOCKET_BAD, fd)

    def _set_timer(self) -> None:
        if self._pending and self._timer is None and not self._closed:
            wait = min(max(_seconds_left(self._channel), SHORTEST), LONGEST)
            self._timer = self._loop.call_later(wait, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        self._set_timer()


def _read(name: str, result: Any, status: int | None) -> Answer | Unresolved:
    if status is not None:
        reason = f"{name}: {_words(status)}"
        return Unresolved(reason, denied=status in _DENIED)
    nodes = [(node.addr[0].decode("ascii"), node.ttl) for node in result.nodes]
    if not nodes:
        return Unresolved(f"{name}: no address", denied=True)
    addresses = tuple(dict.fromkeys(address for address, _ in nodes))
    # A CNAME on the way may hold for less than the address behind it.
    ttls = [ttl for _, ttl in nodes] + [alias.ttl for alias in result.cnames]
    return Answer(addresses, float(min(ttls)))


def _seconds_left(channel: Any) -> float:
    """Until c-ares has something to do though nothing comes; 0 also if it has nothing to do."""
    return float(channel.timeout())


def _words(status: int) -> str:
    found: str | bytes = pycares.errno.strerror(status)
    return found.decode("ascii", "replace") if isinstance(found, bytes) else found


def _signature(path: str) -> tuple[int, int, int] | None:
    """Differs when a file is another one than before."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
