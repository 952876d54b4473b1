"""The parent process, as a control process knows it; see `proxy/parent.py`."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from proxy import packets
from proxy.control.held_sockets import Held
from proxy.control.sockets import Listening, inode_of, remove

log = structlog.get_logger()

BEGIN_LIMIT = 10.0
"""Seconds for all that the parent has to pass on."""

SEND_LIMIT = 1.0
"""Seconds for the parent to read what it was told."""

MOST_ANSWERS = 16
"""Upgrades asked for whose answers are waited for."""


class ParentError(Exception):
    """The parent is gone, or said nothing of use."""


class ParentLink:
    """Owns this process's end of the pair, and what came through it at the start."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: of the end, inherited."""
        self._end = socket.socket(fileno=descriptor)
        self._end.setblocking(False)
        self._end.set_inheritable(False)
        self.held: list[Held] = []
        """Sockets that a predecessor listened on, or that the service manager has opened."""
        self.state: socket.socket | None = None
        """The way to a predecessor that serves."""
        self.on_successor: Callable[[socket.socket], None] = lambda end: end.close()
        """A successor is being started, and will ask through this."""
        self.retire = asyncio.Event()
        """Set when the successor has taken over."""
        self.gone = asyncio.Event()
        """Set when the parent is dead, so that nobody will tell this process anything."""
        self._answers: dict[int, asyncio.Future[str]] = {}
        """By number of the question."""
        self._echoes = False
        """Whether the parent answers `echo`: it may be of a version before, over upgrades."""
        self._heard: dict[int, asyncio.Event] = {}  # ≤ 1: reloads take turns
        """By number, for when the parent has read all that was sent before."""
        self._numbers = itertools.count(1)
        self._left: dict[str, tuple[int, int]] = {}
        """Socket files of listeners that are no more, with device and inode."""
        self._listeners: set[str] = set()
        """Names of those whose sockets the parent holds."""

    def begin(self) -> None:
        """Take what the parent passes on. ParentError if it does not."""
        deadline = time.monotonic() + BEGIN_LIMIT
        while packets.readable([self._end], max(0.0, deadline - time.monotonic())):
            try:
                found = packets.receive(self._end)
            except OSError as error:
                raise ParentError(f"the parent process is gone: {error.strerror}") from None
            if found is None:
                raise ParentError("the parent process is gone")
            message, descriptors = found
            if "begin" in message:
                self._echoes = bool(message.get("echoes"))
                if message["begin"] and descriptors:
                    self.state = socket.socket(fileno=descriptors[0])
                return
            for (number, *told), one in zip(message.get("held", ()), descriptors, strict=False):
                # By number: those that the service manager has passed may all have the same name.
                if number == len(self.held):
                    self.held.append(Held(*told))
                self.held[-1].sockets.append(socket.socket(fileno=one))
        raise ParentError(f"the parent process has said nothing for {BEGIN_LIMIT:g} s")

    def listen(self) -> None:
        """Hear what the parent says, in the running loop."""
        asyncio.get_running_loop().add_reader(self._end.fileno(), self._on_readable)

    def close(self) -> None:
        """Hear no more of it."""
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        self._end.close()

    # -- to the parent

    def hold(self, kind: str, name: str, bind: str, sockets: Iterable[socket.socket]) -> None:
        """Let the parent hold these for whoever takes our place, instead of what it had under that
        kind and name."""
        numbers = list(dict.fromkeys(sock.fileno() for sock in sockets))
        for start in range(0, len(numbers), packets.DESCRIPTORS):
            part = numbers[start : start + packets.DESCRIPTORS]
            self._send({"hold": kind, "name": name, "bind": bind, "anew": not start}, part)

    def hold_listeners(self, listening: Iterable[Listening]) -> None:
        """Let the parent hold the sockets of these listeners, and of no others but those that the
        service manager has passed, which it holds anyway."""
        names = set()
        for one in listening:
            if one.passed:
                continue
            self.hold("listener", one.name, one.bind, one.sockets)
            names.add(one.name)
        for name in self._listeners - names:
            self._send({"forget": "listener", "name": name})
        self._listeners = names

    async def settled(self) -> None:
        """Return once the parent has read all that it was told: what it is to forget it holds until
        then, and so does a message under way, so that the address cannot be had again. At once with
        a parent that would not say so."""
        if not self._echoes or self.gone.is_set():
            return
        number = next(self._numbers)
        self._heard[number] = heard = asyncio.Event()
        self._send({"echo": number})
        try:
            await asyncio.wait_for(heard.wait(), SEND_LIMIT)
        except TimeoutError:
            log.warning("parent_silent", limit=SEND_LIMIT)
        finally:
            del self._heard[number]

    def close_unused(self) -> None:
        """Close what was held for us and is of no use. Socket files go once we serve: until then a
        predecessor may go on doing so."""
        for left in self.held:
            if left.kind == "passed":
                log.warning("socket_not_used", name=left.name, reason="no listener is called so")
            for sock in left.sockets:
                if left.kind == "listener" and sock.family == socket.AF_UNIX:
                    path = str(sock.getsockname())
                    self._left[path] = inode_of(path)
                sock.close()
        self.held.clear()

    def ready(self, ids: tuple[int, int, Sequence[int]] | None = None) -> None:
        """Tell the parent that this process serves. `ids`: those for `privileges.become`, of whom
        the parent is to be, too; None = nobody else."""
        self._send({"ready": True} if ids is None else {"ready": True, "become": ids})
        for path, inode in self._left.items():
            remove(path, inode)

    def failed(self, reason: str) -> None:
        """Tell the parent why this process cannot start."""
        self._send({"failed": reason})

    def notify(self, text: str) -> None:
        """Tell the service manager, in the words of sd_notify(3)."""
        self._send({"notify": text})

    async def upgrade(self, env_file: str) -> str:
        """Let the parent start a successor; the reason why it does not serve, or "" when it does.
        `env_file`: variables that are added to its environment."""
        if len(self._answers) >= MOST_ANSWERS:
            return "an upgrade is under way"
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        self._answers[number] = answer
        self._send({"upgrade": number, "env_file": env_file})
        try:
            return await answer
        finally:
            del self._answers[number]

    def _send(self, message: dict[str, object], descriptors: Sequence[int] = ()) -> None:
        try:
            packets.send(self._end, message, descriptors, SEND_LIMIT)
        except OSError as error:
            log.error("parent_not_reached", message=next(iter(message)), error=error.strerror)

    # -- from the parent

    def _on_readable(self) -> None:
        try:
            found = packets.receive(self._end)
        except BlockingIOError:
            return
        except OSError:
            found = None
        if found is None:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self.gone.set()
            for each in self._heard.values():
                each.set()
            for number in self._answers:
                self._answered(number, "the parent process is gone")
            return
        message, descriptors = found
        if "successor" in message and descriptors:
            log.info("upgrading", successor=message["successor"])
            self.on_successor(socket.socket(fileno=descriptors.pop(0)))
        elif "upgraded" in message:
            reason = "" if message["upgraded"] else str(message.get("reason"))
            self._answered(message.get("asked"), reason)
        elif "not_upgraded" in message:
            log.error("not_upgraded", reason=message["not_upgraded"])
        elif "echo" in message:
            if (heard := self._heard.get(message["echo"])) is not None:
                heard.set()
        elif "retire" in message:
            self.retire.set()
        packets.close(descriptors)

    def _answered(self, number: Any, reason: str) -> None:
        if reason:
            log.error("not_upgraded", reason=reason)
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(reason)
