"""An event loop on stepped time and a network in memory, for tests of the data plane.

`SteppedLoop` and `FakeTransport` implement the interfaces of asyncio that the engine uses, so a
`Worker` runs on them as it is: nothing is patched, nothing sleeps, and every run is the same.
Where asyncio leaves a choice, the fake transport does what uvloop's does, and refuses what
uvloop's refuses.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import Any

from proxy.names.base import Answer, Resolver, Told, Unresolved

START = 1000.0
"""Where stepped time begins: not at 0, where a forgotten limit and a passed one look alike."""

Address = tuple[str, int]


class ToldResolver(Resolver):
    """A resolver that says what a test tells it to; until then, nothing.

    Owns the questions that are under way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._said: dict[str, Answer | Unresolved] = {}
        self._under_way: list[tuple[str, Told]] = []
        self.questions: list[str] = []
        self.closed = False

    def says(self, name: str, *addresses: str, ttl: float = 60.0) -> None:
        """Answer questions for `name`, those under way as well."""
        self._say(name, Answer(addresses, ttl))

    def denies(self, name: str) -> None:
        """There is no such name."""
        self._say(name, Unresolved(f"{name}: not found", denied=True))

    def fails(self, name: str) -> None:
        """The name server is reached, and cannot tell."""
        self._say(name, Unresolved(f"{name}: no answer"))

    def hangs(self, name: str) -> None:
        """Do not answer questions for `name` any more."""
        self._said.pop(name, None)

    def ask(self, name: str, told: Told) -> None:
        self.questions.append(name)
        self._under_way.append((name, told))
        self._answer()

    def close(self) -> None:
        self._under_way.clear()
        self.closed = True

    def _say(self, name: str, answer: Answer | Unresolved) -> None:
        self._said[name] = answer
        self._answer()

    def _answer(self) -> None:
        for question in list(self._under_way):
            name, told = question
            if name in self._said:
                self._under_way.remove(question)
                self._loop.call_soon(told, self._said[name])


class SteppedLoop(asyncio.AbstractEventLoop):
    """An event loop that runs when told, and whose time passes when told.

    Owns the callbacks that are ready, the timers, and the time.
    """

    def __init__(self, network: Network | None = None) -> None:
        self.network = network
        self.failures: list[dict[str, Any]] = []
        """What was given to the exception handler; a test that ends with any has failed."""
        self._now = START
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()
        self.callbacks = 0
        """Run so far, those of transports included."""
        self.timers_set = 0
        """Timers so far, those that were cancelled included."""

    # -- what a test does

    def run_ready(self) -> bool:
        """Run every callback that is ready, and those that these make ready. True if any ran."""
        ran = False
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    ran = True
                    self.callbacks += 1
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
        return ran

    def run_turn(self) -> None:
        """One turn of a loop: what is ready, and not what that makes ready."""
        ready, self._ready = self._ready, deque()
        asyncio._set_running_loop(self)
        try:
            for handle in ready:
                if not handle.cancelled():
                    self.callbacks += 1
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    def advance(self, seconds: float, between: Callable[[], object] | None = None) -> None:
        """Let time pass, timer by timer. `between` runs after each step, by default `run_ready`."""
        settle = between or self.run_ready
        until = self._now + seconds
        settle()
        while self._timers and self._timers[0][0] <= until:
            when, _, handle = heappop(self._timers)
            self._now = max(self._now, when)
            if not handle.cancelled():
                self._ready.append(handle)
                settle()
        self._now = until
        settle()

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nothing runs, as for a process that is stopped."""
        self._now += seconds

    # -- asyncio.AbstractEventLoop

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        assert self.network is not None, "this loop has no network"
        self.network.readers[fd] = callback

    def remove_reader(self, fd: Any) -> bool:
        assert self.network is not None
        return self.network.readers.pop(fd, None) is not None

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.timers_set += 1
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Part of the interface between loops and their handles."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **kwargs)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def run_in_executor(
        self, executor: object, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """At once: stepped time has no other thread."""
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        assert self.network is not None, "this loop has no network"
        return await self.network.dial(self, protocol_factory, (host, port))


class FakeSocket:
    """What the kernel knows of a connection and is asked for."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.state = 0
        """What epoll says of it, but for what concerns bytes."""
        self.resets = False
        """Closing it resets the connection."""

    def fileno(self) -> int:
        return self._number

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
        on, seconds = struct.unpack("ii", value)
        assert seconds == 0
        self.resets = bool(on)


