"""Running one scenario: start every proxy, check its answer, load each in turn, take samples."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.certificates import Certificates
from bench.load import LoadError, LoadPlan, client_tls, handshake, switched
from bench.peers import NGINX_HTTP, Nginx, Peer, Setup, nginx_base, nginx_tls
from bench.processes import Server, StartError, core_busy_seconds
from bench.report import REFERENCE, Against, Sample
from bench.rounds import MOST, counting, pace
from bench.scenarios import MIB, SCENARIOS, SMALL_BODY, Scenario, Variant
from bench.websocket import frame
from tests.support.processes import free_port

WARM_UP = 0.3
"""Seconds of load before the first round, unmeasured: connections, caches, lazy imports."""
PROBE_LIMIT = 10.0
"""Seconds for the one request that checks a proxy's answer."""


LOG_LIMIT = 12.0
"""Seconds an access log may stay empty; Envoy writes out what it has every ten."""


GRPC_SERVER = Path(__file__).parent.parent / "build" / "go" / "grpc"
"""Built by `.ci/go`."""


class AnswerError(ValueError):
    """A proxy's answer is not the backend's."""


@dataclass(frozen=True)
class Backends:
    """Ports of the servers behind the proxies."""

    plain: int
    """Small answers and downloads."""
    echo: int
    tls: int
    """Small answers over TLS; 0 = there is none."""
    http2: int = 0
    """Small answers over HTTP/2 in clear text; 0 = there is none."""
    grpc: int = 0
    """Calls of gRPC; 0 = there is none."""


def start_backends(
    stack: ExitStack, directory: Path, cores: frozenset[int], certificates: Certificates
) -> Backends:
    """nginx for what it can serve, our own origin for the echo, and without nginx for all but
    TLS."""
    echo = free_port()
    origin = Server(
        "origin",
        [sys.executable, "-m", "bench.origin", str(echo)],
        directory=Path(__file__).parent.parent,
        log=directory / "origin.log",
        cores=cores,
    )
    stack.callback(origin.stop)
    origin.wait_ready(lambda: check_answer(SCENARIOS["small_get"], echo))
    grpc = 0
    if GRPC_SERVER.exists():
        grpc = free_port()
        called = Server(
            "grpc",
            [str(GRPC_SERVER), "server", str(grpc)],
            directory=directory,
            log=directory / "grpc.log",
            cores=cores,
        )
        stack.callback(called.stop)
        called.wait_ready(lambda: check_answer(SCENARIOS["grpc_unary"], grpc))
    nginx = Nginx().find()
    if nginx is None:
        return Backends(plain=echo, echo=echo, tls=0, grpc=grpc)
    plain, tls, http2 = free_port(), free_port(), free_port()
    for name, size in (("1m", MIB), ("100m", 100 * MIB)):
        with (directory / name).open("wb") as file:
            file.truncate(size)
    (directory / "backend.conf").write_text(
        _backend_conf(directory, plain, tls, http2, certificates.of("ec"))
    )
    server = Server(
        "backend",
        [nginx, "-p", str(directory), "-e", "stderr", "-c", "backend.conf"],
        directory=directory,
        log=directory / "backend.log",
        cores=cores,
    )
    stack.callback(server.stop)
    server.wait_ready(lambda: check_answer(SCENARIOS["small_get"], plain))
    return Backends(plain=plain, echo=echo, tls=tls, http2=http2, grpc=grpc)


