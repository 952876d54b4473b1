"""The first worker of a small machine's proxy: forked before this process has loaded what workers
have no use for, so that what both need is loaded once and is in memory once.

It waits, with nothing open but its end of a pair of sockets and nothing known of any setting, until
it is told to be a worker. One that takes its place is executed like any other's.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

import msgspec

from proxy.control.launch import ALLOCATOR, ProcessLaunch, Running
from proxy.engine import __main__ as program
from proxy.threads import in_thread

_LARGEST: Final = 64 * 1024
"""Bytes of the order."""
_ALLOCATOR: Final = dict(zip(ALLOCATOR, (-3, -1, -2), strict=True))
"""The numbers that `mallopt(3)` has for variables that are read when a program begins."""


class _Order(msgspec.Struct, frozen=True):
    index: int
    row: int
    environ: dict[str, str]


class EarlyWorker:
    """Owns a process that is to be a worker, until it is one."""

    def __init__(self, pid: int, way: socket.socket) -> None:
        self._pid = pid
        self._way = way
        self._ids = os.getresuid(), os.getresgid()

    @classmethod
    def fork(cls) -> EarlyWorker | None:
        """Call it before there are threads, open files and secrets. None where this process was
        given a seed for hashes, which clients might know as well."""
        if os.environ.get("PYTHONHASHSEED", "random") != "random":
            return None
        gc.collect()
        gc.freeze()  # Else the first collection on either side would write to all that is shared.
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _wait(theirs)
        theirs.close()
        return cls(pid, ours)

    def begin(self, order: _Order, descriptors: list[int]) -> Running | None:
        """Have it be a worker; None when it cannot, as where root was given up meanwhile."""
        process = _Forked(self._pid)
        with self._way:
            if self._ids != (os.getresuid(), os.getresgid()):
                return None
            try:
                files = resource.getrlimit(resource.RLIMIT_NOFILE)  # Raised since.
                resource.prlimit(self._pid, resource.RLIMIT_NOFILE, files)
                socket.send_fds(self._way, [msgspec.msgpack.encode(order)], descriptors)
            except OSError:
                return None
        return process


class _Forked:
    """Owns the wait for a child; see `Running`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = in_thread(self._reap, f"wait for worker {pid}")

    def _reap(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        if self.returncode is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class ForkedFirst:
    """Starts one worker from a process that is there, and others as `ProcessLaunch` does."""

    def __init__(self, early: EarlyWorker, others: ProcessLaunch) -> None:
        self._early: EarlyWorker | None = early
        self._others = others

    async def __call__(
        self, index: int, row: int, channel: socket.socket, descriptors: socket.socket
    ) -> Running:
        """See `Launch`."""
        early, self._early = self._early, None
        if early is not None:
            order = _Order(index, row, dict(self._others.environ()))
            passed = [self._others.board, channel.fileno(), descriptors.fileno()]
            process = early.begin(order, passed)
            if process is not None:
                return process
        return await self._others(index, row, channel, descriptors)


def _wait(way: socket.socket) -> NoReturn:
    """The life of the process."""
    code = 1
    atexit._clear()
    try:
        # As for those that are executed: what the group is sent is not for a worker.
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        data, descriptors, _, _ = socket.recv_fds(way, _LARGEST, 3)
        way.close()
        # Without an order nobody needs it.
        code = _work(msgspec.msgpack.decode(data, type=_Order), *descriptors) if data else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)  # Behind this there are only the frames of the process that it came from.


def _work(order: _Order, board: int, channel: int, descriptors: int) -> int:
    os.environ.update(order.environ)
    _tune_allocator(os.environ)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    numbers = {"index": order.index, "row": order.row, "board": board}
    numbers |= {"channel": channel, "descriptors": descriptors}
    return program.main([word for name, n in numbers.items() for word in (f"--{name}", str(n))])


def _tune_allocator(environ: Mapping[str, str]) -> None:
    tune = getattr(ctypes.CDLL(None), "mallopt", None)  # Of glibc alone.
    if tune is not None:
        for name, number in _ALLOCATOR.items():
            if name not in environ:
                tune(number, int(ALLOCATOR[name]))