class FakePoller:
    """`select.epoll`, edge-triggered, over the sockets of a network."""

    def __init__(self, network: Network, number: int) -> None:
        self._network = network
        self._number = number
        self._masks: dict[int, int] = {}
        self._edges: dict[int, None] = {}
        network.pollers[number] = self

    def fileno(self) -> int:
        return self._number

    def register(self, fd: int, mask: int) -> None:
        assert fd not in self._masks
        assert mask & select.EPOLLET
        self._masks[fd] = mask | select.EPOLLERR | select.EPOLLHUP
        self.edge(fd)

    def unregister(self, fd: int) -> None:
        del self._masks[fd]
        self._edges.pop(fd, None)

    def edge(self, fd: int) -> None:
        """Something has happened to this one."""
        if fd in self._masks and self._network.sockets[fd].state & self._masks[fd]:
            self._edges[fd] = None

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        assert timeout == 0
        ready = list(self._edges)[:maxevents]
        for fd in ready:
            del self._edges[fd]
        return [(fd, self._network.sockets[fd].state & self._masks[fd]) for fd in ready]

    def deliver(self) -> bool:
        """Call whoever waits for this poller. True if there was anything to tell."""
        if not self._edges:
            return False
        self._network.readers[self._number]()
        return True

    def close(self) -> None:
        del self._network.pollers[self._number]


