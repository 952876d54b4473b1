"""`python -m proxy.engine`: a worker process. Started by the control process only, with the
numbers of the descriptors it inherited.

Apart from `worker.py`, because a module that is run as a program cannot be a compiled one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from random import Random

import uvloop

from proxy import log as log_setup
from proxy.engine.load import ROWS, Board
from proxy.engine.tls.certificates import without_names
from proxy.engine.worker import LAST_LINES, Worker
from proxy.filters.watch import SignalLooks, Watch


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the worker process; its exit code. `argv`: five numbers, each behind its
    name."""
    words = sys.argv[1:] if argv is None else argv
    given = {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}
    log_setup.set_up(log_setup.from_environment(os.environ), worker=given["--index"])
    sys.unraisablehook = without_names(sys.unraisablehook)
    return uvloop.run(_run(given))


async def _run(given: dict[str, int]) -> int:
    loop = asyncio.get_running_loop()
    board = Board(given["--board"], ROWS)
    descriptors = socket.socket(fileno=given["--descriptors"])
    descriptors.setblocking(False)
    watch = Watch(SignalLooks())
    worker = Worker(
        loop, given["--row"], board, descriptors, Random(), index=given["--index"], watch=watch
    )
    # Ctrl-C reaches the whole group, and systemd's SIGTERM the whole unit: it is for the control
    # process to decide what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    await worker.join(socket.socket(fileno=given["--channel"]))
    await worker.stopped.wait()
    worker.access_logs.close(LAST_LINES)
    return 1 if worker.failed else 0


if __name__ == "__main__":
    sys.exit(main())
