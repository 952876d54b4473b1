"""The dashboard, in a browser: each view, changes as they happen, who may do what."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.browser import CHROMIUM, Browser
from tests.e2e.running import RunningProxy
from tests.support.processes import free_port

TOKEN, LOOKING = "a-token-to-change", "a-token-to-look"
SHOTS = os.environ.get("FAIRLEAD_SCREENSHOTS")
"""Directory for pictures of the views, for the documents; without it none are taken."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

CONFIG: dict[str, Any] = {
    "admin": {"token": TOKEN, "read_token": LOOKING},
    "services": {
        "users": {
            "instances": [
                {
                    "id": f"users-{number}",
                    "address": "127.0.0.1",
                    "port": 7000 + number,
                    "metadata": {"zone": "ab"[number % 2]},
                }
                for number in range(120)
            ]
        },
        "orders": {"instances": [{"id": "orders-1", "address": "127.0.0.1", "port": 1}]},
    },
    "routes": [
        {"path_prefix": "/users", "strip_prefix": True, "service": "users"},
        {"path_prefix": "/orders", "service": "orders"},
    ],
}
VIEWS = {
    "services": "users",
    "service=users": "users-1",
    "calls": "Calls: 0 pairs",
    "routes": "path_prefix: /orders",
    "registry": "Connected",
    "certificates": "No certificate",
    "workers": "Last exit",
    "fleet": "This proxy is in no fleet",
    "events": "Nothing has happened",
    "config": "in force since",
}
"""View → a text that is there once it is filled."""


@pytest_asyncio.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[RunningProxy]:
    port = free_port()
    admin = {**CONFIG["admin"], "bind": f"127.0.0.1:{port}"}
    running = RunningProxy({**CONFIG, "admin": admin}, tmp_path)
    running.admin_port = port
    async with running as started:
        yield started


@pytest_asyncio.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with Browser(tmp_path / "profile") as started:
        yield started


def shows(text: str) -> str:
    return f"document.querySelector('#content').innerText.includes({text!r})"


def save(view: str, picture: bytes) -> None:
    assert SHOTS is not None
    (Path(SHOTS) / f"dashboard-{view.partition('=')[0]}.png").write_bytes(picture)


