"""Side-cars of one fleet: each shows who calls whom in all of the mesh."""

from __future__ import annotations

import json
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Origin
from tests.support.processes import eventually


async def test_a_side_car_shows_who_calls_whom_in_all_of_the_mesh(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "mesh")
    cert, key = map(str, authority.issue("localhost"))
    (tmp_path / "fleet.key").write_text("k" * 40)
    trusting = ssl.create_default_context(cafile=authority.ca)

    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        program = await stack.enter_async_context(Origin("program"))
        port = program.instance["port"]
        sides: dict[str, Beside] = {}
        for service in ("web", "orders", "users"):
            file = tmp_path / f"{service}.json"
            words = ("-c", str(file), "--check", "exec:true", "--drain-wait", "300ms")
            side = Beside(service, port, tmp_path, authority, etcd.url, *words, admin_tls=trusting)
            config = {
                "registry": {"type": "etcd", "endpoints": [etcd.url]},
                "admin": {
                    "advertise": f"https://localhost:{side.admin_port}",
                    "tls": {"cert": cert, "key": key},
                },
                "fleet": {
                    "id": service,
                    "key_file": str(tmp_path / "fleet.key"),
                    "ca": str(authority.ca),
                },
                "routes": [{"path": "/", "respond": 204}],
            }
            file.write_text(json.dumps(config))
            sides[service] = await stack.enter_async_context(side)
        async with aiohttp.ClientSession() as session:
            for caller, service in (("web", "orders"), ("orders", "users")):
                await sides[caller].knows(service)
                url = f"http://127.0.0.1:{sides[caller].outbound}/"
                async with session.get(url, headers={"Host": service}) as answer:
                    assert answer.status == 200
        wanted = {"orders": ["web"], "users": ["orders"]}
        said: dict[str, Any] = {}

        async def shown() -> bool:
            # By one that neither calls `users` nor is called by it.
            status, text = await sides["web"].ask_admin("/api/v1/fleet/services")
            said.update(json.loads(text))
            rows = {row["name"]: row["limits"]["callers"] for row in said.get("services", ())}
            calls = {
                service: sorted(
                    one.rpartition(" ")[0] for one in rows.get(f"{service}:inbound", ())
                )
                for service in wanted
            }
            return status == 200 and calls == wanted

        await eventually(shown, 60.0, lambda: said)
        assert sorted(said["proxies"]) == ["orders", "users", "web"]
