"""The dashboard, in a browser: each view, changes as they happen, who may do what."""

from __future__ import annotations

import asyncio
import json
import os
import re
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
from tests.e2e.certificates import Authority
from tests.e2e.origin import origins
from tests.e2e.reloading import rewrite
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
        "orders": {
            "instances": [
                {"id": "orders-1", "address": "127.0.0.1", "port": 1},
                {"id": "orders-2", "address": "127.0.0.1", "port": 2, "metadata": {"weight": "0"}},
            ]
        },
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
    return f"document.querySelector('#content')?.innerText.includes({text!r})"


def labelled(label: str) -> str:
    return f"document.querySelector('[aria-label=\"{label}\"]')"


CELL_OF_ORDERS = "document.querySelector('#content tbody tr').cells[2]"
WATCH_QUESTIONS = f"""
window.questions = 0;
window.pauses = [];
window.asked = window.fetch;
window.fetch = (path, ...more) => {{
  window.questions += String(path).includes('services/orders');
  return window.asked(path, ...more);
}};
window.later = window.setTimeout;
window.setTimeout = (what, pause, ...more) => {{
  if (what.name === 'refresh') window.pauses.push(pause);
  return window.later(what, pause, ...more);
}};
new MutationObserver(() => {{
  if ({CELL_OF_ORDERS}.innerText === 'draining') window.shownAfter ??= window.questions;
}}).observe(document.body, {{subtree: true, childList: true, characterData: true}})
"""
"""Questions for the instances that the page has asked when it shows that one is draining, and for
how many milliseconds it pauses between an answer and the next question."""


async def save(view: str, browser: Browser) -> None:
    """A picture for the documents, if they are wanted: `dashboard.png` is that of a service."""
    if SHOTS:
        name = "dashboard" if view.startswith("service=") else f"dashboard-{view}"
        (Path(SHOTS) / f"{name}.png").write_bytes(await browser.screenshot())


async def narrow(browser: Browser, control: str, value: str) -> None:
    """Put a value into a control by which a view is narrowed down."""
    await browser.run(
        f"document.querySelector('#{control}').value = {value!r};"
        f"document.querySelector('#{control}').dispatchEvent(new Event('input'))"
    )


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


def test_accessibility_is_looked_at(axe: str | None) -> None:
    if axe is None:
        pytest.skip("axe-core could not be had from npm: accessibility is not looked at")


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
        await save(view, browser)
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
        await browser.run(WATCH_QUESTIONS)
        async with session.post(path) as answer:
            assert answer.status == 200
    before = await browser.run("window.questions")
    await browser.until("window.shownAfter !== undefined", "a drain by somebody else")
    # The first question that is asked afterwards shows it, and none is put off for more than a
    # second, by the page's own clock: within two, if an answer comes within one.
    assert await browser.run("window.shownAfter") <= before + 1
    await browser.until("window.pauses.length > 1", "some pauses")
    assert await browser.run("Math.max(...window.pauses)") <= 1000
    # Its weight is 0: nobody here can undo that.
    assert await browser.run(labelled("Drain orders-2") + "!== null")
    assert await browser.run(labelled("Undrain orders-2") + "=== null")
    await browser.run("location.hash = 'events'")
    await browser.until(shows("undrained"), "events")
    assert await browser.run("window.kept")
    assert browser.errors == []


async def test_a_keyboard_is_enough(browser: Browser, proxy: RunningProxy) -> None:
    await log_in(browser, proxy, TOKEN)
    await browser.until(shows("orders"), "the services")
    await browser.run("location.hash = 'service=orders'")
    await browser.until(labelled("Drain orders-1"), "the instances")
    await browser.run("window.before = true; location.reload()")
    await browser.until(f"!window.before && {labelled('Drain orders-1')}", "the page anew")
    told = (
        "(one => one.ariaLabel || one.id || one.innerText.trim())(document.activeElement)"
        " + (document.activeElement.matches(':focus-visible') ? '' : ' (not to be seen)')"
    )
    walked = []
    while not walked or walked[-1] != "Drain orders-2":
        await browser.press("Tab")
        walked.append(await browser.run(told))
        assert len(walked) < 40, walked
    views = ["Services", "Calls", "Routes", "Registries", "Certificates", "Workers", "Fleet"]
    assert walked == [
        "Skip to content", *views, "Events", "Configuration", "logout",
        "name", "state", "zone", "Instances", "Drain orders-1", "Drain orders-2",
    ]  # fmt: skip
    await browser.press("Tab", shift=True)
    for key, word, status in (("Enter", "Undrain", "draining"), (" ", "Drain", "ready")):
        await browser.press(key)
        await browser.until(f"{CELL_OF_ORDERS}.innerText === {status!r}", status)
        await browser.until(labelled(f"{word} orders-1"), word)
        assert await browser.run(told) == f"{word} orders-1"
    assert browser.errors == []


