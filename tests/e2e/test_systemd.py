"""The units of the proxy, run by systemd itself: what it is told is what it makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.booted import Booted, can_boot
from tests.e2e.own_root import can_have_own_root
from tests.support.processes import eventually, free_port

FILE = "/etc/fairlead/proxy.yaml"

pytestmark = pytest.mark.skipif(not can_boot(), reason="there is no systemd, or no groups for it")


async def status(port: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as got:
        return got.status


async def test_the_proxy_is_ready_reloads_is_replaced_and_stops(tmp_path: Path) -> None:
    if not can_have_own_root(tmp_path):
        pytest.skip("needs root, and a file system of its own")
    port, admin = free_port(), free_port()

    def config(answer: int) -> str:
        read: dict[str, Any] = {
            "listeners": [{"name": "web", "bind": f"127.0.0.1:{port}"}],
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "registry": {"type": "static"},
            "workers": 1,
            "routes": [{"path": "/", "respond": {"status": answer}}],
        }
        return json.dumps(read)

    async with Booted(tmp_path, {FILE: config(204)}) as machine:
        run, log = machine.run, lambda: machine.log_of("fairlead") + machine.log()
        await run("systemctl", "start", "fairlead")
        # It has said that it is ready: nothing is waited for.
        assert await status(port) == 204, log()
        assert await machine.told("fairlead", "StatusText") == "serving"
        main = await machine.told("fairlead", "MainPID")
        machine.rewrite(FILE, config(202))
        await run("systemctl", "reload", "fairlead")

        async def reloaded() -> bool:
            return await status(port) == 202

        await eventually(reloaded, 20.0, log)
        upgrade = ("fairlead", "upgrade", "--admin", f"http://127.0.0.1:{admin}")
        assert await run(*upgrade) == "upgraded\n"
        assert await status(port) == 202
        assert await machine.told("fairlead", "MainPID") == main
        await run("systemctl", "stop", "fairlead")
        assert await machine.told("fairlead", "Result") == "success"
        assert await machine.told("fairlead", "ExecMainStatus") == "0"
