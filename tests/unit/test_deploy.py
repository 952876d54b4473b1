"""What deploy/ ships fits the program: configurations are accepted, metrics exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import parse

DEPLOY = Path(__file__).parents[2] / "deploy"
METRICS = (Path(__file__).parents[2] / "proxy/control/metrics.py").read_text()


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_the_configuration_for_kubernetes_is_accepted() -> None:
    config = documents("kubernetes/fairlead.yaml")[0]["data"]["proxy.yaml"]
    settings = parse(config, "proxy.yaml", {"FAIRLEAD_ADMIN_TOKEN": "secret"})
    assert settings.registry.endpoints == tuple(f"http://etcd-{n}.etcd:2379" for n in range(3))


def test_pods_get_the_time_that_stopping_takes() -> None:
    config, deployment, _ = documents("kubernetes/fairlead.yaml")
    settings = parse(config["data"]["proxy.yaml"], "proxy.yaml", {"FAIRLEAD_ADMIN_TOKEN": "x"})
    patience = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert patience > settings.shutdown.delay + settings.shutdown.grace


@pytest.mark.parametrize("group", documents("prometheus/rules.yaml")[0]["groups"])
def test_alerts_watch_metrics_that_exist(group: dict[str, Any]) -> None:
    for rule in group["rules"]:
        names = re.findall(r"\b(?:fairlead|service)_[a-z_]+(?=[{\[ )]|$)", rule["expr"])
        known = [name for name in names if name != "service_name"]
        assert known, rule["alert"]
        for name in known:
            assert f'"{name}"' in METRICS or f'"{name.removesuffix("_total")}"' in METRICS, name


def test_every_file_is_readable() -> None:
    for path in DEPLOY.rglob("*.yaml"):
        assert all(document for document in yaml.safe_load_all(path.read_text())), path
