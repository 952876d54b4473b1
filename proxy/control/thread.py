"""A worker in a thread of this process, with a loop of its own, in the place of a worker process.

Both speak by the channel, as two processes do; neither calls the other. They share the interpreter:
a long turn of the control plane holds the worker for no longer than `SWITCH`, unless it is one call
of C.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from random import Random
from typing import Final

import structlog
import uvloop

from proxy.engine.load import ROWS, Board
from proxy.engine.tls.certificates import without_names
from proxy.engine.worker import LAST_LINES, Worker
from proxy.filters.watch import ThreadLooks, Watch
from proxy.threads import in_thread

log = structlog.get_logger()

SWITCH: Final = 0.0005
"""Seconds for which one thread may run Python while another one waits to."""
KILL_LIMIT: Final = 2.0
"""Seconds for a worker to end without a grace, after which it is given up: a thread that hangs in a
call cannot be ended."""


class ThreadWorker:
    """Owns the thread of a worker, and stands for its process."""

    def __init__(
        self, index: int, row: int, fd: int, channel: socket.socket, descriptors: socket.socket
    ) -> None:
        """`fd`: of the board; the sockets are ours from now on."""
        self.pid = os.getpid()
        self._worker: Worker | None = None
        self._loop = uvloop.new_event_loop()
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def live() -> int:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                return runner.run(self._live(index, row, Board(fd, ROWS), channel, descriptors))

        def on_end(thread: asyncio.Future[int]) -> None:
            for one in (self._loop, channel, descriptors):
                one.close()  # Where there was no thread to be had.
            self._on_end(thread)

        in_thread(live, f"worker {index}").add_done_callback(on_end)

    async def _live(
        self, index: int, row: int, board: Board, channel: socket.socket, descriptors: socket.socket
    ) -> int:
        """The life of the worker, in its thread."""
        watch = Watch(ThreadLooks())
        self._worker = worker = Worker(
            self._loop, row, board, descriptors, Random(), index=index, watch=watch
        )
        await worker.join(channel)
        await worker.stopped.wait()
        worker.access_logs.close(LAST_LINES)
        return 1 if worker.failed else 0

    def _on_end(self, thread: asyncio.Future[int]) -> None:
        error = thread.exception()
        if error is not None:
            log.error("worker_failed", exc_info=error)
        self._end(1 if error is not None else thread.result())

    def _end(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)

    @property
    def returncode(self) -> int | None:
        """The exit code, once it is over."""
        return self._over.result() if self._over.done() else None

    async def wait(self) -> int:
        """The exit code, once it is over."""
        return await asyncio.shield(self._over)

    def kill(self) -> None:
        """End it without a grace, or give it up."""
        if not self._over.done():
            with contextlib.suppress(RuntimeError):  # Its loop is closed.
                self._loop.call_soon_threadsafe(self._cut)
            asyncio.get_running_loop().call_later(KILL_LIMIT, self._end, -signal.SIGKILL)

    def _cut(self) -> None:
        if self._worker is None:
            self._loop.call_soon(self._cut)  # It is made in this turn.
        else:
            self._worker.drain(0.0)
            self._worker.connections.cut(None)


class ThreadLaunch:
    """Starts workers in threads of a process of ours."""

    def __init__(self, board: Board) -> None:
        self._fd = board.fd
        sys.setswitchinterval(SWITCH)
        sys.unraisablehook = without_names(sys.unraisablehook)

    async def __call__(
        self, index: int, row: int, channel: socket.socket, descriptors: socket.socket
    ) -> ThreadWorker:
        """Start worker `index`; see `Launch`. The sockets stay the caller's."""
        brings = descriptors.dup()
        brings.setblocking(False)
        return ThreadWorker(index, row, self._fd, channel.dup(), brings)