WEIGH_ANSWERS = """
window.sizes = [];
window.asked = window.fetch;
window.fetch = async (path, ...more) => {
  const answer = await window.asked(path, ...more);
  const size = (await answer.clone().text()).length;
  if (/services/.test(path)) window.sizes.push([String(path), size]);
  return answer;
}
"""
"""What the page asks for about services, and how long the answers are."""


async def test_a_service_of_two_thousand_is_fluent(browser: Browser, tmp_path: Path) -> None:
    instances = [
        {"id": f"one-{n:04}", "address": f"10.0.{n // 250}.{n % 250}", "port": 80}
        for n in range(2000)
    ]
    config = {"services": {"many": {"instances": instances}}, "routes": [{"service": "many"}]}
    async with RunningProxy(config, tmp_path) as proxy:
        await browser.open(proxy.admin + "/#service=many")
        elements = "document.querySelectorAll('*').length"
        forward = "document.querySelectorAll('.pages button')[1].click()"
        await browser.until(shows("Instances 1 to 50 of 2000"), "the first page")
        await browser.run(WEIGH_ANSWERS)
        first = await browser.run(elements)
        for page in range(1, 40):
            await browser.run(forward)
            await browser.until(shows(f"Instances {50 * page + 1} to "), f"page {page}")
            assert await browser.run(elements) <= first + 10
        await narrow(browser, "name", "one-1234")
        await browser.until(shows("Instances 1 to 1 of 1"), "the one that was looked for")
        assert first < 1500
        await browser.run("location.hash = 'services'")
        await browser.until(shows("Services: 1 of 1"), "all services")
        sizes = await browser.run("window.sizes")
        assert max(size for path, size in sizes if path.endswith("services")) < 1024
        assert max(size for path, size in sizes if "/many?" in path) < 50 * 1024
        assert browser.errors == []


async def test_an_instance_that_left_is_shown_while_it_is_busy(
    browser: Browser, tmp_path: Path
) -> None:
    end = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await end.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"users": [{"id": "old", "address": "127.0.0.1", "port": port}]}))
    registry = {"type": "file", "path": str(listed), "interval": "100ms"}
    config = {"registry": registry, "routes": [{"path_prefix": "/{service}"}]}
    async with server, RunningProxy(config, tmp_path) as proxy, aiohttp.ClientSession() as client:
        asked = asyncio.create_task(client.get(proxy.url + "/users"))
        await browser.open(proxy.admin + "/#service=users")
        row = "document.querySelector('#content tbody tr')?.innerText ?? ''"
        await browser.until(f"/ready.*\\t1\\t/s.test({row})", "a request in flight")
        listed.write_text("{}")
        await browser.until(f"/left.*registered no more.*\\t1\\t/s.test({row})", "who left")
        assert await browser.run("document.querySelector('#content tbody button') === null")
        end.set()
        assert (await asked).status == 204
        await browser.until(f"({row}) === ''", "nobody any more")
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
        await narrow(browser, element, value)
        await browser.until(shows(f"of {count}" if count else "No instance"), f"{count} instances")
    assert browser.errors == []


