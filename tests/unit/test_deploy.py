"""What deploy/ ships fits the program: configurations are accepted, metrics exist."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli import main
from proxy.control.families import FAMILIES
from proxy.control.worker_process import KILL_AFTER_GRACE, SILENT_WARNING
from proxy.control.worker_slot import SILENT_TICKS
from proxy.demo import BUILT_IN
from proxy.settings.file import Settings
from proxy.settings.load import parse
from proxy.settings.process import ShutdownSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def in_kubernetes(directory: Path) -> Settings:
    """What the ConfigMap becomes where the files that it names are in a directory."""
    config = documents("kubernetes/fairlead.yaml")[0]["data"]["proxy.yaml"]
    ca = directory / "ca.crt"
    ca.write_text("-----BEGIN CERTIFICATE-----\n")
    environ = {"FAIRLEAD_ADMIN_TOKEN": "secret", "FAIRLEAD_ETCD_PASSWORD": "secret"}
    return parse(config.replace("/etc/etcd/tls/ca.crt", str(ca)), "proxy.yaml", environ)


def test_the_configuration_for_kubernetes_is_accepted(tmp_path: Path) -> None:
    assert in_kubernetes(tmp_path).registry.options.addresses == tuple(
        f"https://etcd-{n}.etcd:2379" for n in range(3)
    )


def test_the_proxy_and_etcd_in_kubernetes_agree_on_names_and_files() -> None:
    _, _, stateful = documents("kubernetes/etcd.yaml")
    command = stateful["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "--listen-client-urls=https://0.0.0.0:2379" in command
    assert stateful["spec"]["replicas"] == 3
    _, deployment, _ = documents("kubernetes/fairlead.yaml")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert "etcd-tls" in {one.get("secret", {}).get("secretName") for one in volumes}


def test_secrets_of_the_proxy_in_kubernetes_are_those_that_the_page_makes() -> None:
    _, deployment, _ = documents("kubernetes/fairlead.yaml")
    pod = deployment["spec"]["template"]["spec"]
    refs = [one["valueFrom"]["secretKeyRef"] for one in pod["containers"][0]["env"]]
    asked = {(one["name"], one["key"]) for one in refs}
    for secret in (one["secret"] for one in pod["volumes"] if "secret" in one):
        asked |= {(secret["secretName"], item["key"]) for item in secret["items"]}
    page = (ROOT / "docs/install.md").read_text("utf-8")
    made = {
        (name, key)
        for name, keys in re.findall(r"(?m)^kubectl create secret generic (\S+) (.*)$", page)
        for key in re.findall(r"--from-(?:literal|file)=([\w.-]+)", keys)
    }
    assert made == asked


def test_the_numbers_of_the_chart_follow_from_those_of_stopping() -> None:
    [values] = documents("helm/fairlead/values.yaml")
    shutdown = values["shutdown"]
    # The chart adds ten seconds to delay and grace: a worker that does not end is killed in them.
    assert KILL_AFTER_GRACE < 10
    assert values["probes"]["ready"] < shutdown["delay"]
    workload = (DEPLOY / "helm/fairlead/templates/workload.yaml").read_text()
    assert "add .Values.shutdown.delay .Values.shutdown.grace 10" in workload
    assert values["autoscaling"]["calm"] > shutdown["delay"] + shutdown["grace"]


def test_compose_provisions_what_it_mounts() -> None:
    services = documents("compose.yaml")[0]["services"]
    for name in ("prometheus", "grafana"):
        for mount in services[name]["volumes"]:
            assert (DEPLOY / mount.split(":")[0]).exists(), mount
    [scraped] = documents("prometheus/prometheus.yaml")
    assert scraped["rule_files"] == ["rules.yaml"]


def test_pods_get_the_time_that_stopping_takes(tmp_path: Path) -> None:
    _, deployment, _ = documents("kubernetes/fairlead.yaml")
    settings = in_kubernetes(tmp_path)
    patience = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert patience > settings.shutdown.delay + settings.shutdown.grace


def test_systemd_gives_the_time_that_stopping_and_replacing_a_worker_take() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.read(DEPLOY / "systemd/fairlead.service")
    service = unit["Service"]
    stopping = ShutdownSettings()
    assert service.getint("TimeoutStopSec") > stopping.delay + stopping.grace + KILL_AFTER_GRACE
    # The last sign of life may have come half of the time before the first that did not.
    silent = service.getint("WatchdogSec") / 2 - SILENT_WARNING + SILENT_TICKS
    assert service.getint("WatchdogSec") > silent + 10, "the worker that takes its place starts"


@pytest.mark.parametrize("group", documents("prometheus/rules.yaml")[0]["groups"])
def test_alerts_watch_metrics_that_exist(group: dict[str, Any]) -> None:
    for rule in group["rules"]:
        names = re.findall(r"\b(?:fairlead|service)_[a-z_]+(?=[{\[ )]|$)", rule["expr"])
        known = [name for name in names if name != "service_name"]
        assert known, rule["alert"]
        for name in known:
            assert name in FAMILIES or name.removesuffix("_bucket") in FAMILIES, name


@pytest.mark.parametrize(
    "text", [(ROOT / "proxy.yaml").read_text(), BUILT_IN], ids=["file", "built in"]
)
def test_the_demo_listens_on_loopback_only(text: str) -> None:
    settings = parse(text, "proxy.yaml", {})
    binds = [settings.admin.bind, *(listener.bind for listener in settings.listeners)]
    assert [bind.partition(":")[0] for bind in binds] == ["127.0.0.1", "127.0.0.1"]


def test_image_is_built_from_sources_and_from_nothing_that_was_built_beside_them() -> None:
    left_out = (ROOT / ".dockerignore").read_text().split("\n")
    assert {".git", ".venv", "build", "dist", "**/__pycache__", "**/*.so"} <= {*left_out}
    copied = re.findall(r"(?m)^COPY (?!--)(.*) \S+$", (DEPLOY / "Dockerfile").read_text())
    names = {name for line in copied for name in line.split()}
    assert {"proxy", "balancers", "pyproject.toml"} <= names
    assert all((ROOT / name).exists() for name in names)
    assert not {name.partition("/")[0] for name in names} & {*left_out}


def test_in_a_container_it_listens_where_the_port_is_published() -> None:
    fairlead = documents("compose.yaml")[0]["services"]["fairlead"]
    settings = parse((ROOT / "proxy.yaml").read_text(), "proxy.yaml", fairlead["environment"])
    assert settings.listeners[0].bind == "0.0.0.0:8080"
    assert fairlead["ports"] == ["8080:8080"]


def test_metrics_are_told_to_prometheus_in_another_container() -> None:
    fairlead = documents("compose.yaml")[0]["services"]["fairlead"]
    admin = parse((ROOT / "proxy.yaml").read_text(), "proxy.yaml", fairlead["environment"]).admin
    [scraped] = documents("prometheus/prometheus.yaml")[0]["scrape_configs"]
    [[target]] = [one["targets"] for one in scraped["static_configs"]]
    assert admin.bind == "0.0.0.0:9900"
    assert {admin.token, admin.read_token} == {""}  # It shows none.
    name, _, port = target.partition(":")
    assert name in admin.hosts
    assert port == "9900"


def test_every_file_is_readable() -> None:
    # Templates of a chart become YAML only in Helm.
    for path in set(DEPLOY.rglob("*.yaml")) - set(DEPLOY.rglob("templates/*.yaml")):
        assert all(document for document in yaml.safe_load_all(path.read_text())), path


def side_cars() -> list[list[str]]:
    """The words of every side-car that is started."""
    compose = documents("compose-mesh.yaml")[0]["services"].values()
    found = [one["command"] for one in compose if one.get("command", [""])[0] == "sidecar"]
    pod = documents("kubernetes/sidecar.yaml")[0]["spec"]["template"]["spec"]
    unit = (DEPLOY / "systemd/fairlead-sidecar@.service").read_text()
    start = re.search(r"^ExecStart=\S+ (.*)", unit, re.MULTILINE)
    assert start is not None
    started = start[1].replace("$OPTIONS ", "").replace("${PORT}", "1").split()
    return [*found, pod["initContainers"][0]["args"], started]


@pytest.mark.parametrize("words", side_cars())
def test_side_cars_are_started_with_words_that_they_know(words: list[str]) -> None:
    command = main.commands[words[0]]
    # click keeps the option for help as the first context wants it.
    context = command.make_context("sidecar", list(words[1:]), **main.context_settings)
    assert context.params["identity"]


def test_pods_give_side_cars_the_time_that_stopping_takes() -> None:
    pod = documents("kubernetes/sidecar.yaml")[0]["spec"]["template"]["spec"]
    wait = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    record = 3  # --drain-wait, after which nobody is sent there.
    assert wait > record
    assert pod["terminationGracePeriodSeconds"] > wait + ShutdownSettings().grace


def test_compose_stops_a_side_car_before_the_program_of_another_container() -> None:
    services = documents("compose-mesh.yaml")[0]["services"]
    side = services["web-sidecar"]
    # What depends is stopped first: the record goes while the program still answers.
    assert side["network_mode"] == "service:web"
    assert {"etcd", "web"} <= {*side["depends_on"]}
    assert "depends_on" not in services["web"]
    record = 3  # --drain-wait
    assert int(side["stop_grace_period"].removesuffix("s")) > record + ShutdownSettings().grace


def test_systemd_gives_a_side_car_its_identity_to_read_and_to_renew() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.read(DEPLOY / "systemd/fairlead-sidecar@.service")
    service = unit["Service"]
    words = service["ExecStart"].split()
    assert service["ProtectSystem"] == "strict"  # All else can only be read.
    assert words[words.index("--identity") + 1] == f"/var/lib/{service['StateDirectory']}"
