"""The data plane alone, in this process: `python -m bench inprocess [--profile]`.

A real `Worker` with real client and instance connections, on transports that only keep count.
No kernel, no network, no event loop in between: what is left is what our own code costs for each
request. Each workload is measured in short blocks of CPU time, in turn with blocks of a fixed
piece of work (`bench/calibration.py`), and the quickest block of each is taken: on a busy machine
some blocks of both still run undisturbed. Their quotient, *units per request*, depends little on
the machine; it is what the guard (`bench/guard.py`) watches.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import expm1, log1p
from pathlib import Path
from random import Random
from time import monotonic, thread_time_ns
from types import CodeType, FrameType
from typing import Any, cast

import msgspec
from msgspec.structs import replace

import balancers
import proxy
from bench.calibration import units
from bench.http2 import Http2Answers, Http2Requests
from bench.load import client_tls, request_bytes
from bench.scenarios import ECHO_BODY, SCENARIOS, SMALL_BODY
from proxy.engine.accepting import new_connection
from proxy.engine.exchange import new_exchange
from proxy.engine.load import Board
from proxy.engine.worker import Worker
from proxy.log import set_up as set_up_log
from proxy.messages import (
    CertificatePair,
    Configure,
    ListenerCertificates,
    PoolNode,
    Pools,
    PoolSnapshot,
    WorkerConfig,
)
from proxy.settings.access_log import AccessLogSettings
from proxy.settings.listener import ListenerSettings
from proxy.settings.listener_tls import ListenerTls
from proxy.settings.process import LogSettings, TracingSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import Keepalive, ServiceSettings
from tests.support.certificates import Authority

CONNECTIONS = 16
"""Client connections with one request in flight each: enough that caches are not those of a
single connection, few enough that a block of whole turns is short."""
BLOCK = 96
"""Requests in a block, one to two milliseconds: shorter than a time slice."""
TURNS = 20_000
"""Of the loop, in which the first requests must have got to the instance: a password takes many."""
UNITS = 48
"""Units of calibration in a block, about as long."""
DIALLING = 8
"""Turns in which a connection that is passed on has got to the instance."""
NODE = PoolNode("a@10.0.0.1:80", "a", "10.0.0.1", 80, 1, "ready", 1)
NOTED = "noted"
"""By what name `note_between_marks` is counted."""
KEEPALIVE = Keepalive(max_requests=1 << 62, idle=1e9)
"""Connections to the instance last: whoever dialled again would need the loop to turn."""
_PACKAGES = [package.__file__ or "" for package in (balancers, proxy)]
"""Where they are imported from: beside this one, or what `make compiled` built."""


def _answer(body: bytes) -> bytes:
    """What an nginx would say."""
    head = (
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 01 Feb 2025 10:00:00 GMT\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: keep-alive\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True)
class Workload:
    """What goes through. `scenario` is the one of the table that it is the inside of."""

    name: str
    title: str
    scenario: str
    answer: bytes
    observed: bool = False
    """One request in a hundred is traced."""
    reported: bool = False
    """What is told to the control process is encoded, and how long instances took is counted."""
    logged: bool = False
    """There is an access log, into nowhere."""
    fresh: bool = False
    """Each request has a new connection, which its client closes behind the answer."""
    both: bool = False
    """The instance speaks HTTP/2, too."""


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("get", "small GET, the same field block each time", "small_get",
                 _answer(SMALL_BODY)),
        Workload("observed", "small GET, of which one in a hundred is traced", "small_get",
                 _answer(SMALL_BODY), observed=True),
        Workload("reported", "the same, with all that a worker does about it once a second",
                 "small_get", _answer(SMALL_BODY), observed=True, reported=True),
        Workload("traced", "small GET, a trace id of its own in each", "traced_get",
                 _answer(SMALL_BODY)),
        Workload("log", "small GET with an access log", "access_log", _answer(SMALL_BODY),
                 logged=True),
        Workload("connection", "small GET, a new connection for each", "new_connection",
                 _answer(SMALL_BODY), fresh=True),
        Workload("tls_get", "small GET over TLS", "tls_get", _answer(SMALL_BODY)),
        Workload("post", "POST of 16 KiB, echoed", "post_16k", _answer(ECHO_BODY)),
        Workload("h2_get", "small GET over HTTP/2, to HTTP/1.1", "http2_one",
                 _answer(SMALL_BODY)),
        Workload("h2_both", "small GET over HTTP/2 on both sides", "http2_one",
                 _answer(SMALL_BODY), both=True),
    )
}  # fmt: skip


class _Transport(asyncio.Transport):
    """Counts what is written. `written` hears of each write."""

    def __init__(self, written: Callable[[], object], own: str) -> None:
        super().__init__({"peername": ("192.0.2.7", 40000), "sockname": (own, 8080)})
        self._written = written
        self.bytes = 0
        self.closing = False
        self.protocol: Any = None
        """Whose it is to an instance; else the one in the place of that which it was made for."""

    def write(self, data: Any) -> None:
        self.bytes += len(data)
        self._written()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.bytes += len(data)
        self._written()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closing = True

    abort = close


class _Far(_Transport):
    """The far end of it speaks TLS.

    Owns that end's TLS state. It reads nothing once hands are shaken.
    """

    def __init__(self, written: Callable[[], object]) -> None:
        super().__init__(written, "192.0.2.1")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = client_tls().wrap_bio(self._incoming, self._outgoing)

    def write(self, data: Any) -> None:
        self._incoming.write(data)
        super().write(data)

    def shake(self, protocol: asyncio.Protocol, turn: Callable[[], None]) -> None:
        """The handshake; `turn`: lets the proxy's end go on."""
        for _ in range(2):
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                pass
            protocol.data_received(self._outgoing.read())
            turn()

    def encrypt(self, data: bytes) -> bytes:
        """What goes over the wire for it, once."""
        self._incoming.read()
        self._ssl.write(data)
        return self._outgoing.read()


