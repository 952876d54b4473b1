"""What a side-car without a command makes of signals."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from proxy.mesh.sidecar import MeshSidecar
from proxy.register.record import Record
from proxy.register.sidecar import SidecarSettings
from proxy.settings.file import Settings
from proxy.settings.registry import registry_options

REGISTRY = registry_options("etcd")(endpoints=("http://127.0.0.1:1",))  # type: ignore[call-arg]


@pytest.mark.parametrize(("file", "stops"), [(Path("mesh.yaml"), False), (None, True)])
def test_a_reload_that_is_asked_for_at_the_start_stops_nobody_who_has_a_file(
    file: Path | None, stops: bool
) -> None:
    settings = SidecarSettings(record=Record(service="users", port=18443), registry=REGISTRY)
    beside = MeshSidecar(settings, Settings(), file, lambda read: read)
    beside._pass_on(signal.SIGHUP)
    assert beside._stop.is_set() is stops
