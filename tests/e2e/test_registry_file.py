"""Instances in files, from what is written to what a running proxy serves."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from proxy.registry.file.options import Options
from proxy.registry.file.provider import FileProvider
from proxy.registry.followed import Timing
from tests.e2e.drilled import Watched
from tests.e2e.mute_files import MuteFiles, can_mount
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually


async def test_files_are_followed_and_damage_and_loss_change_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "instances.d"
    directory.mkdir()
    config = {
        "registry": {"type": "file", "path": "instances.d", "interval": "100ms"},
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
    }
    file = directory / "users.yaml"

    def write(*ids: str) -> None:
        records = [{"id": id_, "address": "10.0.0.1", "port": 80} for id_ in ids]
        (tmp_path / "next").write_text(json.dumps({"users": records}))
        (tmp_path / "next").rename(file)

    write("a")
    async with RunningProxy(config, tmp_path) as proxy:

        async def served() -> str:
            _, known = await proxy.get("/api/v1/services/users")
            return "".join(one["id"] for one in known.get("instances", ()))

        async def serves(ids: str) -> bool:
            return await served() == ids

        async def registry() -> dict[str, object]:
            document: dict[str, object] = (await proxy.get("/api/v1/registry"))[1]
            return document

        async def is_told(name: str) -> bool:
            return bool((await registry())[name])

        await eventually(lambda: serves("a"))
        write("a", "b")
        await eventually(lambda: serves("ab"))
        file.write_text("users: [{")
        await eventually(lambda: is_told("invalid"))
        assert await served() == "ab"
        file.unlink()
        await eventually(lambda: is_told("last_error"))
        assert await served() == "ab"
        write("b")
        await eventually(lambda: serves("b"))
        assert not await is_told("invalid")
        assert not await is_told("last_error")


@pytest.mark.skipif(not can_mount(), reason="needs root and FUSE")
async def test_a_file_system_that_does_not_answer_is_an_outage_and_takes_one_thread(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mounted" / "instances.yaml"
    path.parent.mkdir()
    path.write_text("users: ['10.0.0.1:80']")
    provider = FileProvider(Options(path=str(path)), timing=Timing(probe=0.05, backoff_limit=0.05))
    async with Watched(provider) as seen:
        await seen.has("10.0.0.1:80")
        with MuteFiles(path.parent):
            assert "no answer of the file system" in await seen.loses_it()
            assert sum(one.name == "file-provider" for one in threading.enumerate()) == 1
            assert seen.ids() == {"10.0.0.1:80"}
        await seen.connects()
        assert len(seen.memberships) == 1


@pytest.mark.parametrize("linked", [False, True])
async def test_a_change_is_told_and_not_only_looked_for(tmp_path: Path, linked: bool) -> None:
    """By a rename in the place of a file, or of a link that leads to a directory with it."""
    for version, port in (("v1", 80), ("v2", 81)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "users.json").write_text(json.dumps({"users": [f"10.0.0.1:{port}"]}))
    path = tmp_path / "now/users.json" if linked else tmp_path / "v1/users.json"
    (tmp_path / "now").symlink_to("v1")
    timing = Timing(probe=3600.0)
    async with Watched(FileProvider(Options(path=str(path)), timing=timing)) as seen:
        await eventually(lambda: [one.port for one in seen.pool] == [80])
        if linked:
            (tmp_path / "next").symlink_to("v2")
            (tmp_path / "next").rename(tmp_path / "now")
        else:
            (tmp_path / "v2/users.json").rename(path)
        await eventually(lambda: [one.port for one in seen.pool] == [81])
