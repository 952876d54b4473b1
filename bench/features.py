"""What does a feature cost? `python -m bench features [--compiled] [--write]`.

The instructions of a small GET, counted by callgrind as those of `bench/instructions.py` are, with
one feature on at a time, less those with none. `--write` puts the table into docs/costs.md.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
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
from bench.inprocess import BLOCK, KEEPALIVE, WORKLOADS, Marked, Plane, between_marks, variant
from bench.instructions import count, key
from bench.load import request_bytes
from bench.scenarios import SCENARIOS
from proxy.log import set_up as set_up_log
from proxy.settings.file import Settings
from proxy.settings.load import parse
from proxy.settings.process import LogSettings

PAGE = Path(__file__).parent.parent / "docs/costs.md"
_TABLE = re.compile(r"(<!-- costs: (\w+) -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
BLOCKS = 2
"""Of 96 requests, for each feature, which all have the same fields."""
WARM = 5
"""Blocks before: as many picks as a table of `maglev` needs, and dials."""
SECRET = b"0123456789abcdef0123456789abcdef"
TO: Mapping[str, Any] = {"path_prefix": "/", "service": "bench"}
"""The route of a feature that has none of its own."""
LIMIT = 1200.0
"""Seconds; a run takes two hundred on a quiet machine."""


@dataclass(frozen=True)
class Feature:
    """A feature, as the file has it."""

    name: str
    page: str
    """Where it is described."""
    service: Mapping[str, Any] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=lambda: TO)
    top: Mapping[str, Any] = field(default_factory=dict)
    sent: str = ""
    """A field that requests have for it."""

    def settings(self, directory: Path) -> Settings:
        """A configuration that has it on."""
        (directory / "keys.json").write_text(json.dumps({"keys": [_key()]}))
        (directory / "page.html").write_text("<p>")
        told = {
            "registry": {"type": "static"},
            "services": {
                "bench": {"instances": [{"id": "a", "address": "10.0.0.1", "port": 80}]}
                | self.service
            },
            "routes": [self.route],
        }
        return parse(json.dumps(told | self.top), str(directory / "proxy.yaml"), {})


def _key() -> dict[str, str]:
    return {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("=")}


_HEADINGS = {"deny": "allow-and-deny", "error_pages": "maintenance-and-error_pages"}
"""Of filters that have one together with others."""


def _filter(kind: str, settings: Any, sent: str = "") -> Feature:
    return Feature(
        f"filter `{kind}`",
        f"filters.md#{_HEADINGS.get(kind, kind)}",
        route={**TO, "filters": [{kind: settings}]},
        sent=sent,
    )


def features() -> list[Feature]:
    """All of them; none first."""
    hashed = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
    basic = "Authorization: Basic " + base64.b64encode(b"ann:sesame").decode()
    token = jwt.encode({"sub": "ann", "exp": 1 << 32}, SECRET, "HS256")
    resilience, balancing = "resilience.md", "balancing.md"
    inner = {**TO, "set_host": "inner.example"}
    breaker: dict[str, Any] = {"circuit_breaker": {}}
    return [
        Feature("none", ""),
        *(
            Feature(f"`balancer: {name}`", balancing, service={"balancer": name})
            for name in ("least_connections", "p2c", "peak_ewma", "consistent_hash", "maglev")
        ),
        Feature("`sticky`", f"{balancing}#sticky-clients", service={"sticky": {}}),
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
        Feature("`path_regex`", "forwarding.md#regular-expressions",
                route={"service": "bench", "path_regex": "^/[a-z]*"}),
        Feature("`split`", "forwarding.md", route={
            "split": [{"service": "bench", "weight": 9}, {"service": "bench"}]}),
        _filter("headers", {"request": {"set": {"X-A": "b"}}, "response": {"add": {"X-C": "d"}}}),
        _filter("deny", ["198.51.100.0/24"]),
        _filter("rate_limit", {"requests": 10**6}),
        _filter("body_limit", "1MiB"),
        _filter("error_pages", {"statuses": [502], "file": "page.html"}),
        _filter("cors", {"origins": ["https://a.example"]}, "Origin: https://a.example"),
        _filter("basic_auth", {"users": [f"ann:{hashed}"]}, basic),
        _filter("jwt", {"jwks_file": "keys.json", "algorithms": ["HS256"]},
                f"Authorization: Bearer {token}"),
        _filter("compress", {}, "Accept-Encoding: gzip"),
        Feature("`tracing`, of all", "operations.md#traces", top={"tracing": {"sample": 1.0}}),
    ]  # fmt: skip


def serve(feature: Feature, blocks: int) -> int:
    """So many blocks of requests between two marks. Returns the number of requests."""
    with tempfile.TemporaryDirectory(prefix="fairlead-features-") as directory:
        settings = feature.settings(Path(directory))
        service = replace(settings.services["bench"], keepalive=KEEPALIVE)
        plane = Plane(routes=settings.routes, service=service, tracing=settings.tracing)
        one = request_bytes(SCENARIOS["small_get"], 8080)
        if feature.sent:
            named = feature.sent.partition(":")[0].encode() + b":"
            lines = [line for line in one.split(b"\r\n")[:-2] if not line.startswith(named)]
            one = b"\r\n".join((*lines, feature.sent.encode(), b"", b""))
        blocks_made = iter(lambda: [one] * BLOCK, None)
        return between_marks(plane, blocks_made, WORKLOADS["get"].answer, blocks, WARM)


def table(counted: Mapping[str, float]) -> str:
    """The rows of the page, in the order of the features."""
    plain = counted["none"]
    lines = [
        f"| on | instructions more | of a plain request ({plain / 1000:.0f} thousand) |",
        "|---|--:|--:|",
    ]
    for feature in features()[1:]:
        more = counted[feature.name] - plain
        lines.append(f"| [{feature.name}]({feature.page}) | {more:,.0f} | {more / plain:+.0%} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """`python -m bench features`."""
    parser = argparse.ArgumentParser(prog="python -m bench features", description=__doc__)
    parser.add_argument("--compiled", action="store_true", help="what `make compiled` built")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--marked", type=int, metavar="BLOCKS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.marked:
        set_up_log(LogSettings(level="error"), stream=sys.stderr)
        served = {one.name: serve(one, options.marked) for one in features()}
        print(msgspec.json.encode(Marked(variant=variant(), served=served)).decode())
        return 0
    if shutil.which("valgrind") is None:
        print("nothing is counted: there is no valgrind")
        return 1
    if options.compiled and not compiled.is_built():
        parser.error("nothing is compiled, or sources have changed since: run `make compiled`")
    ran, counted = count(
        BLOCKS, compiled.environment() if options.compiled else {}, "features", LIMIT
    )
    print(f"{key(ran)}\n{table(counted)}")
    if options.write:
        kind = "compiled" if ran == "compiled" else "python"
        PAGE.write_text(
            _TABLE.sub(
                lambda found: found[1] + table(counted) if found[2] == kind else found[0],
                PAGE.read_text(),
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
