"""What a process has loaded when it begins: each module costs time at the start, and memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.control.forked import EarlyWorker

LIBRARIES = ("aiohttp", "cryptography", "etcd3", "prometheus_client", "requests", "yaml")
"""Loaded where something needs them, each when it does."""


def loaded(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    ("module", "without", "most"),
    [
        ("proxy.cli", ("proxy.engine", "proxy.control", "proxy.settings"), 230),
        ("proxy.engine.__main__", ("proxy.control", "proxy.registry", "proxy.cli", "click"), 490),
        ("proxy.control.forked", ("proxy.registry", "proxy.cli", "proxy.control.process"), 490),
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


def test_a_process_with_a_known_seed_for_hashes_forks_no_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert EarlyWorker.fork() is None
