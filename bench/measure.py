"""Running one scenario: start every proxy, check its answer, load each in turn, take samples."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from bench.load import LoadError, LoadPlan
from bench.peers import NGINX_HTTP, Nginx, Peer, Setup, nginx_base
from bench.processes import Server, StartError, core_busy_seconds, free_port
from bench.report import Sample
from bench.scenarios import MIB, SCENARIOS, SMALL_BODY, Scenario

WARM_UP = 0.3
"""Seconds of load before the first round, unmeasured: connections, caches, lazy imports."""
PROBE_LIMIT = 10.0
"""Seconds for the one request that checks a proxy's answer."""


class AnswerError(ValueError):
    """A proxy's answer is not the backend's."""


@dataclass(frozen=True)
class Backends:
    """Ports of the servers behind the proxies."""

    plain: int
    """Small answers and downloads."""
    echo: int


def start_backends(
    stack: ExitStack, directory: Path, cores: frozenset[int], rng: Random
) -> Backends:
    """nginx for what it can serve, our own origin for the echo, and for all without nginx."""
    echo = free_port(rng)
    origin = Server(
        "origin",
        [sys.executable, "-m", "bench.origin", str(echo)],
        directory=Path(__file__).parent.parent,
        log=directory / "origin.log",
        cores=cores,
    )
    stack.callback(origin.stop)
    origin.wait_ready(lambda: check_answer(SCENARIOS["small_get"], echo))
    nginx = Nginx().find()
    if nginx is None:
        return Backends(plain=echo, echo=echo)
    plain = free_port(rng)
    for name, size in (("1m", MIB), ("100m", 100 * MIB)):
        with (directory / name).open("wb") as file:
            file.truncate(size)
    (directory / "backend.conf").write_text(_backend_conf(directory, plain))
    server = Server(
        "backend",
        [nginx, "-p", str(directory), "-e", "stderr", "-c", "backend.conf"],
        directory=directory,
        log=directory / "backend.log",
        cores=cores,
    )
    stack.callback(server.stop)
    server.wait_ready(lambda: check_answer(SCENARIOS["small_get"], plain))
    return Backends(plain=plain, echo=echo)


def _backend_conf(directory: Path, port: int) -> str:
    body = SMALL_BODY.decode().replace("'", "\\'")
    return f"""\
{nginx_base(1)}
http {{
{NGINX_HTTP}
  sendfile on;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/octet-stream;
    root {directory};
    location = /small {{ default_type application/json; return 200 '{body}'; }}
    location / {{ }}
  }}
}}
"""


