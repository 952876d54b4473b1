"""`service: "@dashboard"`: the dashboard and the read API on a public route, behind a login."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import pytest

from tests.e2e.origin import Origin, origins
from tests.e2e.running import RunningProxy
from tests.support.certificates import Authority
from tests.support.processes import eventually, free_port

PASSWORD = {"Authorization": "Basic " + base64.b64encode(b"ann:sesame").decode()}
USER = "ann:" + bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
NAME = {"Host": "proxy.example.com"}
LOGIN = {"basic_auth": {"users": [USER]}}
ROUTE = {"host": "proxy.example.com", "filters": ["login"], "service": "@dashboard"}
TEMPLATE = {"path_prefix": "/{service}", "strip_prefix": True}


def config(origin: Origin, **more: Any) -> dict[str, Any]:
    return {
        "services": {"users": {"instances": [origin.instance]}},
        "filters": {"login": LOGIN},
        "routes": [ROUTE, TEMPLATE],
        **more,
    }


async def ask(
    proxy: RunningProxy, path: str, fields: dict[str, str], method: str = "GET"
) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, proxy.url + path, headers={**NAME, **fields}) as answer,
    ):
        return answer.status, await answer.text()


def running(
    origin: Origin, directory: Path, routes: list[dict[str, Any]] | None = None, **admin: Any
) -> RunningProxy:
    """A proxy whose admin server is on the port that the tests know."""
    told = config(origin, **({"routes": routes} if routes else {}))
    port = free_port()
    proxy = RunningProxy({**told, "admin": {"bind": f"127.0.0.1:{port}", **admin}}, directory)
    proxy.admin_port = port
    return proxy


async def test_a_token_in_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """By the admin server, and by what shows it."""
    (tmp_path / "token").write_text("before\n")
    admin = {"token_file": "token"}
    async with origins("one") as (one,), running(one, tmp_path, **admin) as proxy:

        async def knows(token: str) -> bool:
            shown = {"Authorization": f"Bearer {token}"}
            async with (
                aiohttp.ClientSession(headers=shown) as asked,
                asked.get(f"{proxy.admin}/api/v1/workers") as answer,
            ):
                return answer.status == 200

        assert await knows("before")
        assert not await knows("")
        assert (await ask(proxy, "/api/v1/workers", PASSWORD))[0] == 200

        (tmp_path / "new").write_text("after")
        (tmp_path / "new").rename(tmp_path / "token")
        await eventually(lambda: knows("after"), 10, "the new token")
        assert not await knows("before")
        assert (await ask(proxy, "/api/v1/workers", PASSWORD))[0] == 200

        (tmp_path / "token").write_text("")
        refused = '"event": "config_not_reloaded"'
        await eventually(lambda: refused in proxy.log(), 10, "the complaint")
        assert await knows("after")
        assert not await knows("")


@pytest.mark.parametrize("token", ["", "a-token-to-change"])
async def test_a_user_looks_at_it_and_nobody_else(tmp_path: Path, token: str) -> None:
    async with origins("one") as (one,), running(one, tmp_path, token=token) as proxy:
        for path in ("/", "/api/v1/services", "/dashboard/app.js", "/metrics"):
            assert (await ask(proxy, path, {}))[0] == 401
            assert (await ask(proxy, path, {"Authorization": f"Bearer {token}"}))[0] == 401
            status, text = await ask(proxy, path, PASSWORD)
            assert status == 200, (path, text)
        assert "dashboard/app.js" in (await ask(proxy, "/", PASSWORD))[1]
        session = (await ask(proxy, "/api/v1/session", PASSWORD))[1]
        assert '"may_look":true' in session.replace(" ", "")
        # Reading alone, whatever is in the file of the admin server.
        drain = f"/api/v1/services/users/instances/{one.instance['id']}/drain"
        for method in ("POST", "PUT", "DELETE"):
            assert (await ask(proxy, drain, PASSWORD, method))[0] == 404
        # No template leads there.
        for path in ("/@dashboard/api/v1/services", "/%40dashboard/", "/@DASHBOARD/"):
            async with (
                aiohttp.ClientSession() as http,
                http.get(proxy.url + path, headers=PASSWORD) as answer,
            ):
                assert answer.status == 404, path
        shown = (await ask(proxy, "/api/v1/config", PASSWORD))[1]
        assert not token or token not in shown
        assert "sesame" not in shown


async def test_events_come_as_they_happen(tmp_path: Path) -> None:
    async with (
        origins("one") as (one,),
        running(one, tmp_path) as proxy,
        aiohttp.ClientSession() as session,
        session.get(proxy.url + "/api/v1/events", headers={**NAME, **PASSWORD}) as answer,
    ):
        assert await asyncio.wait_for(answer.content.readline(), 10) == b": connected\n"


async def test_an_admin_server_with_tls_is_spoken_to_so(tmp_path: Path) -> None:
    made = Authority().issue("admin.example.com")
    (tmp_path / "a.pem").write_bytes(made.cert)
    (tmp_path / "a.key").write_bytes(made.key)
    async with origins("one") as (one,):
        proxy = running(one, tmp_path, tls={"cert": "a.pem", "key": "a.key"})
        proxy.launch()
        try:
            await eventually(lambda: _shown(proxy), 30, "the dashboard")
        finally:
            await proxy.stop()
            await proxy.kill()


async def _shown(proxy: RunningProxy) -> bool:
    try:
        return (await ask(proxy, "/api/v1/services", PASSWORD))[0] == 200
    except aiohttp.ClientError:
        return False
