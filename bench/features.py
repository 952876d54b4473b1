"""What does a feature cost? `python -m bench features [--compiled] [--write]`.

The instructions of a small GET, counted by callgrind as those of `bench/instructions.py` are, with
one feature on at a time, less those with none. `--write` puts the table into docs/costs.md.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import msgspec
from msgspec.structs import replace

from bench import compiled
from bench.inprocess import (
    BLOCK,
    CONNECTIONS,
    KEEPALIVE,
    WORKLOADS,
    Marked,
    Plane,
    between_marks,
    variant,
)
from bench.instructions import count, key
from bench.load import request_bytes
from bench.scenarios import SCENARIOS
from proxy.control.pool import Member, node_of
from proxy.filters import Filter, Request, Response
from proxy.log import set_up as set_up_log
from proxy.messages import PoolNode
from proxy.settings.choosing import chosen as chosen_of
from proxy.settings.file import Settings
from proxy.settings.load import parse
from proxy.settings.process import LogSettings

PAGE = Path(__file__).parent.parent / "docs/costs.md"
_TABLE = re.compile(r"(<!-- costs: (\w+) -->\n\n)(.*?)(?=\n<!-- end -->)", re.DOTALL)
BLOCKS = 2
"""Of 96 requests, for each feature, which all have the same fields."""
WARM = 5
"""Blocks before, for which connections are dialled."""
SECRET = b"0123456789abcdef0123456789abcdef"
INSTANCE: Mapping[str, Any] = {"instances": [{"id": "a", "address": "10.0.0.1", "port": 80}]}
INSTANCES: Mapping[str, Any] = {
    "instances": [
        {"id": f"{number}", "address": f"10.0.0.{number}", "port": 80, "metadata": told}
        for number, told in enumerate(
            {"zone": zone, "version": version, "p": tier}
            for zone, tier in (("a", "0"), ("b", "1"))
            for version in ("v1", "v2", "v2", "v2")
        )
    ]
}
"""Of a feature that chooses among several: two zones, two versions, two tiers."""
TO: Mapping[str, Any] = {"path_prefix": "/", "service": "bench"}
"""The route of a feature that has none of its own."""
LIMIT = 2400.0
"""Seconds; a run takes four hundred on a quiet machine."""


class Own(Filter):
    """A filter of one's own that does nothing."""

    def on_request(self, request: Request) -> None:
        """See `Filter`."""

    def on_response(self, request: Request, response: Response) -> None:
        """See `Filter`."""


@dataclass(frozen=True)
class Feature:
    """A feature, as the file has it."""

    name: str
    page: str = ""
    """Where it is described; empty: others are compared with it."""
    service: Mapping[str, Any] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=lambda: TO)
    top: Mapping[str, Any] = field(default_factory=dict)
    listener: Mapping[str, Any] = field(default_factory=dict)
    sent: str = ""
    """A field that requests have for it."""
    path: str = "/small"
    several: bool = False
    """There are several instances. Connections to them are dialled when they are needed, so the
    loop turns."""
    turns: bool = False
    """See `Plane`: somebody else than the instance is asked, or connected to, or nobody."""
    fresh: bool = False
    """It is paid for by connections: each request has a new one."""
    at_once: int = CONNECTIONS
    """Requests."""

    @property
    def base(self) -> str:
        """What it is compared with."""
        if self.several:
            return _SEVERAL
        return _TURNING if self.turns else _FRESH if self.fresh else "none"

    def settings(self, directory: Path, port: int = 1) -> Settings:
        """A configuration that has it on; somebody listens on `port` of loopback."""
        (directory / "keys.json").write_text(json.dumps({"keys": [_key()]}))
        (directory / "page.html").write_text("<p>")
        told = {
            "registry": {"type": "static"},
            "services": {"bench": (INSTANCES if self.several else INSTANCE) | self.service},
            "routes": [self.route],
            "listeners": [{"name": "web", "bind": "0.0.0.0:8080"} | self.listener],
        }
        file = str(directory / "proxy.yaml")
        services = told["services"] | self.top.get("services", {})
        return parse(
            json.dumps(told | self.top | {"services": services}), file, {"PORT": str(port)}
        )


def _key() -> dict[str, str]:
    return {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("=")}


_TURNING, _FRESH = "none, in a loop that turns", "none, with new connections"
_SEVERAL = "none, with several instances"
_HEADINGS = {
    "allow": "allow-and-deny", "deny": "allow-and-deny",
    "error_pages": "maintenance-and-error_pages", "maintenance": "maintenance-and-error_pages",
}  # fmt: skip
"""Of filters that have one together with others."""


def _filter(kind: str, settings: Any, sent: str = "", turns: bool = False) -> Feature:
    return Feature(
        f"filter `{kind}`",
        f"filters.md#{_HEADINGS.get(kind, kind)}",
        route={**TO, "filters": [{kind: settings}]},
        sent=sent,
        turns=turns,
    )


