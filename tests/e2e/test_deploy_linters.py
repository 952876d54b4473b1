"""What deploy/ ships, as the usual linters see it. Those that are not here skip their files:
`.ci/linters` fetches them, and systemd-analyze is in Debian's systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from proxy.settings.load import parse
from tests.e2e.peer_configs import CACHE

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
CHART: Final = DEPLOY / "helm/fairlead"
MANIFESTS: Final = sorted((DEPLOY / "kubernetes").glob("[!k]*.yaml"))
UNITS: Final = sorted((DEPLOY / "systemd").iterdir())
COMPOSE: Final = sorted(DEPLOY.glob("compose*.yaml"))
# Templates of a chart become YAML only in Helm.
YAML: Final = sorted({*DEPLOY.rglob("*.yaml")} - {*DEPLOY.rglob("templates/*.yaml")})
LINES: Final = "{extends: relaxed, rules: {line-length: disable, indentation: disable}}"
SCHEMA: Final = "check-jsonschema --builtin-schema vendor.compose-spec"
_APP: Final = "podSelector.matchLabels.app"
VARIANTS: Final = {
    "default": "",
    "a proxy on each node": "kind=DaemonSet",
    "everything": "autoscaling.enabled=true,networkPolicy.enabled=true,serviceMonitor.enabled=true,"
    f"networkPolicy.from[0].{_APP}=a,networkPolicy.admin[0].{_APP}=b,"
    "serviceMonitor.labels.release=p,service.annotations.a=b,env[0].name=ZONE,env[0].value=z",
    "the registry of Kubernetes": "serviceAccount=fairlead,config.registry.type=kubernetes,"
    "config.registry.endpoints=null",
    "a secret of its own": "adminSecret=mine,nodeSelector.disk=ssd,tolerations[0].operator=Exists",
}


def lint(tool: str, *words: str | Path) -> tuple[int, str]:
    """Exit code, and all that it prints. Skips the test if it is not here."""
    fetched = CACHE / "linters/bin" / tool
    found = str(fetched) if fetched.exists() else shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not here")
    ran = subprocess.run(
        [found, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


def run(tool: str, *words: str | Path) -> str:
    """All that it prints, and it is content."""
    code, said = lint(tool, *words)
    assert code == 0, said
    return said


def valid(file: Path) -> None:
    """Kubernetes knows all that is in a file, but for what others have brought."""
    said = run("kubernetes-validate", "--strict", file)
    kinds = re.findall(r"^kind: (\w+)", file.read_text(), re.MULTILINE)
    assert said.count(" passed for resource ") == len(kinds) - kinds.count("ServiceMonitor")


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_are_valid(file: Path) -> None:
    valid(file)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_chart_makes_valid_manifests(values: str, tmp_path: Path) -> None:
    more = ("--set", values) if values else ()
    run("helm", "lint", "--strict", CHART, *more)
    made = tmp_path / "made.yaml"
    made.write_text(run("helm", "template", "edge", CHART, *more))
    valid(made)
    run("yamllint", "--strict", "-d", LINES, made)


def test_the_chart_gives_an_account_to_who_follows_kubernetes_itself() -> None:
    values = VARIANTS["the registry of Kubernetes"]
    made = list(yaml.safe_load_all(run("helm", "template", "edge", CHART, "--set", values)))
    [config] = [one["data"]["proxy.yaml"] for one in made if one["kind"] == "ConfigMap"]
    [pod] = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("fairlead", True)
    registry = parse(config, "proxy.yaml", {"FAIRLEAD_ADMIN_TOKEN": "t"}).registry
    assert registry.type == "kubernetes"
    assert registry.options.addresses == ("https://kubernetes.default.svc:443",)


def test_the_base_can_be_built(tmp_path: Path) -> None:
    made = tmp_path / "made.yaml"
    made.write_text(run("kustomize", "build", DEPLOY / "kubernetes"))
    assert made.read_text().count("namespace: fairlead") >= 6
    valid(made)


def test_a_base_without_one_of_its_files_is_found(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes/kustomization.yaml").read_text()
    (tmp_path / "kustomization.yaml").write_text(text.replace("etcd.yaml", "gone.yaml"))
    code, said = lint("kustomize", "build", tmp_path)
    assert code != 0
    assert "gone.yaml" in said


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_files_fit_the_schema(file: Path) -> None:
    run(*SCHEMA.split(), file)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_what_systemd_knows(unit: Path, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "systemd", tmp_path, dirs_exist_ok=True)
    for one in tmp_path.iterdir():
        # Where it is installed to is not here.
        one.write_text(one.read_text().replace("/opt/fairlead/bin/fairlead", "/bin/true"))
    said = run("systemd-analyze", "verify", "--man=no", tmp_path / unit.name.replace("@", "@users"))
    assert unit.stem not in said, said


def test_the_image_is_built_as_it_should() -> None:
    run("hadolint", DEPLOY / "Dockerfile")


@pytest.mark.parametrize("file", YAML, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_yaml_is_tidy(file: Path) -> None:
    run("yamllint", "--strict", "-d", LINES, file)


@pytest.mark.parametrize(
    ("file", "right", "wrong", "words", "found"),
    [
        (
            "kubernetes/etcd.yaml",
            "replicas:",
            "replica:",
            "kubernetes-validate --strict",
            "replica",
        ),
        ("compose.yaml", "command:", "comand:", SCHEMA, "comand"),
        ("Dockerfile", " --no-cache-dir", "", "hadolint", "DL3042"),
        (
            "systemd/fairlead.service",
            "WatchdogSec",
            "Watchdog",
            "systemd-analyze verify",
            "Unknown",
        ),
    ],
)
def test_mistakes_are_found(
    file: str, right: str, wrong: str, words: str, found: str, tmp_path: Path
) -> None:
    """A linter that takes everything is none."""
    text = (DEPLOY / file).read_text()
    assert right in text
    bad = tmp_path / Path(file).name
    bad.write_text(text.replace(right, wrong))
    assert found in lint(*words.split(), bad)[1]