class _Loop(asyncio.SelectorEventLoop):
    """Connects to nobody: whoever dials gets a transport that counts."""

    def __init__(self, asked: list[Any]) -> None:
        super().__init__()
        self._asked = asked
        self.connections: list[_Transport] = []

    async def create_connection(
        self, protocol_factory: Any, *_: Any, sock: socket.socket | None = None, **__: Any
    ) -> Any:
        if sock is not None:
            sock.close()
        transport = _Transport(lambda: self._asked.append(transport.protocol), "10.9.9.9")
        protocol = transport.protocol = protocol_factory()
        protocol.connection_made(transport)
        self.connections.append(transport)
        return transport, protocol


class Plane:
    """Owns a worker, its clients and its connections to instances."""

    def __init__(
        self,
        listener: ListenerSettings | None = None,
        *,
        tls: bool = False,
        http2: bool = False,
        routes: tuple[RouteSpec, ...] = (RouteSpec(path_prefix="/", service="bench"),),
        services: Mapping[str, ServiceSettings] | None = None,
        nodes: tuple[PoolNode, ...] = (NODE,),
        tracing: TracingSettings | None = None,
        access_log: AccessLogSettings | None = None,
        fresh: bool = False,
        turns: bool = False,
        at_once: int = CONNECTIONS,
        instance: Http2Answers | None = None,
    ) -> None:
        """`tls`, `http2`: clients speak it; `services`: those that `routes` lead to, `bench` if
        nothing is said; `nodes`: the instances of each; `fresh`: each request has a new connection;
        `turns`: the loop turns until all is answered that requests ask of others; `at_once`:
        connections of clients; `instance`: the one that there is speaks HTTP/2."""
        self._tls = tls
        self._instance = instance
        self._fresh = fresh
        self._turns = turns
        self._at_once = at_once
        services = services or {"bench": ServiceSettings(keepalive=KEEPALIVE)}
        self._http2 = [Http2Requests() for _ in range(at_once)] if http2 else []
        self._far: list[_Far] = []
        self._asked: list[Any] = []
        """Connections to the instance that a request was written to and not yet answered."""
        self._loop = _Loop(self._asked)
        self._board = Board.create(1)
        listener = listener or ListenerSettings(tls=ListenerTls(certificates=()) if tls else None)
        self.worker = Worker(self._loop, 0, self._board, None, Random(1), monotonic)
        # The loop turns rarely here: nothing is to be put off to its next turn.
        self.worker.services.pace._now = float
        self.worker.on_message(
            Configure(
                WorkerConfig(
                    listeners=(listener,),
                    routes=routes,
                    services=dict(services),
                    via_token="t0k3n",
                    tracing=tracing,
                    access_log=access_log,
                )
            )
        )
        if tls:
            made = Authority().issue("bench.test")
            pair = CertificatePair(made.cert, made.key, made.names, made.kind)
            self.worker.on_message(ListenerCertificates("web", 1, (pair,)))
        snapshots = tuple(PoolSnapshot(name, 1, nodes) for name in services)
        self.worker.on_message(Pools(seq=1, snapshots=snapshots))
        self._encoder = msgspec.msgpack.Encoder()
        self._answered = 0
        self._greeted = False
        self.clients = [self._client() for _ in range(at_once)]

    def _client(self) -> asyncio.Protocol:
        # With TLS or without, data goes in at the same place.
        client = new_connection(self.worker.services, self.worker.listener("web"))
        if self._tls:
            far = _Far(self._on_answer)
            client.connection_made(far)
            far.shake(client, self._turn)
            self._far.append(far)
            return client
        transport = _Transport(self._on_answer, "192.0.2.1")
        client.connection_made(transport)
        if self._http2:
            client.data_received(Http2Requests.PRELUDE)
            self._turn()
        for _ in range(DIALLING if self._turns else 0):
            self._turn()
        return cast(asyncio.Protocol, transport.protocol or client)

    def _turn(self) -> None:
        """Let what was put off to the end of a turn of the loop happen."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def wire(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """What goes over the wire for requests, which are the next to be served. Not before: a
        client's records are counted."""
        if self._http2:
            made = enumerate(requests)
            return [self._http2[at % self._at_once].request(one) for at, one in made]
        if not self._tls:
            return requests
        return [self._far[at % self._at_once].encrypt(one) for at, one in enumerate(requests)]

    def _on_answer(self) -> None:
        self._answered += 1

    def serve(self, requests: Sequence[bytes], answer: bytes) -> None:
        """Pass all of these through, a turn of all connections at a time."""
        asked, answered = self._asked, self._answered
        receivers = [client.data_received for client in self.clients]
        for begin in range(0, len(requests), self._at_once):
            if self._fresh:
                self._come_anew()
                receivers = [client.data_received for client in self.clients]
            for receive, request in zip(receivers, requests[begin : begin + self._at_once]):  # noqa: B905
                receive(request)
            if self._instance is not None:
                self._turn()  # It gets what is asked in one go.
                answer = self._instance.answers(self._at_once)
            for connection in asked:
                connection.data_received(answer)
            asked.clear()
            if self._http2:
                self._turn()
            elif self._turns:
                self._go_on(answered + begin + self._at_once, answer)

    def _go_on(self, answered: int, answer: bytes) -> None:
        """Turn until all that is asked is answered, and so many requests are."""
        for _ in range(TURNS):
            self._turn()
            if self._answered >= answered and not self._asked:
                return
            for connection in self._asked:
                connection.data_received(answer)
            self._asked.clear()
        raise RuntimeError("not every request was answered")

    def _come_anew(self) -> None:
        """In place of all clients there are new ones."""
        for client in self.clients:
            client.connection_lost(None)
        self.clients = [self._client() for _ in range(self._at_once)]

    def prepare(self, requests: Sequence[bytes], answer: bytes) -> None:
        """Serve some while connections are dialled, then check that all of them go through."""
        if self._turns:
            self.check(requests, answer)
            return
        if self._fresh:
            self._come_anew()
        for client, request in zip(self.clients, self.wire(requests[: self._at_once]), strict=True):
            client.data_received(request)
        if self._instance is not None:
            self._greet(self._instance)
            self.check(requests, answer)
            return
        for _ in range(TURNS):
            if len(self._asked) == self._at_once:
                break
            self._turn()
        else:
            raise RuntimeError("not every request got to the instance")
        for connection in self._asked:
            connection.data_received(answer)
        self._asked.clear()
        self._turn()
        self.check(requests, answer)

    def _greet(self, instance: Http2Answers) -> None:
        """Let it say its SETTINGS, if it is new, and answer who has waited for them."""
        for _ in range(4 * DIALLING):
            self._turn()
            if self._asked and not self._greeted:
                self._greeted = True
                self._asked[0].data_received(instance.PRELUDE)
        self._asked[-1].data_received(instance.answers(self._at_once))
        self._asked.clear()
        self._turn()

    def check(self, requests: Sequence[bytes], answer: bytes) -> None:
        """Serve some, and see that each of them is answered by the instance."""
        before = self._answered
        self.serve(self.wire(requests), answer)
        if self._answered - before != len(requests) or self.worker.counters.service("bench").faults:
            raise RuntimeError("not every request was answered by the instance")

    def trace(self, sample: float, *, reported: bool = False) -> None:
        """Trace such a share of the requests from here on, evenly: with chance as many of 1,920
        as are drawn would be counted, a quarter more or less."""
        settings = TracingSettings(sample=sample)
        if reported:
            self.worker._tracer._send = self.worker._reports._send = self._say
        usual = -expm1((1 / sample - 0.5) * log1p(-sample)) if sample < 1.0 else 0.0
        self.worker._tracer._draw = lambda: usual
        self.worker._tracer.use(settings, self.worker.services, new_exchange)

    def _say(self, message: msgspec.Struct) -> None:
        """Encode what would be told to the control process."""
        self._encoder.encode(message)

    def tell(self, *, reported: bool = False) -> None:
        """Do what a worker does once a second about requests that are over: make spans of those
        that are traced, and, if that is `reported`, count how long each instance took."""
        if reported:
            self.worker._reports.report(0)
        self.worker._tracer.tell(monotonic())
        while self._loop.run_until_complete(self._turned()):
            pass

    async def _turned(self) -> bool:
        return bool(self.worker._tracer._waiting)

    def close(self) -> None:
        """Leave nothing behind."""
        for client in self.clients:
            client.connection_lost(None)
        for transport in self._loop.connections:
            transport.protocol.connection_lost(None)
        self.worker.access_logs.close(1.0)
        self._loop.close()
        os.close(self._board.fd)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one request of a workload costs."""

    us: float
    """CPU microseconds in the quickest block."""
    unit_us: float
    """CPU microseconds of one unit of calibration in its quickest block."""
    units: float
    """Lower quartile of the quotients of a block of requests and the block of calibration right
    behind it. Of several statistics this one repeated best, also on a machine whose speed
    changes by half from second to second: within two milliseconds it is the same for both."""
    bytecodes: float
    """Bytecode instructions of the project's own code; compiled modules have none."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one process measured."""

    python: str
    """`3.11`."""
    variant: str
    """See `variant`."""
    costs: dict[str, Cost]


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """What a process served between marks, for whoever counts from outside."""

    variant: str
    """See `variant`."""
    served: dict[str, int]
    """Workload → requests, in the order in which they were served."""