async def test_services_and_routes_are_filtered(browser: Browser, proxy: RunningProxy) -> None:
    await log_in(browser, proxy, TOKEN)
    await browser.until(shows("Services: 2 of 2"), "the services")
    names = "[...document.querySelectorAll('tbody th')].map((one) => one.innerText).join()"
    for element, value, left in (
        ("state", "not well", "orders"), ("state", "well", "users"), ("state", "", "orders,users"),
        ("zone", "a", "users"), ("zone", "c", ""), ("zone", "", "orders,users"),
        ("name", "ORD", "orders"),
    ):  # fmt: skip
        await narrow(browser, element, value)
        await browser.until(f"{names} === {left!r}", f"{element} {value}")
    await browser.run("location.hash = 'routes'")
    await browser.until(shows("Routes, in the order of the file: 2 of 2"), "the routes")
    await narrow(browser, "filter", "strip")
    await browser.until(shows("Routes, in the order of the file: 1 of 2"), "one by what it does")
    assert await browser.run(names) == "0"
    assert browser.errors == []


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
    assert browser.errors == []


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
    # A wrong token, a change that is not allowed, and questions without a session: no other.
    refused = [re.sub(r".*status of (\d+).*?(/api/v1/)", r"\1 \2", one) for one in browser.errors]
    assert refused[:2] == ["401 /api/v1/session", f"403 {path}"]
    assert {one.partition(" ")[0] for one in refused[2:]} == {"401"}


async def test_contents_are_shown_where_there_are_some(browser: Browser, tmp_path: Path) -> None:
    """A certificate, a record that cannot be read, a trend, and what a reload changed."""
    certificate, key = Authority(tmp_path).issue("shop.example")
    tls = {"certificates": [{"cert": str(certificate), "key": str(key)}]}
    listed = tmp_path / "list.json"
    registry = {"type": "file", "path": str(listed), "interval": "100ms"}
    async with origins("one") as (one,):
        listed.write_text(json.dumps({"users": [one.instance, {"id": "odd", "port": 80}]}))
        proxy = RunningProxy({"registry": registry}, tmp_path)
        listener = {"name": "https", "bind": f"127.0.0.1:{free_port()}", "tls": tls}
        proxy.config["listeners"].append(listener)
        proxy.config["routes"] = [{"path_prefix": "/{service}"}]
        rewrite(proxy, {})
        async with proxy, aiohttp.ClientSession() as client:
            await browser.open(proxy.admin + "/#certificates")
            row = "(document.querySelector('#content tbody tr')?.innerText ?? '')"
            told = f"{row}.includes('listener https') && {row}.includes('shop.example')"
            await browser.until(f"{told} && /\\d{{4}}-\\d\\d-\\d\\d/.test({row})", "a certificate")
            await browser.run("location.hash = 'registry'")
            await browser.until(shows("users/odd"), "a record that cannot be read")
            assert await browser.run(shows("no address"))
            await browser.run("location.hash = 'service=users'")
            trend = "document.querySelector('#content svg.trend')"
            drawn = f"{trend}?.querySelector('polyline').getAttribute('points').includes(' ')"
            await browser.until(drawn, "two points of a trend")
            assert await browser.run(f"{trend}.ariaLabel.endsWith(' to 0.0')")
            for _ in range(9):
                async with client.get(proxy.url + "/users") as answer:
                    assert answer.status == 200
            await browser.until(f"/ to .*[1-9]/.test({trend}.ariaLabel)", "the requests in it")
            await browser.run("location.hash = 'config'")
            await browser.until(shows("not reloaded yet"), "the configuration")
            rewrite(proxy, {"shutdown": {"delay": "0s", "grace": "7s"}})
            await browser.run(f"{labelled('Reload the configuration')}.click()")
            changed = f"{row}.trim() === 'shutdown.grace\\t10\\t7'"
            await browser.until(changed, "what the reload changed")
            said = await browser.run("document.querySelector('#said').textContent")
            assert said == "changed: 1 keys"
            assert browser.errors == []


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
        await save("registries", browser)
        await narrow(browser, "state", "not connected")
        await browser.until(f"!({row('first')}) && {row('second')}", "those that do not answer")
        await narrow(browser, "filter", "first")
        await browser.until(f"!({row('second')})", "none of that name")
        await narrow(browser, "filter", "")
        await narrow(browser, "state", "")
        (tmp_path / "two.json").write_text("{}")
        await browser.until(row("second", "yes"), "the second one, which answers now")
        await browser.open(proxy.admin + "/#service=users")
        await browser.until(row("127.0.0.1:1", "first"), "whose the instance is")
        assert browser.errors == []
