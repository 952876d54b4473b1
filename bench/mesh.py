"""What a pair of side-cars costs each call: `python -m bench mesh`.

    load ─▶ outbound proxy ─ TLS 1.3, both sides show certificates ─▶ inbound proxy ─▶ backend

against the direct call, with the small GET, over one connection and over 64, in interleaved rounds.
Fairlead's pair is set up as `fairlead sidecar` does it, `callers` included; Envoy's does the same
but for who may call, which it is not asked. Each proxy has one worker; both share one core.
"""

from __future__ import annotations

import argparse
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
from bench.processes import Server, core_plan, raise_open_files
from bench.scenarios import SCENARIOS, Scenario
from tests.support.certificates import Authority
from tests.support.processes import free_port

ONE = replace(SCENARIOS["small_get"], connections=1)
MANY = SCENARIOS["small_get"]
DOMAIN = "mesh.test"


class _Outbound(Fairlead):
    def files(self, setup: Setup) -> Mapping[str, str]:
        identity = _identity(setup)
        return {
            "fairlead.yaml": f"""\
listeners: [{{bind: "127.0.0.1:{setup.port}"}}]
admin: {{bind: "127.0.0.1:{setup.admin_port}"}}
workers: 1
services:
  bench:
    tls: {{ca: {identity}.ca, cert: {identity}, key: {key_of(identity)}, trust_domain: {DOMAIN}}}
    instances: [{{id: a, address: 127.0.0.1, port: {setup.backend_port}}}]
routes: [{{path_prefix: /, service: bench}}]
"""
        }


class _Inbound(Fairlead):
    def files(self, setup: Setup) -> Mapping[str, str]:
        identity = _identity(setup)
        return {
            "fairlead.yaml": f"""\
listeners:
  - bind: "127.0.0.1:{setup.port}"
    tls:
      certificates: [{{cert: {identity}, key: {key_of(identity)}}}]
      client_ca: {identity}.ca
      trust_domain: {DOMAIN}
      min_version: "1.3"
      tickets: false
admin: {{bind: "127.0.0.1:{setup.admin_port}"}}
workers: 1
services:
  bench:
    callers: {{allow: [other, {{service: bench, methods: [GET], path_prefixes: [/small]}}]}}
    instances: [{{id: a, address: 127.0.0.1, port: {setup.backend_port}}}]
routes: [{{path_prefix: /, service: bench}}]
"""
        }


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
    "fairlead": (_Outbound(), _Inbound()),
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


def main(arguments: Sequence[str]) -> int:
    """`python -m bench mesh`."""
    parser = argparse.ArgumentParser(prog="python -m bench mesh", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(arguments)
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