def check_answer(scenario: Scenario, port: int) -> None:
    """Send the scenario's request once. AnswerError when the answer is not the right one,
    OSError or ValueError when there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_LIMIT)
    try:
        headers = dict(scenario.headers)
        connection.request(scenario.method, scenario.path, scenario.body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise AnswerError(f"{scenario.path}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise AnswerError(f"{scenario.path}: status {answer.status}, expected 200")
    if len(content) != scenario.answer:
        raise AnswerError(f"{scenario.path}: {len(content)} bytes, expected {scenario.answer}")
    if scenario.body and content != scenario.body:
        raise AnswerError(f"{scenario.path}: the body came back changed")


class Measurement:
    """Owns the proxies of one scenario, from their start to their stop."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        backends: Backends,
        load: LoadPlan,
        cores: frozenset[int],
        directory: Path,
        open_files: int,
        rng: Random,
    ) -> None:
        self._scenario = scenario
        self._backend = backends.echo if scenario.body else backends.plain
        self._load = load
        self._cores = cores
        self._directory = directory
        self._open_files = open_files
        self._rng = rng
        self._running: dict[str, tuple[Server, int]] = {}
        self.failures: list[str] = []
        """`peer: what went wrong`, for each peer that is missing from the result."""

    def run(self, peers: Sequence[Peer], rounds: int, seconds: float) -> dict[str, list[Sample]]:
        """Samples by peer, of the peers that ran through all rounds.

        All proxies are up for the whole scenario and idle but one. Every round visits each
        of them once, each round beginning with another, so that a disturbance that lasts
        longer than a measurement meets all of them.
        """
        samples: dict[str, list[Sample]] = {}
        seconds = max(seconds, self._scenario.least_seconds)
        with ExitStack() as stack:
            stack.callback(self._terminate_all)
            for peer in peers:
                self._start(stack, peer)
            for name in list(self._running):
                self._prepare(name)
            for number in range(rounds):
                names = list(self._running)
                shift = number % len(names) if names else 0
                for name in names[shift:] + names[:shift]:
                    try:
                        sample = self._sample(name, number, seconds)
                    except LoadError as error:
                        self._fail(name, f"round {number}: {error}")
                    else:
                        samples.setdefault(name, []).append(sample)
            # The stack stops in reverse order; asking all of them first makes it one wait.
            self._terminate_all()
        return {peer.name: samples[peer.name] for peer in peers if peer.name in self._running}

    def _start(self, stack: ExitStack, peer: Peer) -> None:
        directory = Path(
            stack.enter_context(TemporaryDirectory(prefix=f"{peer.name}-", dir=self._directory))
        )
        setup = Setup(
            directory=directory,
            port=free_port(self._rng),
            admin_port=free_port(self._rng),
            backend_port=self._backend,
            workers=self._scenario.workers,
            open_files=self._open_files,
        )
        try:
            server = peer.start(setup, self._cores)
        except StartError as error:
            self.failures.append(f"{self._scenario.name}: {error}")
            return
        stack.callback(server.stop)
        self._running[peer.name] = server, setup.port

    def _prepare(self, name: str) -> None:
        """Wait until the proxy answers, check the answer, warm it up."""
        server, port = self._running[name]
        try:
            server.wait_ready(lambda: check_answer(SCENARIOS["small_get"], port))
            check_answer(self._scenario, port)
            self._load.run(self._scenario, port, max(WARM_UP, self._scenario.least_seconds / 3))
        except StartError as error:
            self._fail(name, str(error), server_known=True)
        except (OSError, ValueError, LoadError) as error:
            self._fail(name, f"{error}; {server.log_end()}")

    def _sample(self, name: str, number: int, seconds: float) -> Sample:
        server, port = self._running[name]
        begun, busy = time.monotonic(), core_busy_seconds(self._cores)
        before = server.usage()
        seen = self._load.run(self._scenario, port, seconds)
        after = server.usage()
        busy = core_busy_seconds(self._cores) - busy
        available = (time.monotonic() - begun) * len(self._cores)
        if after.pids != before.pids:
            raise LoadError(f"processes came or went meanwhile: {server.log_end()}")
        if not (seen.bytes if self._scenario.unit == "MiB" else seen.requests):
            raise LoadError(f"no request was answered, {seen.errors} errors: {server.log_end()}")
        cpu = after.cpu_ns - before.cpu_ns
        children = after.children_ns - before.children_ns
        user = after.user_ticks - before.user_ticks
        system = after.system_ticks - before.system_ticks
        return Sample(
            round=number,
            requests=seen.requests,
            bytes=seen.bytes,
            seconds=seen.seconds,
            p50_us=seen.p50_us,
            p99_us=seen.p99_us,
            errors=seen.errors,
            cpu_us=cpu / 1000,
            workers_cpu_us=(children if len(after.pids) > 1 else cpu) / 1000,
            system_share=system / max(1, user + system),
            peak_rss=after.peak_rss,
            pss=after.pss,
            foreign_share=max(0.0, busy - cpu / 1e9) / available,
        )

    def _fail(self, name: str, reason: str, *, server_known: bool = False) -> None:
        del self._running[name]
        prefix = "" if server_known else f"{name}: "
        self.failures.append(f"{self._scenario.name}: {prefix}{reason}")

    def _terminate_all(self) -> None:
        for server, _ in self._running.values():
            server.terminate()
