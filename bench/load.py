"""The load: `wrk` where it is installed, else a generator of our own (`python -m bench.load`),
which is also the one for WebSockets.

Both run as a process of their own on the load's cores, keep one request in flight on each
connection, and print one line `BENCH {json}` that `parse_summary` reads.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httptools
import msgspec
import uvloop

from bench.processes import placed_on
from bench.scenarios import SCENARIOS, TRACE_HEADER, TRACE_ID, Scenario
from bench.websocket import FIELDS, KEY, accept, frame

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

    def run(self, scenario: Scenario, port: int, seconds: float) -> Summary:
        """Load one proxy for about `seconds` (wrk ends on its next 100 ms)."""
        if self.wrk is None or scenario.websocket:
            command, limit = self._own(scenario, port, seconds), seconds + END_LIMIT
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
            f"http://127.0.0.1:{port}{scenario.path}",
        )  # fmt: skip

    def _own(self, scenario: Scenario, port: int, seconds: float) -> Sequence[str]:
        return (sys.executable, "-m", "bench.load", scenario.name, str(port), str(seconds))


# ------------------------------------------------------------------- the generator of our own


class _Totals:
    """Owns the counts of one run."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.bytes = 0
        self.errors = 0
        self.stopping = False


class _Client(asyncio.Protocol):
    """Owns one connection: sends the request, waits for the answer, sends it again."""

    def __init__(self, requests: Iterator[bytes], totals: _Totals) -> None:
        self._requests = requests
        self._totals = totals
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self._answering = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only shaped like them.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering and not self._totals.stopping:
            self._totals.errors += 1
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._totals.bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_complete(self) -> None:
        self._answering = False
        self._totals.latencies.append(time.perf_counter() - self._sent)
        if self._parser.get_status_code() >= 400:
            self._totals.errors += 1
        if self._totals.stopping or not self._parser.should_keep_alive():
            self.close()
        else:
            self._send()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        self._answering = True
        self._sent = time.perf_counter()
        if self._transport is not None:
            self._transport.write(next(self._requests))


class _Chatter(asyncio.Protocol):
    """Owns one WebSocket: shakes hands, sends a message, waits for its echo, sends it again."""

    def __init__(self, scenario: Scenario, port: int, totals: _Totals) -> None:
        self._hello = handshake(scenario, port)
        self._message = frame(scenario.body, masked=True)
        self._echo = frame(scenario.body, masked=False)
        self._totals = totals
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self._open = False
        self._sent = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._totals.stopping:
            self._totals.errors += 1
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        totals = self._totals
        totals.bytes += len(data)
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if data == self._echo and self._open:
            totals.latencies.append(time.perf_counter() - self._sent)
            self._send()
        elif self._echo.startswith(data) if self._open else b"\r\n\r\n" not in data:
            self._pending = data
        elif not self._open and switched(data):
            self._open = True
            self._send()
        else:
            self.close()  # Which is counted as an error.

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        if self._transport is not None and not self._totals.stopping:
            self._sent = time.perf_counter()
            self._transport.write(self._message)


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
    if not scenario.traced:
        return itertools.repeat(request_bytes(scenario, port))
    return (request_bytes(scenario, port, trace) for trace in itertools.count(time.time_ns()))


async def _run(scenario: Scenario, port: int, seconds: float) -> Mapping[str, float]:
    loop = asyncio.get_running_loop()
    totals = _Totals()
    requests = _requests(scenario, port)
    live: set[_Client | _Chatter] = set()

    def make() -> _Client | _Chatter:
        if scenario.websocket:
            return _Chatter(scenario, port, totals)
        return _Client(requests, totals)

    async def client() -> None:
        while not totals.stopping:
            try:
                _, protocol = await asyncio.wait_for(
                    loop.create_connection(make, "127.0.0.1", port),
                    REQUEST_LIMIT,
                )
            except OSError:
                totals.errors += 1
                await asyncio.sleep(0.01)
                continue
            live.add(protocol)
            await protocol.closed
            live.discard(protocol)

    started = time.perf_counter()
    tasks = [loop.create_task(client()) for _ in range(scenario.connections)]
    await asyncio.sleep(seconds)
    seconds = time.perf_counter() - started
    totals.stopping = True
    for protocol in live:
        protocol.close()
    await asyncio.wait(tasks, timeout=5.0)
    ordered = sorted(totals.latencies)
    return {
        "requests": len(ordered),
        "bytes": totals.bytes,
        "seconds": seconds,
        "p50_us": percentile(ordered, 0.50) * 1e6,
        "p99_us": percentile(ordered, 0.99) * 1e6,
        "errors": totals.errors,
    }


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
    options = parser.parse_args()
    scenario = SCENARIOS[options.scenario]
    print("BENCH " + json.dumps(uvloop.run(_run(scenario, options.port, options.seconds))))
