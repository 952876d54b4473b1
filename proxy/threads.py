"""Work that may never end, in threads that nobody waits for at the exit.

The threads of an event loop are waited for when the loop ends, and once more when the process does.
One that writes to a file system whose server is gone would keep both.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """A future of what `work` returns or raises, once a daemon thread of its own is done with it.
    Whoever gives up waiting leaves the thread alone; how many there are is for the caller to bound.
    OSError when there is no thread to be had."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # None is one of T's values then
        else:
            future.set_exception(error)
            future.exception()  # Those who asked may all have given up.

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(tell, result, failure)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        tell(None, OSError(errno.EAGAIN, str(error)))
    return future
