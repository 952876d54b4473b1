"""The load: `wrk` where it is installed, else a generator of our own (`python -m bench.load`),
which is also the one for WebSockets, and for TLS handshakes: wrk resumes whatever it can. For
HTTP/2 it is `h2load`.

All run as a process of their own on the load's cores, keep one request in flight on each
connection (h2load as many as the scenario says), and print one line `BENCH {json}` that
`parse_summary` reads, but for h2load, which has a report and a log of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import re
import signal
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import msgspec
import uvloop

from bench.certificates import NAME
from bench.processes import placed_on
from bench.scenarios import SCENARIOS, TRACE_HEADER, TRACE_ID, Scenario
from bench.websocket import FIELDS, KEY, accept, frame
from tests.support.load import Client, Load

END_LIMIT = 20.0
"""Seconds the load may take to finish after it was told to stop."""
REQUEST_LIMIT = 10
"""Seconds after which wrk counts a request as timed out."""


class LoadError(Exception):
    """The load did not run to its end."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the clients saw in one measurement."""

    requests: int
    """Answers received whole."""
    bytes: int
    """Bytes received, of unfinished answers too."""
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float = 0.0
    """0 = not measured."""
    errors: int
    """Failed connects, reads and writes, time-outs, and answers of status 400 and above."""


_LINE = re.compile(r"^BENCH (\{.*\})$", re.MULTILINE)


def parse_summary(output: str) -> Summary:
    """The summary in a load's output. LoadError when there is none, or a bad one."""
    match = _LINE.search(output)
    if match is None:
        last = output.strip().rpartition("\n")[2][-300:] or "no output"
        raise LoadError(f"the load printed no summary: {last}")
    try:
        return msgspec.json.decode(match.group(1), type=Summary)
    except msgspec.DecodeError as error:
        raise LoadError(f"the load's summary is unreadable: {error}: {match.group(1)}") from error


_H2LOAD = re.compile(r"^traffic: .*?\((\d+)\) total", re.MULTILINE)


