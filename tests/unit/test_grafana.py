"""The dashboard for Grafana in deploy/: by Prometheus' own means, each query finds something on
pages of the proxy, and asks for no label that is not there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxy.control.statistics import Retired
from tests.support.scraping import book, instance, report, scrape, several, total
from tests.unit.test_alerts import PROXY, STEP, needs_promtool, series

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "deploy/grafana/fairlead.json").read_text("utf-8")
)
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
VARIABLES = {"$__rate_interval": "2m", "$service": ".*", "$job": ".*"}
SECONDS = 300


def page(at: int) -> str:
    """A proxy with one of everything."""
    pools = book(instance("a"))
    totals = total(Retired(), [report(10 + at, "a")])
    return scrape(
        pools,
        totals,
        ejections={("users", "a@10.0.0.1:80"): at},
        lags={0: 0.01},
        registry=several(),
        samples=[
            ("fairlead_config_hash", {"hash": "0123"}, 1),
            ("fairlead_config_last_reload_success", {}, 1),
            ("fairlead_control_lag_seconds", {}, 0.01),
            ("fairlead_spans_total", {"result": "dropped"}, at),
            ("fairlead_shared_config_good", {}, 1),
            ("fairlead_shared_config_up", {}, 1),
            (
                "fairlead_certificate_expiry_timestamp_seconds",
                {"listener": "https", "service": "", "certificate": "a.example"},
                1.79e9,
            ),
        ],
    )


def prepared(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_metrics_and_labels_that_there_are(query: str) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page(0)):
        for sample in family.samples:
            labels.setdefault(sample.name, {*PROXY}).update(sample.labels)
    asked = re.findall(r"\b((?:fairlead|service|process)_\w+){(.*?)}", query)
    assert asked
    for name, conditions in asked:
        wanted = set(re.findall(r"(\w+)(?:=~|!=|=)", conditions))
        for words in re.findall(r"\bby \((.*?)\)", query):
            wanted |= {word.strip() for word in words.split(",")}
        assert wanted <= labels[name], name


@needs_promtool
def test_each_query_finds_something(tmp_path: Path) -> None:
    tests: dict[str, Any] = {
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": series(page, SECONDS),
                "promql_expr_test": [
                    {
                        "expr": f"count({prepared(query)}) > bool 0",
                        "eval_time": f"{SECONDS}s",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for query in QUERIES
                ],
            }
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump(tests), "utf-8")
    run = subprocess.run(
        ["promtool", "test", "rules", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