def features() -> list[Feature]:
    """All of them; what they are compared with first."""
    hashed = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
    basic = "Authorization: Basic " + base64.b64encode(b"ann:sesame").decode()
    token = jwt.encode({"sub": "ann", "exp": 1 << 32}, SECRET, "HS256")
    resilience, balancing = "resilience.md", "balancers.md"
    inner = {**TO, "set_host": "inner.example"}
    breaker: dict[str, Any] = {"circuit_breaker": {}}
    return [
        Feature("none"),
        Feature(_TURNING, turns=True),
        Feature(_FRESH, fresh=True),
        Feature(_SEVERAL, several=True),
        *(
            Feature(f"`balancer: {name}`", balancing, service={"balancer": name}, several=True)
            for name in ("least_connections", "p2c", "peak_ewma", "consistent_hash", "maglev")
        ),
        Feature("`sticky`", f"{balancing}#sticky-clients", service={"sticky": {}}, several=True),
        Feature("`zone`", f"{balancing}#zones-and-tiers", service={"zone": {"prefer": "a"}},
                several=True),
        Feature("`subset`", f"{balancing}#zones-and-tiers",
                service={"subset": {"select": {"version": "v2"}}}, several=True),
        Feature("`priority_key`", f"{balancing}#zones-and-tiers", service={"priority_key": "p"},
                several=True),
        Feature("`slow_start`, while one of eight is new", "resilience.md#slow-start", several=True,
                service={"slow_start": "30s"}),
        Feature("`mirror`, of all", "operations.md#mirrors", turns=True,
                service={"mirror": {"service": "shadow"}}, top={"services": {"shadow": INSTANCE}}),
        Feature("`adaptive_concurrency`", f"{resilience}#a-limit-by-latency", at_once=2,
                service={"adaptive_concurrency": {}}),
        Feature("`send_proxy_protocol`", "forwarding.md#proxy-protocol", turns=True,
                service={"send_proxy_protocol": "v2"}),
        Feature("`hedge`", f"{resilience}#hedges", service={"hedge": {"after": "10s"}}),
        Feature("`circuit_breaker`", f"{resilience}#circuit-breaker", service=breaker),
        Feature("`max_inflight`", "limits.md", service={"max_inflight": 1000}),
        Feature(
            "`rate_limit` of a service", "limits.md", service={"rate_limit": {"requests": 10**6}}
        ),
        Feature("`timeouts.total`", resilience, service={"timeouts": {"total": "60s"}}),
        Feature("`set_host` of a route", "forwarding.md", route=inner),
        Feature(
            "`rewrite_responses`",
            "forwarding.md",
            route={**inner, "rewrite_responses": True},
        ),
        Feature("`headers` of a route", "forwarding.md", route={**TO, "headers": {"Accept": "*"}}),
        Feature("`query` of a route", "forwarding.md", path="/small?debug=1",
                route={**TO, "query": {"debug": "1"}}),
        Feature("`path`, exact", "forwarding.md", route={"path": "/small", "service": "bench"}),
        Feature("`listeners` of a route", "forwarding.md", route={**TO, "listeners": ["web"]}),
        Feature("`timeouts` and `retry` of a route", "forwarding.md",
                route={**TO, "timeouts": {"first_byte": "5s"}, "retry": {"max_retries": 2}}),
        Feature("`path_regex`", "forwarding.md#regular-expressions",
                route={"service": "bench", "path_regex": "^/[a-z]*"}),
        Feature("`rewrite`", "forwarding.md", route={
            "path_regex": "^/(?P<rest>[a-z]*)", "rewrite": "/new/{rest}", "service": "bench"}),
        Feature("`rewrite_prefix`", "forwarding.md", route={**TO, "rewrite_prefix": "/new"}),
        Feature("`redirect`, asks no instance", "forwarding.md", turns=True, route={
            "path_prefix": "/", "redirect": {"to": "https://a.example{path}"}}),
        Feature("`respond`, asks no instance", "forwarding.md", turns=True, route={
            "path_prefix": "/", "respond": {"status": 200, "body": "hi"}}),
        Feature("`split`", "forwarding.md", route={
            "split": [{"service": "bench", "weight": 9}, {"service": "bench"}]}),
        _filter("headers", {"request": {"set": {"X-A": "b"}}, "response": {"add": {"X-C": "d"}}}),
        Feature("a filter of one's own that does nothing", "filters.md#your-own",
                route={**TO, "filters": [{"bench.features:Own": {}}]}),
        _filter("allow", ["192.0.2.0/24"]),
        _filter("deny", ["198.51.100.0/24"]),
        _filter("rate_limit", {"requests": 10**6}),
        _filter("body_limit", "1MiB"),
        _filter("maintenance", {"allow": ["192.0.2.0/24"]}),
        _filter("error_pages", {"statuses": [502], "file": "page.html"}),
        _filter("cors", {"origins": ["https://a.example"]}, "Origin: https://a.example"),
        _filter("forward_auth", {"url": "http://127.0.0.1:${PORT}/", "timeout": "1h"}, turns=True),
        _filter("basic_auth", {"users": [f"ann:{hashed}"]}, basic),
        _filter("jwt", {"jwks_file": "keys.json", "algorithms": ["HS256"]},
                f"Authorization: Bearer {token}"),
        _filter("compress", {}, "Accept-Encoding: gzip"),
        Feature("`mode_tcp`, once connected", "operations.md#connections-that-are-passed-on",
                listener={"mode_tcp": "bench"}, turns=True),
        Feature("`connections_per_client`", "limits.md#connections-and-open-files", fresh=True,
                listener={"limits": {"connections_per_client": 1000}}),
        Feature("`tracing`, of all", "operations.md#traces", top={"tracing": {"sample": 1.0}}),
    ]  # fmt: skip


