"""What a pair of side-cars costs each call: `python -m bench mesh`.

    load ─▶ outbound proxy ─ TLS 1.3, both sides show certificates ─▶ inbound proxy ─▶ backend

against the direct call, with the small GET, over one connection and over 64, in interleaved rounds.
Fairlead's pair are two `fairlead sidecar` that find each other in etcd, `callers` included; Envoy's
does the same, without a registry, but for who may call, which it is not asked. Each proxy has one
worker; both share one core.

`--memory`: what one `fairlead sidecar` takes instead, for a start and for good.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.certificates import key_of, make_certificates
from bench.load import LoadPlan
from bench.measure import check_answer, start_backends
from bench.peers import Envoy, Fairlead, Peer, Setup
from bench.processes import Server, core_plan, cpu_ns, pss, raise_open_files
from bench.scenarios import SCENARIOS, Scenario
from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority as Issuer
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Origin
from tests.support.certificates import Authority
from tests.support.processes import eventually, free_port

_SMALL = SCENARIOS["small_get"]
MANY = replace(_SMALL, name="mesh", headers=(("Host", "bench"), *_SMALL.headers))
ONE = replace(MANY, connections=1)
DOMAIN = "mesh.test"


FILE = """\
services:
  bench:
    callers: {allow: [other, {service: bench, methods: [GET], path_prefixes: [/small]}]}