def requests_of(workload: Workload) -> Iterator[list[bytes]]:
    """Blocks of requests, made before the time is taken."""
    scenario = SCENARIOS[workload.scenario]
    if not scenario.traced:
        block = [request_bytes(scenario, 8080)] * BLOCK
        while True:
            yield block
    for begin in count(0, BLOCK):
        yield [request_bytes(scenario, 8080, begin + number) for number in range(BLOCK)]


def plane_of(workload: Workload) -> Plane:
    """What a workload goes through."""
    scenario = SCENARIOS[workload.scenario]
    plane = Plane(
        tls=bool(scenario.tls),
        http2=scenario.streams > 0,
        access_log=AccessLogSettings(path=os.devnull) if workload.logged else None,
        fresh=workload.fresh,
        nodes=(replace(NODE, protocol="h2c"),) if workload.both else (NODE,),
        instance=Http2Answers(workload.answer) if workload.both else None,
    )
    if workload.observed:
        plane.trace(0.01, reported=workload.reported)
    return plane


def measure(workload: Workload, seconds: float) -> Cost:
    """Blocks of requests and of calibration in turn for about `seconds`."""
    plane = plane_of(workload)
    blocks = requests_of(workload)
    calibrate = units(wide=SCENARIOS[workload.scenario].traced)
    try:
        for _ in range(8):
            plane.prepare(next(blocks), workload.answer)
            calibrate(UNITS)
        gc.collect()
        gc.freeze()
        served: list[int] = []
        calibrated: list[int] = []
        until = monotonic() + seconds
        while monotonic() < until or not served:
            requests = next(blocks)
            wire = plane.wire(requests)
            begun = thread_time_ns()
            plane.serve(wire, workload.answer)
            middle = thread_time_ns()
            calibrate(UNITS)
            ended = thread_time_ns()
            served.append(middle - begun)
            calibrated.append(ended - middle)
        plane.check(requests, workload.answer)
        bytecodes = count_bytecodes(lambda: plane.serve(plane.wire(requests), workload.answer))
    finally:
        gc.unfreeze()
        plane.close()
    return Cost(
        us=min(served) / BLOCK / 1000,
        unit_us=min(calibrated) / UNITS / 1000,
        units=lower_quartile([a / b for a, b in zip(served, calibrated, strict=True)])
        / BLOCK
        * UNITS,
        bytecodes=bytecodes / BLOCK,
    )


