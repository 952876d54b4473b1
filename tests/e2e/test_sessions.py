"""Logging in to the admin server with a cookie, without a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from proxy.control.admin_logins import FREE
from tests.e2e.reloading import rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

CHANGE = "/api/v1/services/users/instances/one/drain"
CONFIG: dict[str, Any] = {
    "services": {"users": {"instances": [{"id": "one", "address": "127.0.0.1", "port": 1}]}},
    "routes": [{"path_prefix": "/{service}"}],
}


@pytest_asyncio.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[RunningProxy]:
    port = free_port()
    admin = {"bind": f"127.0.0.1:{port}", "token": "all", "read_token": "look"}
    running = RunningProxy({**CONFIG, "admin": admin}, tmp_path)
    running.admin_port = port
    async with running:
        yield running


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection from before a reload obeys the rules of before until it is closed.
    connector = aiohttp.TCPConnector(force_close=True)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
        yield session


async def log_in(client: aiohttp.ClientSession, proxy: RunningProxy, token: str) -> tuple[int, str]:
    path = proxy.admin + "/api/v1/session"
    async with client.post(path, json={"token": token}) as answer:
        return answer.status, answer.headers.get("Set-Cookie", "")


async def status(
    client: aiohttp.ClientSession, method: str, url: str, cookie: str, **headers: str
) -> int:
    async with client.request(method, url, headers={"Cookie": cookie, **headers}) as answer:
        return answer.status


async def test_a_cookie_stands_for_the_token(
    proxy: RunningProxy, client: aiohttp.ClientSession
) -> None:
    assert (await log_in(client, proxy, "wrong"))[0] == 401
    for token, changes in (("all", 200), ("look", 403)):
        code, field = await log_in(client, proxy, token)
        (cookie,) = SimpleCookie(field).values()
        assert code == 200
        assert cookie["httponly"]
        assert (cookie["samesite"], cookie["path"]) == ("Strict", "/")
        sent = f"{cookie.key}={cookie.value}"
        services, change = proxy.admin + "/api/v1/services", proxy.admin + CHANGE
        assert await status(client, "GET", services, sent) == 200
        assert await status(client, "POST", change, sent, Origin=proxy.admin) == changes
        # Nothing says that this very page asks: a cookie alone changes nothing.
        assert await status(client, "POST", change, sent) == 401
        assert await status(client, "POST", change, sent, Origin="http://127.0.0.1:1") == 403
        site = {"Sec-Fetch-Site": "same-site"}
        assert await status(client, "POST", change, sent, **site) == 403
        assert await status(client, "DELETE", proxy.admin + "/api/v1/session", sent) == 204
        assert await status(client, "GET", services, sent) == 401
    assert await status(client, "GET", services, "fairlead_session=; a=b; =") == 401


async def test_a_session_ends_with_the_token_that_it_stands_for(
    proxy: RunningProxy, client: aiohttp.ClientSession
) -> None:
    _, field = await log_in(client, proxy, "all")
    sent = field.partition(";")[0]
    rewrite(proxy, {"admin": {**proxy.config["admin"], "token": "another"}})
    headers = {"Authorization": "Bearer all"}
    async with client.post(proxy.admin + "/api/v1/reload", headers=headers) as answer:
        assert answer.status == 200

    assert await status(client, "GET", proxy.admin + "/api/v1/services", sent) == 401


async def test_a_token_that_is_taken_away_counts_no_more_on_connections_that_are_kept(
    proxy: RunningProxy,
) -> None:
    """A reload answers once the rules are others; its own connection has some seconds to go."""
    headers = {"Authorization": "Bearer all"}
    async with aiohttp.ClientSession(headers=headers) as client:
        rewrite(proxy, {"admin": {**proxy.config["admin"], "token": "another"}})
        async with client.post(proxy.admin + "/api/v1/reload") as answer:
            assert answer.status == 200
        async with client.get(proxy.admin + "/api/v1/services") as answer:
            assert answer.status == 401


async def test_somebody_who_guesses_is_told_to_wait(
    proxy: RunningProxy, client: aiohttp.ClientSession
) -> None:
    codes = []
    while not codes or codes[-1] == 401:  # Waits double: soon the next guess is too early.
        codes.append((await log_in(client, proxy, f"guess-{len(codes)}"))[0])
    assert codes[: FREE + 1] == [401] * (FREE + 1)
    assert codes[-1] == 429
    headers = {"Authorization": "Bearer all"}
    async with client.get(proxy.admin + "/api/v1/services", headers=headers) as answer:
        assert answer.status == 200

    async def may_again() -> bool:
        return (await log_in(client, proxy, "all"))[0] == 200

    await eventually(may_again, 60, "the end of the wait")


async def test_the_page_is_there_for_browsers_without_a_token_and_runs_only_its_own_scripts(
    proxy: RunningProxy, client: aiohttp.ClientSession
) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml"}
    async with client.get(proxy.admin + "/", headers=browser) as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert await status(client, "GET", proxy.admin + "/dashboard/app.js", "") == 200
    assert await status(client, "GET", proxy.admin + "/dashboard/..%2fadmin.py", "") == 401
    assert await status(client, "GET", proxy.admin + "/", "") == 200


async def test_the_configuration_in_force_is_shown_without_secrets(
    proxy: RunningProxy, client: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": "Bearer look"}
    async with client.get(proxy.admin + "/api/v1/config", headers=headers) as answer:
        text, document = await answer.text(), await answer.json()
    assert document["settings"]["admin"]["token"] == "…"
    assert '"all"' not in text
    assert (document["last_reload"], len(document["hash"])) == (None, 16)


async def test_the_last_reload_is_shown_with_its_changes_or_complaints(
    proxy: RunningProxy, client: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": "Bearer all"}
    told = []
    for grace in ("7s", "never"):
        rewrite(proxy, {"shutdown": {"delay": "0s", "grace": grace}})
        async with client.post(proxy.admin + "/api/v1/reload", headers=headers) as answer:
            await answer.read()
        _, document = await proxy.get("/api/v1/config", headers)
        told.append(document["last_reload"])
    change = {"key": "shutdown.grace", "before": "10", "after": "7"}
    changed, refused = told
    assert 0 < changed.pop("at") <= refused.pop("at")
    assert changed == {"result": "changed", "changes": [change], "complaints": []}
    (complaint,) = refused.pop("complaints")
    assert 'shutdown.grace: "never" is not a duration' in complaint
    assert refused == {"result": "refused", "changes": []}
