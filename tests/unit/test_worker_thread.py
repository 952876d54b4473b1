"""`control/thread.py`: a worker in a thread ends like a process, and is left alone if it hangs."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from proxy.control.thread import ThreadLaunch, ThreadWorker
from proxy.engine.load import ROWS, Board
from tests.support.processes import eventually

NAME = "worker 7"


def lives() -> bool:
    return NAME in [one.name for one in threading.enumerate()]


@pytest_asyncio.fixture
async def worker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ThreadWorker]:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    interval = sys.getswitchinterval()
    board = Board.create(ROWS)
    channel, other = socket.socketpair()
    descriptors, sender = socket.socketpair(type=socket.SOCK_DGRAM)
    with channel, other, descriptors, sender:
        yield await ThreadLaunch(board)(7, 0, other, descriptors)
    await eventually(lambda: not lives())
    board.close()
    sys.setswitchinterval(interval)


async def test_a_worker_that_is_killed_at_once_ends(worker: ThreadWorker) -> None:
    worker.kill()
    assert worker.returncode is None
    assert await worker.wait() == 0 == worker.returncode
    worker.kill()  # It is gone already.


async def test_a_worker_that_hangs_is_given_up(worker: ThreadWorker) -> None:
    over = threading.Event()
    worker._loop.call_soon_threadsafe(over.wait)
    worker.kill()
    try:
        assert await worker.wait() == -signal.SIGKILL
        assert lives()
    finally:
        over.set()


async def test_a_worker_without_a_thread_to_be_had_has_failed(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.kill()
    await worker.wait()
    monkeypatch.setattr(threading.Thread, "start", _refused)
    with socket.socket() as one, socket.socket() as two:
        board = Board.create(ROWS)
        assert await (await ThreadLaunch(board)(7, 0, one, two)).wait() == 1
        board.close()


def _refused(_: object) -> None:
    raise RuntimeError("can't start new thread")
