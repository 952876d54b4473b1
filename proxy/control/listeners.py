"""The listening sockets of all listeners, from one configuration to the next."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import structlog

from proxy.control.sockets import BindError, Listening, reserve
from proxy.settings.listener import ListenerSettings, collide
from proxy.threads import in_thread

log = structlog.get_logger()

BIND_LIMIT = 10.0
"""Seconds for the addresses of a reload: only names that somebody has to be asked for take any."""


class Listened(NamedTuple):
    """A socket that workers accept from."""

    name: str
    """Of its listener."""
    sock: socket.socket
    lasting: bool
    """The service manager goes on listening on it."""


class Listeners:
    """Owns the listening sockets, and numbers by which workers are told of them."""

    def __init__(self) -> None:
        self.current: Sequence[Listening] = ()
        """In force."""
        self._numbers: dict[socket.socket, int] = {}
        self._next = itertools.count(1)

    def of(self, index: int, workers: int) -> dict[int, Listened]:
        """Sockets of a worker, by number."""
        return {
            self._number(sock): Listened(one.name, sock, one.passed)
            for one in self.current
            for sock in one.of(index, workers)
        }

    def _number(self, sock: socket.socket) -> int:
        if sock not in self._numbers:
            self._numbers[sock] = next(self._next)
        return self._numbers[sock]

    def prepare(self, wanted: Sequence[ListenerSettings], workers: int) -> list[Listening]:
        """Sockets for these listeners: where there are some at the address already, those, whatever
        listener has them now. Nothing is listened on yet that is new. BindError: one cannot be
        had, and nothing has changed."""
        same = {(one.name, one.bind): one for one in self.current}
        kept = [same.pop((listener.name, listener.bind), None) for listener in wanted]
        others = {one.bind: one for one in same.values()}
        made: list[Listening] = []
        for listener, before in zip(wanted, kept, strict=True):
            name, bind, mode, owner = listener.name, listener.bind, listener.mode, listener.owner
            try:
                before = before or others.pop(bind, None)
                if before is None:
                    ours = any(collide(bind, one.bind) for one in self.current)
                    alone = not (listener.share or ours)
                    one = reserve(name, bind, workers, mode, owner, alone=alone)
                else:
                    one = replace(before.widened(workers), name=name, mode=mode, owner=owner)
            except BindError as error:
                self.drop(made)
                raise BindError(f"listener {name}: cannot listen on {error}") from error
            made.append(one)
        return made

    async def prepare_in_time(
        self, wanted: Sequence[ListenerSettings], workers: int
    ) -> list[Listening]:
        """Do what `prepare` does without holding anybody up."""
        work = in_thread(lambda: self.prepare(wanted, workers), "bind")
        try:
            async with asyncio.timeout(BIND_LIMIT):
                return await asyncio.shield(work)
        except TimeoutError:
            work.add_done_callback(lambda done: done.exception() or self.drop(done.result()))
            raise BindError(f"listeners: no addresses within {BIND_LIMIT:g} s") from None

    def begin(self, before: Iterable[Listening]) -> None:
        """Let connections come to all in force. `before`: those that were. BindError."""
        known = {one.sockets[0]: one for one in before}
        for one in self.current:
            old = known.get(one.sockets[0])
            try:
                one.begin()
                if old is not None:
                    one.permit(old)
            except BindError as error:
                raise BindError(f"listener {one.name}: cannot listen on {error}") from error
            if old is None:
                log.info("listening", listener=one.name, address=one.address)

    def drop(self, listening: Iterable[Listening]) -> set[int]:
        """Close those of these sockets that no listener in force has; their numbers."""
        kept = {sock for one in self.current for sock in one.sockets}
        gone = set()
        for one in listening:
            left = [sock for sock in one.sockets if sock not in kept]
            gone |= {self._numbers.pop(sock) for sock in left if sock in self._numbers}
            if left:
                replace(one, sockets=tuple(left)).close()
        return gone

    def leave(self) -> None:
        """Close all, where another process goes on listening."""
        for one in self.current:
            one.leave()

    def close(self) -> None:
        """Close all."""
        listening, self.current = self.current, ()
        self.drop(listening)
