"""Instances in files, from what is written to what a running proxy serves."""

from __future__ import annotations

import json
from pathlib import Path

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
