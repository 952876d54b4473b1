"""What the queries of deploy/ ask for is told by proxies that run: metrics and labels are in a
scrape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import origins
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/fairlead.json").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text("utf-8"))["groups"]
VARIABLES = [
    one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"
]
ALERTS = {rule["expr"]: str(rule["annotations"]) for group in RULES for rule in group["rules"]}
"""Query → what is said of what it finds."""
QUERIES = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *ALERTS,
    *(re.sub(r"label_values\((\w+), (\w+)\)", r"sum by (\2) (\1)", one) for one in VARIABLES),
]
METRIC = re.compile(r"\b((?:fairlead|service|process)_\w+)(?:{(.*?)})?", re.DOTALL)
OF_PROMETHEUS = {"instance", "job"}
RARE = {
    "fairlead_acme_orders_total": "after an order: tests/e2e/test_acme.py has an authority",
    "fairlead_registry_resyncs_total": "after a list anew: tests/e2e/test_discovery_faults.py",
}
"""What is told only after something that is not done here, with when, and where it is."""
TRACED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
KEY = "/fairlead/config/main"

Labels = dict[str, set[str]]


def metrics(query: str) -> Labels:
    """Metric → labels by which a query chooses among its samples."""
    asked: Labels = {}
    bare = re.sub(r'"[^"]*"|\b(by|on) \([^)]*\)', "", query)
    for name, conditions in METRIC.findall(bare):
        asked.setdefault(name, set()).update(re.findall(r"\w+", conditions))
    return asked


def grouped(query: str) -> list[tuple[str, set[str]]]:
    """Each `by (LABELS) (…)`: what is within, and its labels."""
    found = []
    for by in re.finditer(r"\bby \(([^)]*)\)\s*\(", query):
        depth, end = 1, by.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(query[end], 0)
            end += 1
        found.append((query[by.end() : end - 1], set(re.findall(r"\w+", by[1]))))
    return found


def missing(query: str, told: Labels) -> list[str]:
    """Labels that a query asks for and nobody tells."""
    if not metrics(query).keys() <= told.keys():
        return []  # A metric of it is rare.
    wanted = [*metrics(query).items()]
    for within, labels in grouped(query):
        wanted += [(name, labels) for name in metrics(within)]
    made = {*re.findall(r'label_replace\(.*?, "(\w+)"', query, re.DOTALL)}
    for on in re.findall(r"\bon \(([^)]*)\)", query):
        wanted += [(name, {*re.findall(r"\w+", on)} - made) for name in metrics(query)]
    of_all = set().union(*(told[name] for name in metrics(query)), made)
    said = set(re.findall(r"\$labels\.(\w+)", ALERTS.get(query, "")))
    return [
        *(f"{name}: {one}" for name, labels in wanted for one in labels - told[name]),
        *(f"in its text: {one}" for one in said - of_all),
    ]


async def scrape(proxy: RunningProxy, told: Labels) -> None:
    """Add what a scrape has."""
    _, page = await proxy.get("/metrics")
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            told.setdefault(sample.name, {*OF_PROMETHEUS}).update(sample.labels)


def config(directory: Path, one: dict[str, Any], nobody: int) -> dict[str, Any]:
    """A proxy with one of everything."""
    dead = [{"id": id_, "address": "127.0.0.1", "port": nobody} for id_ in "ab"]
    listed = directory / "listed.json"
    listed.write_text(json.dumps({"listed": [one, {}], "away": []}))
    certificate, key = Authority(directory).issue("a.example")
    by_file = {"type": "file", "path": str(listed), "interval": "100ms"}
    away = {"type": "http", "endpoints": [f"http://127.0.0.1:{nobody}/x"], "backups": [by_file]}
    eager = {"ejection": {"consecutive_failures": 1}, "retry": {"budget": 1.0}}
    rate_limit = {"requests": 1, "per": "60s", "key": "host"}
    return {
        "registries": [{"name": "first", **away}, {"name": "second", **by_file}],
        "filters": {"nobody": {"deny": ["0.0.0.0/0"]}},
        "services": {
            "mixed": {"instances": [one, dead[0]], **eager},
            "few": {"instances": [one], "rate_limit": rate_limit, "circuit_breaker": {}},
            "dead": {"instances": dead, **eager},
            "away": {"fallback_instances": [one]},
        },
        "routes": [
            {"path_prefix": "/nobody", "service": "mixed", "filters": ["nobody"]},
            {"path_prefix": "/{service}"},
        ],
        "access_log": {"path": str(directory / "access.log")},
        "tracing": {"endpoint": f"http://127.0.0.1:{nobody}/v1/traces"},
        "tls": {"certificates": [{"cert": str(certificate), "key": str(key)}]},
    }


async def test_queries_of_deploy_ask_for_what_running_proxies_tell(tmp_path: Path) -> None:
    asked = {name for query in QUERIES for name in metrics(query)}
    told: Labels = {}
    nobody, etcd = free_port(), EtcdServer()
    async with origins("one") as (one,), etcd, EtcdClient(etcd.url) as store:
        settings = config(tmp_path, one.instance, nobody)
        alone = RunningProxy({}, tmp_path)
        tls = {"name": "https", "bind": f"127.0.0.1:{free_port()}", "tls": settings.pop("tls")}
        del alone.config["registry"]
        alone.config["listeners"].append(tls)
        alone.file.write_text(json.dumps({**alone.config, **settings}))
        await store.put(KEY, json.dumps({"routes": [{"path_prefix": "/{service}"}]}))
        by_etcd = {"type": "etcd", "endpoints": [etcd.url]}
        relay = {"bind": f"127.0.0.1:{free_port()}"}
        member = RunningProxy(
            {"registry": by_etcd, "config": {"key": KEY}, "relay": relay}, tmp_path
        )
        async with alone, member, aiohttp.ClientSession(headers=TRACED) as client:
            for path in ("/mixed", "/few", "/dead", "/nobody", "/listed", "/away") * 4:
                async with client.get(alone.url + path) as answer:
                    await answer.read()

            async def is_told() -> bool:
                for proxy in (alone, member):
                    await scrape(proxy, told)
                return asked <= told.keys() | RARE.keys()

            await eventually(is_told, 20, lambda: f"told: {asked - told.keys() - RARE.keys()}")
    assert len(QUERIES) > 60
    assert RARE.keys() <= asked - told.keys()
    assert [found for query in QUERIES if (found := missing(query, told))] == []


async def test_formats_are_those_that_scrapers_name(tmp_path: Path) -> None:
    async with (
        RunningProxy({"routes": [{"path_prefix": "/{service}"}]}, tmp_path) as proxy,
        aiohttp.ClientSession() as client,
    ):
        for accept, kind, version in (
            ("*/*", "text/plain", "0.0.4"),
            ("text/plain;version=0.0.4", "text/plain", "0.0.4"),
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.3",
             "application/openmetrics-text", "1.0.0"),
        ):  # fmt: skip
            async with client.get(f"{proxy.admin}/metrics", headers={"Accept": accept}) as got:
                assert got.headers["Content-Type"] == f"{kind}; version={version}; charset=utf-8"
