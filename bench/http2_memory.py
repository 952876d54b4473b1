"""What sessions and streams of HTTP/2 hold: `python -m bench http2-memory`.

For each proxy, freshly started in each round: private dirty memory per session in clear text, of
1,000 idle ones after a small GET on each; and per stream, of 1,024 on 16 sessions whose requests
wait for the answer of an instance of HTTP/1.1, which includes the connection to that.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median

from bench.http2 import Http2Requests
from bench.load import request_bytes
from bench.peers import PEERS
from bench.processes import Server, private_dirty
from bench.scenarios import SCENARIOS
from bench.tls_memory import Bench
from proxy.http2.frame_list import FrameList

SMALL = SCENARIOS["http2_one"]
IDLE, SESSIONS, STREAMS = 1000, 16, 64
WARM = 20
"""Sessions that come and go before anything is counted."""
LIMIT = 10.0


class Session:
    """Owns one connection of a client."""

    def __init__(self, port: int) -> None:
        self._wire = socket.create_connection(("127.0.0.1", port), LIMIT)
        self._wire.sendall(Http2Requests.PRELUDE)
        self._requests = Http2Requests()
        self._heard = FrameList(False, 1 << 16)
        self._head = request_bytes(SMALL, port)

    def ask(self) -> None:
        """One request more."""
        self._wire.sendall(self._requests.request(self._head))

    def answered(self) -> None:
        """Read until an answer is whole. ConnectionError when it is cut short."""
        while True:
            self._heard.feed(self._read())
            come, self._heard.frames = self._heard.frames, []
            if any(one[0] in ("head", "data") and one[-1] is True for one in come):
                return

    def close(self) -> None:
        self._wire.close()

    def _read(self) -> bytes:
        piece = self._wire.recv(65536)
        if not piece:
            raise ConnectionError("the connection ended")
        return piece


def idle(server: Server, port: int) -> float:
    """KiB per session that has had an answer and stays."""
    sessions: list[Session] = []
    before = 0
    try:
        for number in range(WARM + IDLE):
            if number == WARM:
                for session in sessions:
                    session.close()
                sessions.clear()
                before = private_dirty(server.pids())
            sessions.append(Session(port))
            sessions[-1].ask()
            sessions[-1].answered()
        return (private_dirty(server.pids()) - before) / 1024 / IDLE
    finally:
        for session in sessions:
            session.close()


def waiting(server: Server, port: int, instance: socket.socket) -> float:
    """KiB per stream whose answer does not come. `instance`: listens, and never answers."""
    sessions = [Session(port) for _ in range(SESSIONS)]
    reached: list[socket.socket] = []

    def ask(count: int) -> None:
        for session in sessions:
            for _ in range(count):
                session.ask()
        for _ in range(SESSIONS * count):
            reached.append(instance.accept()[0])
            reached[-1].recv(1)

    try:
        ask(1)
        before = private_dirty(server.pids())
        ask(STREAMS)
        return (private_dirty(server.pids()) - before) / 1024 / (SESSIONS * STREAMS)
    finally:
        for one in (*sessions, *reached):
            one.close()


def main(arguments: Sequence[str]) -> int:
    """`python -m bench http2-memory`."""
    parser = argparse.ArgumentParser(prog="python -m bench http2-memory", description=__doc__)
    parser.add_argument("--peers", default="fairlead,nginx", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    known = {kind.name: kind() for kind in PEERS}
    print(f"  {'':12}KiB per idle session   per stream that waits   (least to most)")
    with ExitStack() as stack:
        bench = Bench(stack)
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        silent.settimeout(LIMIT)
        for name in options.peers.split(","):
            cells = []
            measures: Sequence[tuple[Callable[[Server, int], float], int]] = (
                (idle, 0),
                (partial(waiting, instance=silent), silent.getsockname()[1]),
            )
            for measure, instance in measures:
                values = [
                    bench.with_proxy(known[name], 1, measure, http2=True, backend_port=instance)
                    for _ in range(options.rounds)
                ]
                cells.append(f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})")
            print(f"  {name:12}" + "   ".join(cells), flush=True)
    return 0