def _backend_conf(directory: Path, port: int, tls: int, http2: int, certificate: Path) -> str:
    body = SMALL_BODY.decode().replace("'", "\\'")
    return f"""\
{nginx_base(1)}
http {{
{NGINX_HTTP}
  access_log off;
  sendfile on;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls} ssl backlog=4096;
    listen 127.0.0.1:{http2} http2 backlog=4096;
    {nginx_tls(certificate)}
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
    if scenario.websocket:
        _check_echo(scenario, port)
        return
    if scenario.streams:
        _check_http2(scenario, port)
        return
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=PROBE_LIMIT, context=client_tls())
        if scenario.tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_LIMIT)
    )
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


def _check_http2(scenario: Scenario, port: int) -> None:
    """By curl, whose HTTP/2 is nobody's here."""
    url = f"http{'s' * bool(scenario.tls)}://127.0.0.1:{port}{scenario.path}"
    way = "--http2" if scenario.tls else "--http2-prior-knowledge"
    fields = [part for field in scenario.headers for part in ("-H", ": ".join(field))]
    sent = ["--data-binary", "@-"] if scenario.body else []
    shown = ["-w", "%{http_version} %{http_code} ", "-o", "-"]
    command = ["curl", "-sk", way, *shown, *fields, *sent, url]
    try:
        done = subprocess.run(
            command, input=scenario.body, capture_output=True, timeout=PROBE_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AnswerError(f"{scenario.path}: curl: {error}") from error
    if done.returncode == 7:
        raise ConnectionRefusedError("curl could not connect")
    if done.stdout[scenario.answer :] != b"2 200 ":
        raise AnswerError(f"{scenario.path}: curl ended with {done.returncode}: {done.stdout!r}")


def _check_echo(scenario: Scenario, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PROBE_LIMIT) as wire:
        wire.sendall(handshake(scenario, port))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = wire.recv(4096)
            if not piece:
                raise AnswerError(f"{scenario.path}: no answer to the handshake")
            head += piece
        if not switched(head):
            status = head.partition(b"\r\n")[0].decode("latin-1")
            raise AnswerError(f"{scenario.path}: the handshake was answered with {status}")
        wire.sendall(frame(scenario.body, masked=True))
        expected = frame(scenario.body, masked=False)
        echo = b""
        while len(echo) < len(expected) and (piece := wire.recv(4096)):
            echo += piece
    if echo != expected:
        raise AnswerError(f"{scenario.path}: the message came back changed")


def contenders(scenario: Scenario, peers: Sequence[Peer]) -> list[Contender]:
    """Who takes part: every peer in every variant that can be had of it."""
    return [
        Contender(f"{peer.name} {variant.suffix}".strip(), peer, variant)
        for peer in peers
        for variant in scenario.variants
        if peer.known or not variant.access_log
    ]


@dataclass(frozen=True)
class Contender:
    """One line of the table."""

    label: str
    peer: Peer
    variant: Variant

    @property
    def against(self) -> Against:
        """Compared with the reference in the same variant, and with itself in the first."""
        suffix = self.variant.suffix
        return Against(f"{REFERENCE} {suffix}".strip(), self.peer.name if suffix else "")


@dataclass
class _Running:
    server: Server
    port: int
    access_log: Path | None
    rest_rss: int = 0
    """Resident memory before the first request of the scenario."""


class Measurement:
    """Owns the proxies of one scenario, from their start to their stop."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        backends: Backends,
        certificates: Certificates,
        load: LoadPlan,
        cores: frozenset[int],
        directory: Path,
        open_files: int,
    ) -> None:
        self._scenario = scenario
        self._backend = (
            backends.tls
            if scenario.tls_to_instances
            else backends.grpc
            if scenario.grpc
            else backends.http2
            if scenario.http2_to_instances
            else backends.echo
            if scenario.echoed
            else backends.plain
        )
        self._certificates = certificates
        self._load = load
        self._cores = cores
        self._directory = directory
        self._open_files = open_files
        self._running: dict[str, _Running] = {}
        self._rate = 0.0
        """Requests a second, where that is given."""
        self.thrown_out = 0
        """Rounds that do not count."""
        self.failures: list[str] = []
        """`peer: what went wrong`, for each peer that is missing from the result."""

    def run(
        self, entered: Sequence[Contender], rounds: int, seconds: float
    ) -> dict[str, list[Sample]]:
        """Samples by label, of the contenders that ran through all rounds.

        All proxies are up for the whole scenario and idle but one. Every round visits each
        of them once, each round beginning with another, so that a disturbance that lasts
        longer than a measurement meets all of them. Rounds in which the machine was slower than
        in others do not count (`rounds.counting`), and there are more instead.
        """
        samples: dict[str, list[Sample]] = {}
        seconds = max(seconds, self._scenario.least_seconds)
        with ExitStack() as stack:
            stack.callback(self._terminate_all)
            for contender in entered:
                self._start(stack, contender)
            for name in list(self._running):
                self._prepare(name)
            number = 0
            paces: list[tuple[float, float]] = []
            counted: list[int] = []
            while len(counted) < rounds and number < MOST * rounds and self._running:
                before = pace(self._cores)
                names = list(self._running)
                shift = number % len(names) if names else 0
                for name in names[shift:] + names[:shift]:
                    try:
                        sample = self._sample(name, number, seconds)
                    except LoadError as error:
                        self._fail(name, f"round {number}: {error}")
                    else:
                        samples.setdefault(name, []).append(sample)
                paces.append((before, pace(self._cores)))
                counted = counting(paces)
                number += 1
            self.thrown_out = number - len(counted)
            # The stack stops in reverse order; asking all of them first makes it one wait.
            self._terminate_all()
        return {
            one.label: [each for each in samples[one.label] if each.round in counted]
            for one in entered
            if one.label in self._running
        }

    def _start(self, stack: ExitStack, contender: Contender) -> None:
        peer, variant = contender.peer, contender.variant
        directory = Path(
            stack.enter_context(TemporaryDirectory(prefix=f"{peer.name}-", dir=self._directory))
        )
        setup = Setup(
            directory=directory,
            port=free_port(),
            admin_port=free_port(),
            backend_port=self._backend,
            workers=variant.workers,
            open_files=self._open_files,
            # With fewer, those that must be told would dial anew for most requests.
            idle=max(64, self._scenario.connections),
            websocket=self._scenario.websocket,
            certificate=self._certificates.of(tls) if (tls := self._scenario.tls) else None,
            instance_authority=(
                self._certificates.authority if self._scenario.tls_to_instances else None
            ),
            http2=self._scenario.streams > 0,
            http2_to_instances=self._scenario.http2_to_instances,
            access_log=variant.access_log,
        )
        try:
            server = peer.start(setup, self._cores)
        except StartError as error:
            self.failures.append(f"{self._scenario.name}: {contender.label}: {error}")
            return
        stack.callback(server.stop)
        self._running[contender.label] = _Running(
            server, setup.port, peer.access_log(setup) if variant.access_log else None
        )

    def _prepare(self, name: str) -> None:
        """Wait until the proxy answers, check the answer, warm it up."""
        running = self._running[name]
        server, port = running.server, running.port
        try:
            scenario = self._scenario
            first = replace(SCENARIOS["small_get"], tls=scenario.tls, streams=scenario.streams)
            if scenario.grpc:
                first = scenario
            server.wait_ready(lambda: check_answer(first, port))
            running.rest_rss = server.usage().rss
            check_answer(self._scenario, port)
            warm = max(WARM_UP, self._scenario.least_seconds / 3)
            seen = self._load.run(self._scenario, port, warm)
            if self._scenario.open_loop and not self._rate:
                self._rate = seen.requests / seen.seconds / 2
            if running.access_log is not None:
                _check_log(running.access_log)
        except StartError as error:
            self._fail(name, str(error))
        except (OSError, ValueError, LoadError) as error:
            self._fail(name, f"{error}; {server.log_end()}")

    def _sample(self, name: str, number: int, seconds: float) -> Sample:
        server, port = self._running[name].server, self._running[name].port
        begun, busy = time.monotonic(), core_busy_seconds(self._cores)
        before = server.usage()
        seen = self._load.run(self._scenario, port, seconds, self._rate)
        after = server.usage()
        busy = core_busy_seconds(self._cores) - busy
        available = (time.monotonic() - begun) * len(self._cores)
        if after.pids != before.pids:
            raise LoadError(f"processes came or went meanwhile: {server.log_end()}")
        if not (seen.bytes if self._scenario.unit == "MiB" else seen.requests):
            raise LoadError(f"no request was answered, {seen.errors} errors: {server.log_end()}")
        cpu = after.cpu_ns - before.cpu_ns
        workers = after.workers_ns - before.workers_ns
        user = after.user_ticks - before.user_ticks
        system = after.system_ticks - before.system_ticks
        return Sample(
            round=number,
            requests=seen.requests,
            bytes=seen.bytes,
            seconds=seen.seconds,
            p50_us=seen.p50_us,
            p99_us=seen.p99_us,
            p999_us=seen.p999_us,
            errors=seen.errors,
            cpu_us=cpu / 1000,
            workers_cpu_us=workers / 1000,
            system_share=system / max(1, user + system),
            peak_rss=after.peak_rss,
            pss=after.pss,
            rest_rss=self._running[name].rest_rss,
            foreign_share=max(0.0, busy - cpu / 1e9) / available,
        )

    def _fail(self, name: str, reason: str) -> None:
        del self._running[name]
        self.failures.append(f"{self._scenario.name}: {name}: {reason}")

    def _terminate_all(self) -> None:
        for running in self._running.values():
            running.server.terminate()


def _check_log(path: Path) -> None:
    """The warm-up must have left lines behind. AnswerError when the log stays empty; some write
    it only when they have a few kilobytes, or once a second."""
    deadline = time.monotonic() + LOG_LIMIT
    while not path.exists() or not path.stat().st_size:
        if time.monotonic() > deadline:
            raise AnswerError(f"nothing is in the access log after {LOG_LIMIT:g} s")
        time.sleep(0.05)