routes: [{path: /, respond: 204}]
"""


class _Sidecar(Fairlead):
    def __init__(self, service: str, etcd: Sequence[str] = ()) -> None:
        """`etcd`: its URL, once it is there."""
        self._service = service
        self.etcd = etcd

    def files(self, setup: Setup) -> Mapping[str, str]:
        return {"mesh.yaml": FILE}

    def binds(self, setup: Setup) -> tuple[int, int]:
        """Ports, inwards and outwards."""
        raise NotImplementedError

    def command(self, setup: Setup) -> Sequence[str]:
        inbound, outbound = self.binds(setup)
        return (
            *("sidecar", "-c", "mesh.yaml", "--endpoints", *self.etcd),
            *("--service", self._service, "--port", str(setup.backend_port)),
            *("--identity", str(_identity(setup).parent / "mesh"), "--trust-domain", DOMAIN),
            *("--inbound", f"127.0.0.1:{inbound}", "--outbound", f"127.0.0.1:{outbound}"),
            *("--admin", f"127.0.0.1:{setup.admin_port}", "--drain-wait", "0s"),
        )


class _Outbound(_Sidecar):
    def binds(self, setup: Setup) -> tuple[int, int]:
        return free_port(), setup.port


class _Inbound(_Sidecar):
    def binds(self, setup: Setup) -> tuple[int, int]:
        return setup.port, free_port()


def _identity(setup: Setup) -> Path:
    assert setup.certificate is not None
    return setup.certificate


class _EnvoyOut(Envoy):
    def files(self, setup: Setup) -> Mapping[str, str]:
        identity = _identity(setup)
        without = replace(setup, certificate=None)
        pair = (
            f"tls_certificates: [{{certificate_chain: {{filename: {identity}}}, "
            f"private_key: {{filename: {key_of(identity)}}}}}], validation_context: "
        )
        (text,) = super().files(without).values()
        return {"envoy.yaml": text.replace("validation_context: ", pair)}


class _EnvoyIn(Envoy):
    def files(self, setup: Setup) -> Mapping[str, str]:
        trusted = f"{{trusted_ca: {{filename: {_identity(setup)}.ca}}}}"
        (text,) = super().files(replace(setup, instance_authority=None)).values()
        asks = "require_client_certificate: true, common_tls_context: {"
        asks += f"validation_context: {trusted}, "
        return {"envoy.yaml": text.replace("common_tls_context: {", asks)}


PAIRS: Mapping[str, tuple[Peer, Peer]] = {
    "fairlead": (_Outbound("web"), _Inbound("bench")),
    "envoy": (_EnvoyOut(), _EnvoyIn()),
}


class Bench:
    """Owns what all pairs share: backend, identity, cores."""

    def __init__(self, stack: ExitStack) -> None:
        self._open_files = raise_open_files()
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._directory.chmod(0o755)
        certificates = make_certificates(self._directory / "tls")
        self._cores, others = core_plan(frozenset(os.sched_getaffinity(0)), 1)
        self.backend = start_backends(stack, self._directory, others, certificates).plain
        self._load = LoadPlan(wrk="wrk", cores=others, directory=self._directory)
        authority = Authority()
        made = authority.issue(f"bench.{DOMAIN}", "bench.test", "127.0.0.1")
        self._identity = self._directory / "identity.pem"
        self._identity.write_bytes(made.cert)
        key_of(self._identity).write_bytes(made.key)
        self._roots = Path(f"{self._identity}.ca")
        self._roots.write_bytes(authority.ca)
        identity = self._directory / "mesh"
        identity.mkdir()
        for name, content in (
            ("tls.crt", made.cert),
            ("tls.key", made.key),
            ("ca.crt", authority.ca),
        ):
            (identity / name).write_bytes(content)
        runner = stack.enter_context(asyncio.Runner())
        etcd = EtcdServer()
        runner.run(etcd.start())
        stack.callback(lambda: runner.run(etcd.__aexit__()))
        for side in PAIRS["fairlead"]:
            assert isinstance(side, _Sidecar)
            side.etcd = (etcd.url,)
        os.sched_setaffinity(0, others)

    @contextmanager
    def pair(self, name: str) -> Iterator[tuple[int, list[Server]]]:
        """The port of a pair of side-cars, and their servers; of the backend if there is no such
        pair."""
        outbound, inbound = PAIRS.get(name, (None, None))
        if outbound is None or inbound is None:
            yield self.backend, []
            return
        with ExitStack() as stack:
            port, servers = self.backend, []
            for peer in (inbound, outbound):
                directory = stack.enter_context(tempfile.TemporaryDirectory(dir=self._directory))
                setup = Setup(
                    directory=Path(directory),
                    port=free_port(),
                    admin_port=free_port(),
                    backend_port=port,
                    workers=1,
                    open_files=self._open_files,
                    certificate=self._identity,
                    instance_authority=self._roots,
                )
                server = peer.start(setup, self._cores)
                stack.callback(server.stop)
                servers.append(server)
                port = setup.port
            servers[-1].wait_ready(lambda: check_answer(MANY, port))
            yield port, servers

    def measure(self, port: int, scenario: Scenario, servers: list[Server], seconds: float) -> Row:
        """Answers a second, latencies and CPU of the proxies."""
        before = sum(server.usage().cpu_ns for server in servers)
        summary = self._load.run(scenario, port, seconds)
        if summary.errors:
            raise ValueError(f"{summary.errors} errors")
        spent = sum(server.usage().cpu_ns for server in servers) - before
        count = summary.requests
        return count / summary.seconds, summary.p50_us, summary.p99_us, spent / 1000 / count


Row = tuple[float, float, float, float]
"""Calls a second, microseconds of the median and of the 99th percentile, of CPU for a call."""


REQUESTS, REST = 1000, 5.0
"""Before memory is read: calls, and seconds in which what the start took is given back."""


async def _alone(rounds: int) -> None:
    """Print CPU seconds of a side-car up to the first answer, and MB (PSS) after a thousand and a
    scrape, those of no file as well, since files are shared with this program and others that run
    Python; it is started anew in each round."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        authority = Issuer(directory, "mesh")
        print(f"{'CPU s':>8} {'PSS MB':>8} {'no file':>8}")
        async with EtcdServer() as etcd, Origin("small") as program:
            for _ in range(rounds):
                port = program.instance["port"]
                side = Beside("small", port, directory, authority, etcd.url)
                side.launch()
                try:
                    await eventually(side.answers, 60.0, side.log)
                    cpu = cpu_ns(side.pid) / 1e9
                    for _ in range(REQUESTS):
                        await side.answers()
                    await side.ask_admin("/metrics")
                    await asyncio.sleep(REST)
                    held = (pss([side.pid], kind) / 1e6 for kind in ("Pss", "Pss_Anon"))
                    print(f"{cpu:8.2f}", *(f"{mb:8.1f}" for mb in held), flush=True)
                finally:
                    await side.stop()


def main(arguments: Sequence[str]) -> int:
    """`python -m bench mesh`."""
    parser = argparse.ArgumentParser(prog="python -m bench mesh", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args(arguments)
    if options.memory:
        asyncio.run(_alone(options.rounds))
        return 0
    names = ["direct", *(name for name, pair in PAIRS.items() if pair[0].find() is not None)]
    rows: dict[tuple[str, int], list[Row]] = {}
    with ExitStack() as stack:
        bench = Bench(stack)
        for _ in range(options.rounds):
            for name in names:
                with bench.pair(name) as (port, servers):
                    for scenario in (ONE, MANY):
                        row = bench.measure(port, scenario, servers, options.seconds)
                        rows.setdefault((name, scenario.connections), []).append(row)
    print(f"{'':10} {'clients':>7} {'calls/s':>9} {'p50 us':>8} {'p99 us':>8} {'CPU us':>8}")
    for (name, clients), found in rows.items():
        rate, p50, p99, cpu = (median(column) for column in zip(*found, strict=True))
        print(f"{name:10} {clients:7} {rate:9,.0f} {p50:8,.0f} {p99:8,.0f} {cpu:8,.1f}")
    return 0
