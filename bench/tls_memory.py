"""What TLS connections hold: `python -m bench tls-memory`.

For each proxy, freshly started in each round: private dirty memory per connection, of 1,000 idle
ones after a small GET on each, and of 200 after a download of 1 MiB on each. And the share of 200
new connections that resume a session by one ticket, with four workers.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.certificates import Certificates, make_certificates
from bench.load import client_tls, request_bytes
from bench.measure import check_answer, start_backends
from bench.peers import PEERS, Peer, Setup
from bench.processes import Server, core_plan, private_dirty, raise_open_files
from bench.scenarios import SCENARIOS, Scenario
from tests.support.processes import free_port

SMALL, LARGE, CLOSING = (SCENARIOS[name] for name in ("tls_get", "tls_download_1m", "tls_resumed"))
IDLE, LOADED, RESUMED = 1000, 200, 200
WARM = 20
"""Connections that come and go before anything is counted: what the first ones bring is no
connection's."""
WORKERS = 4
LIMIT = 10.0


class Client:
    """Owns a connection, on which it asks and waits."""

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None):
        wire = socket.create_connection(("127.0.0.1", port), LIMIT)
        self.tls = context.wrap_socket(wire, session=session)
        self._port = port

    def get(self, scenario: Scenario) -> None:
        """Ask, and read the answer as far as it says. ConnectionError when it is cut short."""
        self.tls.sendall(request_bytes(scenario, self._port))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._read()
        missing = scenario.answer - len(head.partition(b"\r\n\r\n")[2])
        while missing > 0:
            missing -= len(self._read())

    def _read(self) -> bytes:
        piece = self.tls.recv(65536)
        if not piece:
            raise ConnectionError("the answer was cut short")
        return piece


def held(server: Server, port: int, scenario: Scenario, count: int) -> float:
    """KiB per connection, of `count` that have had an answer and stay."""
    context = client_tls()
    before = 0
    clients: list[Client] = []
    try:
        for number in range(WARM + count):
            if number == WARM:
                for client in clients:
                    client.tls.close()
                clients.clear()
                before = private_dirty(server.pids())
            clients.append(Client(port, context))
            clients[-1].get(scenario)
        return (private_dirty(server.pids()) - before) / 1024 / count
    finally:
        for client in clients:
            client.tls.close()


def resumed(port: int) -> float:
    """The share of new connections that resume a session by one ticket."""
    context = client_tls()
    first = Client(port, context)
    first.get(SMALL)
    session = first.tls.session
    first.tls.close()
    count = 0
    for _ in range(RESUMED):
        client = Client(port, context, session)
        client.get(CLOSING)
        count += bool(client.tls.session_reused)
        client.tls.close()
    return count / RESUMED


class Bench:
    """Owns what all proxies share: backend, certificates, cores."""

    def __init__(self, stack: ExitStack) -> None:
        self._open_files = raise_open_files()
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._directory.chmod(0o755)
        self._certificates: Certificates = make_certificates(self._directory / "tls")
        self._cores, others = core_plan(frozenset(os.sched_getaffinity(0)), 1)
        self._backends = start_backends(stack, self._directory, others, self._certificates)
        os.sched_setaffinity(0, others)

    def with_proxy(
        self,
        peer: Peer,
        workers: int,
        measure: Callable[[Server, int], float],
        *,
        http2: bool = False,
        backend_port: int = 0,
    ) -> float:
        """What is measured of a proxy that is started for it, with TLS or with HTTP/2.
        `backend_port`: of another instance than the usual one, which may be silent."""
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=self._directory))
            setup = Setup(
                directory=Path(directory),
                port=free_port(),
                admin_port=free_port(),
                backend_port=backend_port or self._backends.plain,
                workers=workers,
                open_files=self._open_files,
                certificate=None if http2 else self._certificates.of("ec"),
                http2=http2,
            )
            server = peer.start(setup, self._cores)
            stack.callback(server.stop)
            if backend_port:
                server.wait_ready(
                    lambda: socket.create_connection(("127.0.0.1", setup.port)).close()
                )
            else:
                asked = SCENARIOS["http2_one"] if http2 else SMALL
                server.wait_ready(lambda: check_answer(asked, setup.port))
            return measure(server, setup.port)


def main(arguments: Sequence[str]) -> int:
    """`python -m bench tls-memory`."""
    parser = argparse.ArgumentParser(prog="python -m bench tls-memory", description=__doc__)
    parser.add_argument("--peers", default="fairlead,nginx", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    known = {kind.name: kind() for kind in PEERS}
    print(f"  {'':12}KiB idle  after 1 MiB  resumed, {WORKERS} workers   (least to most)")
    with ExitStack() as stack:
        bench = Bench(stack)
        for name in options.peers.split(","):
            peer = known[name]
            cells = []
            for workers, measure in (
                (1, lambda server, port: held(server, port, SMALL, IDLE)),
                (1, lambda server, port: held(server, port, LARGE, LOADED)),
                (WORKERS, lambda _, port: resumed(port)),
            ):
                values = [bench.with_proxy(peer, workers, measure) for _ in range(options.rounds)]
                cells.append(f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})")
            print(f"  {name:12}" + "   ".join(cells), flush=True)
    return 0