def mark() -> None:
    """Call a C function that nothing else here calls: `bench/instructions.py` cuts there."""
    os.getppid()


def serve_between_marks(workload: Workload, blocks: int) -> int:
    """So many blocks of requests between two marks. Returns the number of requests."""
    plane, made, answer = plane_of(workload), requests_of(workload), workload.answer
    if workload.observed:
        # What traces do has run before, as everything else has.
        plane.trace(1.0, reported=workload.reported)
        for _ in range(8):
            plane.prepare(next(made), answer)
        plane.tell(reported=workload.reported)
        plane.trace(0.01, reported=workload.reported)
        plane.check(next(made), answer)
        tell = partial(plane.tell, reported=workload.reported)
        return between_marks(plane, made, answer, blocks, warm=0, tell=tell)
    return between_marks(plane, made, answer, blocks)


def note_between_marks(blocks: int) -> int:
    """What each answer does for the histogram of its instance before that is told, for as many
    answers as blocks have requests: no switch leaves it out of the workloads."""
    plane, now = Plane(), monotonic()
    pool = plane.worker.pools.get("bench")
    assert pool is not None
    count_answer = pool.nodes[NODE.key].count_answer
    asked = [now - monotonic() for _ in range(blocks * BLOCK)]
    if variant() == "compiled":
        mark()
        deque(map(count_answer, asked), 0)  # What is compiled calls it with no more ado.
    else:
        mark()
        for then in asked:
            count_answer(now - then)
    mark()
    plane.close()
    return blocks * BLOCK