def chosen(only: str) -> list[Feature]:
    """Those whose names have this expression in them, and what they are compared with."""
    every = features()  # Once: a password has another hash each time.
    found = [one for one in every if one.page and re.search(only, one.name)]
    bases = {"none", *(one.base for one in found)}
    return [one for one in every if one in found or one.name in bases]


def nodes_of(settings: Settings) -> tuple[PoolNode, ...]:
    """What workers are told of the instances, which are all ready; the first is new."""
    service = settings.services["bench"]
    instances = chosen_of(settings.static["bench"], service.subset)
    shares = {instances[0].key: 0.5} if service.slow_start else None
    return tuple(
        node_of(Member(instance, "ready", "", slot), True, service, shares)
        for slot, instance in enumerate(instances, 1)
    )


def serve(feature: Feature, blocks: int) -> int:
    """So many blocks of requests between two marks. Returns the number of requests."""
    with (
        tempfile.TemporaryDirectory(prefix="fairlead-features-") as directory,
        socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS) as listening,
    ):
        settings = feature.settings(Path(directory), listening.getsockname()[1])
        plane = Plane(
            settings.listeners[0],
            routes=settings.routes,
            services={
                name: replace(one, keepalive=KEEPALIVE) for name, one in settings.services.items()
            },
            nodes=nodes_of(settings),
            tracing=settings.tracing,
            fresh=feature.fresh,
            turns=feature.turns or feature.several,
            at_once=feature.at_once,
        )
        pool = plane.worker.pools.get("bench")
        while pool is not None and pool.balancer.settle():
            pass  # The table of `maglev` is built before.
        one = request_bytes(dataclasses.replace(SCENARIOS["small_get"], path=feature.path), 8080)
        if feature.sent:
            named = feature.sent.partition(":")[0].encode() + b":"
            lines = [line for line in one.split(b"\r\n")[:-2] if not line.startswith(named)]
            one = b"\r\n".join((*lines, feature.sent.encode(), b"", b""))
        blocks_made = iter(lambda: [one] * BLOCK, None)
        return between_marks(plane, blocks_made, WORKLOADS["get"].answer, blocks, WARM)


def table(counted: Mapping[str, float]) -> str:
    """The rows of the page, in the order of the features, as far as they are counted."""
    plain = counted["none"]
    lines = [
        f"| on | instructions more | of a plain request ({plain / 1000:.0f} thousand) |",
        "|---|--:|--:|",
    ]
    for feature in features():
        if feature.page and feature.name in counted:
            more = counted[feature.name] - counted[feature.base]
            row = f"| [{feature.name}]({feature.page}) | {more:,.0f} | {more / plain:+.0%} |"
            lines.append(row)
    return "\n".join(lines) + "\n"


def merged(before: str, new: str) -> str:
    """A table with the rows of a new one, which may lack some."""
    rows = {line.partition("](")[0]: line for line in before.splitlines() if "](" in line}
    lines = new.splitlines()
    rows |= {line.partition("](")[0]: line for line in lines[2:]}
    ordered = (rows.get(f"| [{one.name}") for one in features())
    return "\n".join((*lines[:2], *filter(None, ordered))) + "\n"


def main(arguments: Sequence[str]) -> int:
    """`python -m bench features`."""
    parser = argparse.ArgumentParser(prog="python -m bench features", description=__doc__)
    parser.add_argument("--compiled", action="store_true", help="what `make compiled` built")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument(
        "--only", default="", help="features whose names have this expression in them"
    )
    parser.add_argument("--marked", type=int, metavar="BLOCKS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.marked:
        set_up_log(LogSettings(level="error"), stream=sys.stderr)
        served = {one.name: serve(one, options.marked) for one in chosen(options.only)}
        print(msgspec.json.encode(Marked(variant=variant(), served=served)).decode())
        return 0
    if shutil.which("valgrind") is None:
        print("nothing is counted: there is no valgrind")
        return 1
    if options.compiled and not compiled.is_built():
        parser.error("nothing is compiled, or sources have changed since: run `make compiled`")
    variables = compiled.environment() if options.compiled else {}
    ran, counted = count(BLOCKS, variables, ("features", "--only", options.only), LIMIT)
    print(f"{key(ran)}\n{table(counted)}")
    if options.write:
        kind = "compiled" if ran == "compiled" else "python"
        PAGE.write_text(
            _TABLE.sub(
                lambda found: (
                    found[1] + merged(found[3], table(counted)) if found[2] == kind else found[0]
                ),
                PAGE.read_text(),
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
