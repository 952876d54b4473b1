"""A worker in this very process, in the place of a worker process."""

from __future__ import annotations

import asyncio
import os
import socket
from random import Random

from proxy.engine.load import ROWS, Board
from proxy.engine.worker import LAST_LINES, Worker
from proxy.filters.watch import ThreadLooks, Watch


class InsideWorker:
    """Owns a worker that lives in the running loop, and stands for its process."""

    def __init__(self, worker: Worker, descriptors: socket.socket) -> None:
        """`descriptors`: brings it sockets."""
        self._worker = worker
        self._descriptors = descriptors
        self.pid = os.getpid()
        self.returncode: int | None = None
        self._over = asyncio.create_task(self._live())

    async def _live(self) -> int:
        await self._worker.stopped.wait()
        self._descriptors.close()
        await asyncio.to_thread(self._worker.access_logs.close, LAST_LINES)
        self.returncode = 1 if self._worker.failed else 0
        return self.returncode

    async def wait(self) -> int:
        """The exit code, once it is over."""
        return await asyncio.shield(self._over)

    def kill(self) -> None:
        """End it without a grace. A turn of the loop, not a signal: it cannot be hung, or this
        would not run."""
        self._worker.drain(0.0)
        self._worker.connections.cut(None)


class InsideLaunch:
    """Starts workers in the running loop."""

    def __init__(self, board: Board) -> None:
        self._fd = board.fd

    async def __call__(
        self, index: int, row: int, channel: socket.socket, descriptors: socket.socket
    ) -> InsideWorker:
        """Start worker `index`; see `Launch`. The sockets stay the caller's."""
        loop = asyncio.get_running_loop()
        brings = descriptors.dup()
        brings.setblocking(False)
        board = Board(self._fd, ROWS)
        watch = Watch(ThreadLooks())
        worker = Worker(
            loop, row, board, brings, Random(), index=index, own_process=False, watch=watch
        )
        await worker.join(channel.dup())
        return InsideWorker(worker, brings)