def between_marks(
    plane: Plane,
    made: Iterator[list[bytes]],
    answer: bytes,
    blocks: int,
    warm: int = 8,
    *,
    tell: Callable[[], None] = lambda: None,
) -> int:
    """As `serve_between_marks`, of blocks of requests that are `made`, through a plane that is
    closed in the end. `warm`: blocks before; `tell`: what a worker does once a second counts."""
    try:
        for _ in range(warm):
            plane.prepare(next(made), answer)
        requests = [next(made) for _ in range(blocks)]
        wire = [plane.wire(block) for block in requests]
        gc.collect()
        gc.disable()
        mark()
        for block in wire:
            plane.serve(block, answer)
        tell()
        mark()
        plane.check(requests[-1], answer)
    finally:
        gc.enable()
        plane.close()
    return blocks * BLOCK


def lower_quartile(values: Sequence[float]) -> float:
    """The value that a quarter of them do not exceed."""
    return sorted(values)[len(values) // 4]


def count_bytecodes(function: Callable[[], object]) -> int:
    """How many bytecode instructions of the project's own modules a call runs. The same for
    every run on the same version of Python, whatever the machine is busy with."""
    counted = 0
    ours: dict[CodeType, bool] = {}
    roots = tuple(str(Path(file).parent) + os.sep for file in _PACKAGES)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal counted
        code = frame.f_code
        if code not in ours:
            ours[code] = code.co_filename.startswith(roots)
        if not ours[code]:
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            counted += 1
        return trace

    before = sys.gettrace()
    # Python 3.12 instruments code when it first meets it under trace: only a second run is whole.
    for _ in range(2):
        counted = 0
        sys.settrace(trace)
        try:
            function()
        finally:
            sys.settrace(before)
    return counted


def variant() -> str:
    """`compiled` when modules of the data plane are extension modules; `python` when only the
    C of our own is one; `plain` when nothing is."""
    native = {
        name
        for name, module in list(sys.modules.items())
        if name.startswith(("proxy.", "balancers."))
        and (getattr(module, "__file__", None) or "").endswith(".so")
    }
    if native - {"proxy.http._scanner", "proxy._latency"}:
        return "compiled"
    return "python" if native else "plain"


def profile(workload: Workload, requests: int) -> str:
    """Where the time goes, function by function. The profiler's own cost falls on every call, so
    small functions look dearer than they are."""
    plane = plane_of(workload)
    blocks = requests_of(workload)
    profiler = cProfile.Profile()
    try:
        for _ in range(8):
            plane.prepare(next(blocks), workload.answer)
        for _ in range(max(1, requests // BLOCK)):
            block = next(blocks)
            wire = plane.wire(block)
            profiler.enable()
            plane.serve(wire, workload.answer)
            profiler.disable()
        plane.check(block, workload.answer)
    finally:
        plane.close()
    with open(os.devnull, "w") as nowhere:
        stats = pstats.Stats(profiler, stream=nowhere)
    rows: list[tuple[float, float, float, str]] = []
    served = max(1, requests // BLOCK) * BLOCK
    root = Path(__file__).parent.parent
    for (file, line, function), (_, calls, own, total, _) in stats.stats.items():  # type: ignore[attr-defined]
        path = Path(file)
        place = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
        where = f"{place}:{line} {function}" if line else function
        rows.append((own / served * 1e6, total / served * 1e6, calls / served, where))
    rows.sort(reverse=True)
    lines = ["  own µs  with callees  calls  function"]
    lines += [
        f"  {own:6.2f}  {total:12.2f}  {calls:5.1f}  {where}"
        for own, total, calls, where in rows[:45]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """`python -m bench inprocess`."""
    parser = argparse.ArgumentParser(prog="python -m bench inprocess", description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, action="append", metavar="NAME",
                        help=f"of: {', '.join(WORKLOADS)}; default: all")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=2.0, help="for each workload")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--requests", type=int, default=20_000, help="to profile")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--marked", type=int, metavar="BLOCKS",
                        help="serve so many blocks between marks, untimed")  # fmt: skip
    options = parser.parse_args(arguments)
    set_up_log(LogSettings(), stream=sys.stderr)
    chosen = [WORKLOADS[name] for name in options.workload or WORKLOADS]
    if options.profile:
        for workload in chosen:
            print(f"{workload.title} ({workload.name}, {variant()})")
            print(profile(workload, options.requests))
        return 0
    if options.marked:
        served = {w.name: serve_between_marks(w, options.marked) for w in chosen}
        served[NOTED] = note_between_marks(options.marked)
        print(msgspec.json.encode(Marked(variant=variant(), served=served)).decode())
        return 0
    report = Report(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        costs={workload.name: measure(workload, options.seconds) for workload in chosen},
        variant=variant(),
    )
    if options.json:
        print(msgspec.json.encode(report).decode())
        return 0
    print(f"data plane: {report.variant}, Python {report.python}")
    print("  µs/request  µs/unit  units/request  bytecodes  workload")
    for name, cost in report.costs.items():
        print(
            f"  {cost.us:10.2f}  {cost.unit_us:7.2f}  {cost.units:13.3f}  {cost.bytecodes:9.1f}  "
            f"{name}: {WORKLOADS[name].title}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
