"""`python -m proxy.engine`: a worker process. Started by the control process only, with the
numbers of the descriptors it inherited.

Apart from `worker.py`, because a module that is run as a program cannot be a compiled one.
"""

from __future__ import annotations

import argparse
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
    """Entry point of the worker process; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m proxy.engine")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--row", type=int, required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--descriptors", type=int, required=True)
    parser.add_argument("--board", type=int, required=True)
    arguments = parser.parse_args(argv)
    log_setup.set_up(log_setup.from_environment(os.environ), worker=arguments.index)
    sys.unraisablehook = without_names(sys.unraisablehook)
    return uvloop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    board = Board(arguments.board, ROWS)
    descriptors = socket.socket(fileno=arguments.descriptors)
    descriptors.setblocking(False)
    watch = Watch(SignalLooks())
    worker = Worker(
        loop, arguments.row, board, descriptors, Random(), index=arguments.index, watch=watch
    )
    # Ctrl-C reaches the whole group, and systemd's SIGTERM the whole unit: it is for the control
    # process to decide what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    await worker.join(socket.socket(fileno=arguments.channel))
    await worker.stopped.wait()
    worker.access_logs.close(LAST_LINES)
    return 1 if worker.failed else 0


if __name__ == "__main__":
    sys.exit(main())
