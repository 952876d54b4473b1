"""What a process has loaded when it begins: each module costs time at the start, and memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = ("aiohttp", "cryptography", "etcd3", "prometheus_client", "requests", "yaml")
"""Loaded where something needs them, each when it does."""


def loaded(module: str) -> set[str]:
    # structlog loads rich where it finds it: it is there once somebody has checked a wheel.
    code = f"import sys; sys.modules['rich'] = None; import {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    ("module", "without", "most"),
    [
        ("proxy.cli", ("proxy.engine", "proxy.control", "proxy.settings", "proxy.cli_admin"), 150),
        ("proxy.engine.__main__", ("proxy.control", "proxy.registry", "proxy.cli", "click"), 490),
        ("proxy.control.process", ("proxy.engine.worker", "proxy.tls.acme"), 390),
        ("proxy.mesh.sidecar", ("proxy.tls.acme", "proxy.mesh.authority"), 590),
    ],
)
def test_a_process_loads_no_more_than_it_needs(
    module: str, without: tuple[str, ...], most: int
) -> None:
    found = loaded(module)
    for name in (*LIBRARIES, *without):
        assert name not in found
    assert len(found) <= most, len(found)


BESIDE = (
    "proxy.cli, proxy.mesh.sidecar, proxy.control.admin, proxy.registry.etcd.provider,"
    "proxy.register.etcd_backend"
)
"""In a side-car, when it has begun."""


def test_a_side_car_loads_no_library_without_a_use_for_it() -> None:
    found = loaded(BESIDE)
    for name in ("cryptography", "requests", "semantic_version", "urllib3", "yaml"):
        assert name not in found
    assert len(found) <= 750, len(found)


def test_etcd3_is_whole_for_whoever_imports_it() -> None:
    assert {"requests", "semantic_version"} <= loaded(f"{BESIDE}, etcd3")
    assert "requests" in loaded("proxy.registry.etcd.gateway")  # In a program of somebody's own.