class FakeTransport(asyncio.Transport):
    """Our end of a connection in memory; the test is the other end.

    Owns what was written and not yet read by the peer, and what the peer sent and we did not
    read yet. `connection_lost` is never called from within `close` or `abort`: it is delivered
    by `deliver_lost`, as a loop would in its next turn.
    """

    HIGH = 64 * 1024
    LOW = 16 * 1024

    def __init__(
        self,
        loop: SteppedLoop,
        protocol: asyncio.Protocol,
        *,
        peer: Address | str | None,
        own: Address | str | None,
        late_pause: bool = False,
    ) -> None:
        """`late_pause`: `pause_writing` is called in the loop's next turn, as uvloop does, and
        not from within `write`, as asyncio does."""
        super().__init__({"peername": peer, "sockname": own})
        self._loop = loop
        self._protocol = protocol
        self._late_pause = late_pause
        self._unsent = bytearray()
        self._arrived: deque[bytes | None] = deque()
        self._eof_written = False
        self._closing = False
        self._error: Exception | None = None
        self._was_reset = False
        self.sock: FakeSocket | None = None
        self._reading = True
        self._paused_protocol = False
        self.taken = bytearray()
        """What the peer has read and the test not yet looked at."""
        self.peer_reads = True
        self.ended = False
        """The peer has seen the end of what we write."""
        self.aborted = False
        self.lost = False
        """`connection_lost` was delivered."""
        self.pauses: list[str] = []
        """`pause` and `resume`, as reading was stopped and went on."""
        loop.callbacks += 1
        protocol.connection_made(self)

    # -- what the peer does

    def lend(self, sock: socket.socket | FakeSocket) -> None:
        """A socket for what asks the kernel; no bytes go over it."""
        self._extra["socket"] = sock
        if isinstance(sock, FakeSocket):
            self.sock = sock

    def feed(self, *pieces: bytes) -> None:
        """The peer sends; each piece is one read, as soon as we read."""
        self._arrived.extend(pieces)
        self.deliver()

    def feed_eof(self) -> None:
        """The peer sends no more."""
        self._arrived.append(None)
        self._tell(select.EPOLLRDHUP | (select.EPOLLHUP if self._eof_written else 0))
        self.deliver()

    def end_unread(self) -> None:
        """The peer sends no more, and the kernel says so before we have read everything."""
        self._tell(select.EPOLLRDHUP)

    def reset(self) -> None:
        """The peer resets the connection. Nobody hears of it who does not read."""
        self._was_reset = True
        self._tell(select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
        self.deliver()

    def _tell(self, state: int) -> None:
        if self.sock is not None and self._loop.network is not None:
            self.sock.state |= state
            for poller in self._loop.network.pollers.values():
                poller.edge(self.sock.fileno())

    def stall(self) -> None:
        """The peer stops reading."""
        self.peer_reads = False

    def read_on(self, size: int | None = None) -> None:
        """The peer reads `size` bytes of what waits for it; None = all, and again as before."""
        if size is None:
            self.peer_reads = True
            size = len(self._unsent)
        self.taken += self._unsent[:size]
        del self._unsent[:size]
        self._flushed()

    def deliver(self) -> bool:
        """Hand over what arrived, as far as it is read. True if anything was."""
        any_read = False
        while self._arrived and self._reading and not self._closing:
            data = self._arrived.popleft()
            any_read = True
            self._loop.callbacks += 1
            if data is not None:
                self._protocol.data_received(data)
                continue
            # uvloop stops reading at the end, and sees it again if it is told to go on.
            self._reading = False
            if not self._protocol.eof_received():
                self.close()
            else:
                self._arrived.appendleft(None)
        if self._was_reset and self._reading and not self._closing:
            any_read = True
            self._end(ConnectionResetError("reset by peer"))
        return any_read

    def deliver_lost(self) -> bool:
        """The loop's next turn after a close or abort. True if `connection_lost` was called."""
        if not self._closing or self.lost or (self._unsent and not self.aborted):
            return False
        self.lost = True
        self.ended = True
        self._loop.callbacks += 1
        self._protocol.connection_lost(self._error)
        return True

    # -- asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost:
            raise RuntimeError("the handle is closed")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing:
            return
        if self.peer_reads:
            self.taken += data
            return
        self._unsent += data
        if len(self._unsent) > self.HIGH and not self._paused_protocol:
            self._paused_protocol = True
            if self._late_pause:
                self._loop.call_soon(self._pause_protocol)
            else:
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _pause_protocol(self) -> None:
        if not self.lost:
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if self.lost:
            raise RuntimeError("the handle is closed")
        self._eof_written = True
        if self.sock is not None and self.sock.state & select.EPOLLRDHUP:
            self._tell(select.EPOLLHUP)
        self._flushed()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self.is_reading():
            self._reading = False
            self.pauses.append("pause")

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self.pauses.append("resume")

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reading = False

    def abort(self) -> None:
        self._end(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        # uvloop does not ask what it inherits from, only what it can do.
        assert isinstance(protocol, asyncio.Protocol) or hasattr(protocol, "data_received")
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    def _end(self, error: Exception | None) -> None:
        if self.lost:
            return
        self.aborted = True
        self._closing = True
        self._reading = False
        self._unsent.clear()
        self._error = error

    def _flushed(self) -> None:
        if self._eof_written and not self._unsent:
            self.ended = True
        if self._paused_protocol and len(self._unsent) <= self.LOW and not self.lost:
            self._paused_protocol = False
            self._protocol.resume_writing()


class Network:
    """What is reachable, and every connection there ever was.

    Owns the transports. An address that nothing was said about accepts; `refuse`, `hang` and
    `slam` make it behave otherwise.
    """

    def __init__(self, *, late_pause: bool = False) -> None:
        self.late_pause = late_pause
        self.transports: list[FakeTransport] = []
        self.errors: dict[Address, OSError] = {}
        self.hanging: dict[Address, list[asyncio.Future[None]]] = {}
        self.slamming: set[Address] = set()
        self.accepted: dict[Address, deque[FakeTransport]] = {}
        """Connections that we dialled and the test has not looked at yet."""
        self.dialled: list[Address] = []
        self.sockets: dict[int, FakeSocket] = {}
        self.pollers: dict[int, FakePoller] = {}
        self.readers: dict[int, Callable[..., Any]] = {}
        self._numbers = count(1_000_000)  # Beyond whatever the kernel gives out.

    def socket(self) -> FakeSocket:
        """One for a transport (`FakeTransport.lend`)."""
        number = next(self._numbers)
        self.sockets[number] = FakeSocket(number)
        return self.sockets[number]

    def poller(self) -> FakePoller:
        """One for `Hangups`."""
        return FakePoller(self, next(self._numbers))

    def refuse(self, address: Address, error: OSError | None = None) -> None:
        """Connecting fails."""
        self.errors[address] = error or ConnectionRefusedError(111, "Connection refused")

    def hang(self, address: Address) -> None:
        """Connecting takes until `answer`."""
        self.hanging[address] = []

    def answer(self, address: Address) -> None:
        """What was dialled is connected now, and what is dialled from now on, at once."""
        for future in self.hanging.pop(address):
            if not future.done():
                future.set_result(None)

    def slam(self, address: Address) -> None:
        """Connections are accepted and closed before anybody could write to them."""
        self.slamming.add(address)

    async def dial(
        self, loop: SteppedLoop, factory: Callable[[], asyncio.Protocol], address: Address
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """The other side of `loop.create_connection`."""
        self.dialled.append(address)
        if address in self.hanging:
            future = loop.create_future()
            self.hanging[address].append(future)
            await future
        if address in self.errors:
            raise self.errors[address]
        protocol = factory()
        transport = self.open(loop, protocol, peer=address, own=("10.9.9.9", 50000))
        if address in self.slamming:
            transport.feed_eof()
            transport.deliver_lost()
        else:
            self.accepted.setdefault(address, deque()).append(transport)
        return transport, protocol

    def open(
        self,
        loop: SteppedLoop,
        protocol: asyncio.Protocol,
        *,
        peer: Address | str | None,
        own: Address | str | None,
    ) -> FakeTransport:
        """A connection that is up."""
        transport = FakeTransport(loop, protocol, peer=peer, own=own, late_pause=self.late_pause)
        self.transports.append(transport)
        return transport

    def deliver(self) -> bool:
        """Hand over what arrived and what was closed, everywhere. True if anything was."""
        moved = False
        for transport in list(self.transports):
            moved = transport.deliver() or moved
            moved = transport.deliver_lost() or moved
        for poller in list(self.pollers.values()):
            moved = poller.deliver() or moved
        return moved