async def log_in(browser: Browser, proxy: RunningProxy, token: str) -> None:
    await browser.open(proxy.admin + "/")
    await browser.until("document.activeElement?.id === 'token'", "a form to log in")
    await browser.run(
        f"document.querySelector('#token').value = {token!r};"
        "document.querySelector('#login-form').requestSubmit()"
    )


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The source of axe-core, from the package index of npm."""
    directory = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        return None
    done = subprocess.run(
        ["npm", "pack", "axe-core", "--silent"],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        return None
    with tarfile.open(directory / done.stdout.split()[-1]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


async def test_each_view_is_filled_without_an_error_and_without_asking_anybody_else(
    browser: Browser, proxy: RunningProxy, axe: str | None
) -> None:
    await browser.open(proxy.admin + "/")
    await browser.until("document.activeElement?.id === 'token'", "a form to log in")
    await _is_accessible(browser, axe)
    await log_in(browser, proxy, TOKEN)
    await browser.until(shows("orders"), "the services")
    for view, text in VIEWS.items():
        await browser.run(f"location.hash = {view!r}")
        await browser.until(shows(text), view)
        assert await browser.run("document.querySelector('#trouble').hidden"), view
        for scheme in ("dark", "light"):
            await browser.emulate(scheme)
            await _is_accessible(browser, axe)
        if SHOTS:
            save(view, await browser.screenshot())
    assert browser.errors == []
    asked = {url for url in browser.requested if not url.startswith(("about:", "data:"))}
    assert {url for url in asked if not url.startswith(proxy.admin + "/")} == set()


async def _is_accessible(browser: Browser, axe: str | None) -> None:
    if axe is None:
        return
    await browser.run(axe + "; 0")
    found = await browser.run("axe.run().then(found => found.violations)")
    grave = [one for one in found if one["impact"] != "minor"]
    assert not grave, [(one["id"], [node["html"] for node in one["nodes"]]) for one in grave]


async def test_an_instance_is_drained_and_undrained_and_shown_so_without_reloading(
    browser: Browser, proxy: RunningProxy
) -> None:
    await log_in(browser, proxy, TOKEN)
    await browser.until(shows("orders"), "the services")
    await browser.run("window.kept = true; location.hash = 'service=orders'")
    for word, status in (("Drain", "draining"), ("Undrain", "ready")):
        button = f"document.querySelector('[aria-label=\"{word} orders-1\"]')"
        await browser.until(f"{button} && !{button}.disabled", f"a button to {word}")
        await browser.run(f"{button}.click()")
        await browser.until(f"document.querySelector('td.{status}')", status)
        said = "document.querySelector('#said').textContent"
        await browser.until(f"{said}.includes('{word.lower()}ed')", "what was done")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        path = f"{proxy.admin}/api/v1/services/orders/instances/orders-1/drain"
        async with session.post(path) as answer:
            assert answer.status == 200
    await browser.until("document.querySelector('td.draining')", "a drain by somebody else")
    await browser.run("location.hash = 'events'")
    await browser.until(shows("undrained"), "events")
    assert await browser.run("window.kept")
    assert browser.errors == []


async def test_instances_are_filtered_and_paged(browser: Browser, proxy: RunningProxy) -> None:
    await log_in(browser, proxy, TOKEN)
    await browser.until(shows("orders"), "the services")
    await browser.run("location.hash = 'service=users'")
    rows = "document.querySelectorAll('tbody tr').length"
    await browser.until(shows("Instances 1 to 50 of 120"), "the first page")
    assert await browser.run(rows) == 50
    await browser.run("document.querySelectorAll('.pages button')[1].click()")
    await browser.until(shows("Instances 51 to 100 of 120"), "the second page")
    filters = (("zone", "a", 60), ("name", "USERS-11", 5), ("state", "ejected", 0))
    for element, value, count in filters:
        await browser.run(
            f"document.querySelector('#{element}').value = {value!r};"
            f"document.querySelector('#{element}').dispatchEvent(new Event('input'))"
        )
        await browser.until(shows(f"of {count}" if count else "No instance"), f"{count} instances")


async def test_a_request_is_explained_step_by_step(browser: Browser, proxy: RunningProxy) -> None:
    await log_in(browser, proxy, TOKEN)
    await browser.until(shows("orders"), "the services")
    await browser.run("location.hash = 'routes'")
    await browser.until("document.querySelector('#url')", "the form")
    await browser.run(
        "document.querySelector('#url').value = '/orders/7';"
        "document.querySelector('#url').form.requestSubmit()"
    )
    await browser.until(shows("May be picked: orders-1"), "the explanation")


async def test_a_token_to_look_changes_nothing_and_whoever_logs_out_sees_nothing(
    browser: Browser, proxy: RunningProxy
) -> None:
    await log_in(browser, proxy, "wrong")
    await browser.until("!document.querySelector('#trouble').hidden", "a refusal")
    await log_in(browser, proxy, LOOKING)
    await browser.until(shows("orders"), "the services")
    assert await browser.run("document.cookie") == ""
    await browser.run("location.hash = 'service=orders'")
    button = "document.querySelector('[aria-label=\"Drain orders-1\"]')"
    await browser.until(f"{button} && {button}.disabled", "a button that cannot be used")
    path = "/api/v1/services/orders/instances/orders-1/drain"
    asked = f"fetch({path!r}, {{method: 'POST'}}).then(answer => answer.status)"
    assert await browser.run(asked) == 403
    await browser.run("document.querySelector('#logout').click()")
    await browser.until("!document.querySelector('#login').hidden", "the form again")
    assert await browser.run("fetch('/api/v1/services').then(answer => answer.status)") == 401
    await browser.open(proxy.admin + "/#services")
    await browser.until("!document.querySelector('#login').hidden", "the form after reloading")


async def test_each_of_several_registries_is_told_of(
    browser: Browser, axe: str | None, tmp_path: Path
) -> None:
    (tmp_path / "one.json").write_text('{"users": [{"address": "127.0.0.1", "port": 1}]}')
    registries = [
        {"name": "first", "type": "file", "path": "one.json", "interval": "100ms"},
        {"name": "second", "type": "file", "path": "two.json", "interval": "100ms"},
    ]
    running = RunningProxy({"routes": [{"path_prefix": "/{service}"}]}, tmp_path)
    del running.config["registry"]
    running.file.write_text(json.dumps({**running.config, "registries": registries}))
    async with running as proxy:
        await browser.open(proxy.admin + "/#registry")
        cells = "[...document.querySelectorAll('#content tbody tr')].map((row) => row.innerText)"

        def row(*texts: str) -> str:
            return f"{cells}.some((row) => /^{'.*'.join(texts)}/s.test(row))"

        await browser.until(row("first", "yes", "ago", "1"), "the first one")
        await browser.until(row("second", "no", "never", "0", "two.json"), "the second one")
        await _is_accessible(browser, axe)
        if SHOTS:
            save("registries", await browser.screenshot())
        (tmp_path / "two.json").write_text("{}")
        await browser.until(row("second", "yes"), "the second one, which answers now")
        assert browser.errors == []