def parse_h2load(output: str, log: str, seconds: float) -> Summary:
    """The summary of a run of h2load that took so long: its report, and its log, which has a line
    of start, status (-1 = none) and microseconds for each request."""
    traffic = _H2LOAD.search(output)
    rows = [line.split("\t") for line in log.splitlines()]
    if traffic is None or not all(len(row) >= 3 for row in rows):
        last = output.strip().rpartition("\n")[2][-300:] or "no output"
        raise LoadError(f"h2load printed no report: {last}")
    times = sorted(int(row[2]) for row in rows if row[1] == "200")
    if not times:
        raise LoadError("h2load got no answer")
    return Summary(
        requests=len(times),
        bytes=int(traffic[1]),
        seconds=seconds,
        p50_us=float(times[len(times) // 2]),
        p99_us=float(times[len(times) * 99 // 100]),
        errors=len(rows) - len(times),
    )


def wrk_script(scenario: Scenario) -> str:
    """The Lua script that makes wrk send exactly the scenario's request and print the line.

    wrk builds the request once and adds Host and Content-Length itself.
    """
    lines = [f"wrk.method = {_lua(scenario.method.encode())}"]
    lines += [
        f"wrk.headers[{_lua(name.encode())}] = {_lua(value.encode())}"
        for name, value in scenario.headers
    ]
    if scenario.body:
        lines.append(f"wrk.body = {_lua(scenario.body)}")
    if scenario.traced:
        lines.append(_WRK_TRACED)
    lines.append(_WRK_DONE)
    return "\n".join(lines)


_WRK_TRACED = f"""\
local count = 0
local before, after
init = function(args)
  math.randomseed(os.time())
  count = math.random(0, 2 ^ 30)
  wrk.headers["{TRACE_HEADER}"] = "{TRACE_ID.replace("{:032x}", "@")}"
  before, after = wrk.format():match("^(.*)@(.*)$")
end
request = function()
  count = count + 1
  return before .. string.format("%032x", count) .. after
end
"""

_WRK_DONE = """\
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    'BENCH {"requests":%.0f,"bytes":%.0f,"seconds":%.6f,"p50_us":%.1f,"p99_us":%.1f,"errors":%.0f}',
    summary.requests, summary.bytes, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def _lua(value: bytes) -> str:
    """A Lua string literal; every byte that is not plain is written as a decimal escape."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in value
    )
    return '"' + "".join(plain) + '"'


@dataclass(frozen=True)
class LoadPlan:
    """How loads are run on this machine."""

    wrk: str | None
    cores: frozenset[int]
    directory: Path

    def run(self, scenario: Scenario, port: int, seconds: float, rate: float = 0.0) -> Summary:
        """Load one proxy for about `seconds` (wrk ends on its next 100 ms). `rate`: requests a
        second, however long answers take; 0 = each client asks again when it has its answer."""
        if scenario.streams:
            return self._h2load(scenario, port, seconds)
        if self.wrk is None or scenario.websocket or scenario.handshakes or rate:
            command, limit = self._own(scenario, port, seconds, rate), seconds + END_LIMIT
        else:
            command, limit = self._wrk(self.wrk, scenario, port, seconds), seconds
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent.parent,
            preexec_fn=placed_on(self.cores),
        )
        try:
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                # wrk counts in whole seconds; an interrupt ends it cleanly at any time.
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=END_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the load did not end within {END_LIMIT:.0f} s") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        return parse_summary(output)

    def _wrk(self, wrk: str, scenario: Scenario, port: int, seconds: float) -> Sequence[str]:
        # One second more than it gets: the interrupt ends it, this is for when none comes.
        script = self.directory / f"{scenario.name}.lua"
        if not script.exists():
            script.write_text(wrk_script(scenario))
        return (
            wrk, "--threads", str(min(len(self.cores), 4)),
            "--connections", str(scenario.connections), "--duration", str(math.ceil(seconds) + 1),
            "--timeout", str(REQUEST_LIMIT), "--script", str(script),
            f"http{'s' * bool(scenario.tls)}://127.0.0.1:{port}{scenario.path}",
        )  # fmt: skip

    def _h2load(self, scenario: Scenario, port: int, seconds: float) -> Summary:
        log = self.directory / "h2load.log"
        log.unlink(missing_ok=True)
        fields = [f"--header={name}: {value}" for name, value in scenario.headers]
        if scenario.body:
            sent = self.directory / f"{scenario.name}.body"
            sent.write_bytes(scenario.body)
            fields.append(f"--data={sent}")
        milliseconds = max(1, round(seconds * 1000))
        command = [
            "h2load", f"--clients={scenario.connections}", f"--duration={milliseconds}ms",
            f"--max-concurrent-streams={scenario.streams}", f"--log-file={log}", *fields,
            f"http{'s' * bool(scenario.tls)}://127.0.0.1:{port}{scenario.path}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds + END_LIMIT,
                preexec_fn=placed_on(self.cores),
                check=False,
            )
        except FileNotFoundError:
            raise LoadError(
                "h2load is not installed, and nothing else here speaks HTTP/2"
            ) from None
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the load did not end within {END_LIMIT:.0f} s") from error
        return parse_h2load(done.stdout, log.read_text() if log.exists() else "", seconds)

    def _own(self, scenario: Scenario, port: int, seconds: float, rate: float) -> Sequence[str]:
        what = (scenario.name, str(port), str(seconds), str(rate))
        return (sys.executable, "-m", "bench.load", *what)


# ------------------------------------------------------------------- the generator of our own


class _Load(Load):
    """Owns the counts of one run."""

    def __init__(self, scenario: Scenario, port: int) -> None:
        super().__init__(port, _requests(scenario, port), clients=scenario.connections)
        self.scenario = scenario
        self.latencies: list[float] = []
        self.errors = 0
        self.resumed = 0
        if scenario.tls:
            self.tls, self.name = client_tls(), NAME

    def client(self) -> Client:
        return _Chatter(self) if self.scenario.websocket else _Client(self)

    def on_answer(self, client: Client) -> None:
        self.latencies.append(client.ended - client.began)
        if client.status >= 400:
            self.errors += 1
        if self.scenario.handshakes == "resumed":
            assert client.transport is not None
            assert isinstance(self.tls, Resuming)
            tls: ssl.SSLObject = client.transport.get_extra_info("ssl_object")
            self.resumed += bool(tls.session_reused)
            self.tls.session = tls.session

    def on_failure(self, client: Client, error: BaseException) -> None:
        self.errors += 1


class Resuming(ssl.SSLContext):
    """A client's context whose new connections offer `session`, if there is one; asyncio has no
    parameter for that."""

    session: ssl.SSLSession | None = None

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext`."""
        return super().wrap_bio(*arguments, **options, session=self.session)


def client_tls() -> Resuming:
    """A context for TLS 1.3 that takes any certificate."""
    context = Resuming(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Client(Client):
    """A client that keeps nothing of an answer's body: what is None is never called."""

    on_message_begin = on_body = None


class OpenLoad(_Load):
    """Owns when requests are due, and who is free for them.

    A request that is due while no client is free waits, and its time counts from then, not from
    when it was sent at last: otherwise a proxy that stalls would be asked less meanwhile, and the
    stall be one slow answer instead of many (coordinated omission). That our own timer is a
    millisecond late is not the proxy's doing: where a client is free, its time counts from the
    sending.
    """

    def __init__(self, scenario: Scenario, port: int, rate: float) -> None:
        super().__init__(scenario, port)
        self._rate = rate
        self.sent = 0
        self._idle: deque[_OpenClient] = deque()
        self.started = 0.0
        """When the clock was started; 0 = not yet."""

    def client(self) -> Client:
        return _OpenClient(self)

    def due(self, now: float) -> int:
        """Requests that should have been sent by now."""
        return int((now - self.started) * self._rate) if self.started else 0

    def begin(self) -> None:
        """Start the clock."""
        self.started = monotonic()
        self._tick()

    def _tick(self) -> None:
        if not self.stopping:
            now = monotonic()
            while self._idle and self.sent < self.due(now):
                self.sent += 1
                self._idle.popleft().send(now)
            asyncio.get_running_loop().call_later(0.001, self._tick)

    def give(self, client: _OpenClient) -> None:
        """A client is free."""
        if self.sent < self.due(monotonic()):
            self.sent += 1
            client.send(self.started + self.sent / self._rate)
        else:
            self._idle.append(client)

    def owed(self, now: float) -> list[float]:
        """How long the requests have waited by now that nobody was free for."""
        numbers = range(self.sent + 1, self.due(now) + 1)
        return [now - self.started - number / self._rate for number in numbers]


class _OpenClient(_Client):
    """A client that asks when a request is due."""

    def ask(self) -> None:
        assert isinstance(self.load, OpenLoad)
        if self.load.stopping:
            self.close()
        else:
            self.load.give(self)

    def send(self, began: float) -> None:
        """Ask; the answer is awaited since then."""
        if self.transport is None:
            return  # It was closed while it was free; the next connection is free again.
        super().ask()
        self.began = began


class _Chatter(Client):
    """Owns one WebSocket: shakes hands, sends a message, waits for its echo, sends it again."""

    def __init__(self, load: _Load) -> None:
        super().__init__(load)
        self._hello = handshake(load.scenario, load.port)
        self._echo = frame(load.scenario.body, masked=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._pending = b""
        self._open = False
        self.asking = True
        self.transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self.load.received += len(data)
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if data == self._echo and self._open:
            self.ended = monotonic()
            self.load.on_answer(self)
            self.ask()
        elif self._echo.startswith(data) if self._open else b"\r\n\r\n" not in data:
            self._pending = data
        elif not self._open and switched(data):
            self._open = True
            self.ask()
        else:
            self.close()  # Which is counted as an error.


def handshake(scenario: Scenario, port: int) -> bytes:
    """The request that opens a WebSocket."""
    lines = [f"GET {scenario.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in (*scenario.headers, *FIELDS)]
    return "\r\n".join((*lines, "", "")).encode()


def switched(head: bytes) -> bool:
    """The answer accepts our handshake, and nothing follows it."""
    first, _, fields = head.partition(b"\r\n")
    name, value = b"\r\nsec-websocket-accept: ", accept(KEY) + b"\r\n"
    fields = b"\r\n" + fields
    at = fields.lower().find(name)
    return (
        first.startswith(b"HTTP/1.1 101 ")
        and head.endswith(b"\r\n\r\n")
        and at >= 0
        and fields.startswith(value, at + len(name))
    )


def request_bytes(scenario: Scenario, port: int, trace: int = 0) -> bytes:
    """The scenario's request on the wire; `trace` is its number, where each has one."""
    lines = [f"{scenario.method} {scenario.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in scenario.headers]
    if scenario.traced:
        lines.append(f"{TRACE_HEADER}: {TRACE_ID.format(trace)}")
    if scenario.body:
        lines.append(f"Content-Length: {len(scenario.body)}")
    return "\r\n".join((*lines, "", "")).encode() + scenario.body


def _requests(scenario: Scenario, port: int) -> Iterator[bytes]:
    if scenario.websocket:
        return itertools.repeat(frame(scenario.body, masked=True))
    if not scenario.traced:
        return itertools.repeat(request_bytes(scenario, port))
    return (request_bytes(scenario, port, trace) for trace in itertools.count(time.time_ns()))


async def _run(scenario: Scenario, port: int, seconds: float, rate: float) -> Mapping[str, float]:
    load = OpenLoad(scenario, port, rate) if rate else _Load(scenario, port)
    started = monotonic()
    async with load:
        if isinstance(load, OpenLoad):
            await asyncio.sleep(0.3)  # All clients are connected.
            load.begin()
        await asyncio.sleep(seconds)
        seconds = monotonic() - started
        if isinstance(load, OpenLoad):
            load.latencies += load.owed(monotonic())
        ordered = sorted(load.latencies)
        summary = {
            "requests": len(ordered),
            "bytes": load.received,
            "seconds": seconds,
            "p50_us": percentile(ordered, 0.50) * 1e6,
            "p99_us": percentile(ordered, 0.99) * 1e6,
            "p999_us": percentile(ordered, 0.999) * 1e6,
            "errors": load.errors + _unwanted(load),
        }
        await load.close()
    return summary


def _unwanted(load: _Load) -> int:
    """Full handshakes where sessions should have been resumed. The first of each client has none
    to resume."""
    if load.scenario.handshakes != "resumed":
        return 0
    return max(0, len(load.latencies) - load.scenario.connections - load.resumed)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of an ordered sequence does not exceed; 0 of an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load one port for a while.")
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("rate", type=float, nargs="?", default=0.0)
    options = parser.parse_args()
    scenario = SCENARIOS[options.scenario]
    print(
        "BENCH "
        + json.dumps(uvloop.run(_run(scenario, options.port, options.seconds, options.rate)))
    )
