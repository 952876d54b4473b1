"""Who calls whom, as the dashboards of two side-cars show it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.beside import Beside
from tests.e2e.browser import CHROMIUM, Browser
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Call, Origin
from tests.e2e.secure import SecureClient

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

ROWS = "[...document.querySelectorAll('#content tbody tr')].map(row => row.innerText.split('\\t'))"
PICTURE = "document.querySelector('#content svg.calls')"


async def test_a_call_is_shown_in_words_and_as_a_picture_with_both_ends(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "mesh")
    async with EtcdServer() as etcd, Origin("users") as program, Browser(tmp_path / "p") as browser:
        port = program.instance["port"]
        users, web = (
            Beside(name, port, tmp_path, authority, etcd.url, "--check", "exec:true")
            for name in ("users", "web")
        )
        async with users, web, aiohttp.ClientSession() as session:
            await web.knows("users")
            for _ in range(5):
                url = f"http://127.0.0.1:{web.outbound}/"
                async with session.get(url, headers={"Host": "users"}) as answer:
                    assert answer.status == 200
            for side in (users, web):
                await browser.open(f"http://127.0.0.1:{side.admin_port}/#calls")
                await browser.until(f"{ROWS}.length === 1", side.service)
                ((caller, service, _, _, took, proven),) = await browser.run(ROWS)
                assert (caller, service, proven) == ("web", "users", "yes")
                assert took.endswith(" ms")
                label = await browser.run(f"{PICTURE}.getAttribute('aria-label')")
                assert label.startswith("2 services, 1 pair of caller and service")
                assert await browser.run(f"{PICTURE}.querySelectorAll('path').length") == 1
                names = f"[...{PICTURE}.querySelectorAll('text')].map(one => one.textContent)"
                assert sorted(await browser.run(names)) == ["users", "web"]
            assert browser.errors == []


async def test_a_caller_that_proved_nothing_is_shown_beside_one_that_did(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "mesh")
    nameless = authority.client(*authority.issue("elsewhere.test"), check_hostname=False)

    async def answer(call: Call) -> None:
        await call.reply(status=500 if call.tail == "fails" else 200)

    async with EtcdServer() as etcd, Origin("users") as program, Browser(tmp_path / "p") as browser:
        program.script = answer
        port = program.instance["port"]
        users, web = (
            Beside(name, port, tmp_path, authority, etcd.url, "--check", "exec:true")
            for name in ("users", "web")
        )

        async def proven() -> None:
            url = f"http://127.0.0.1:{web.outbound}/"
            async with aiohttp.ClientSession() as session:
                while True:
                    async with session.get(url, headers={"Host": "users"}) as answer:
                        assert answer.status == 200
                    await asyncio.sleep(0.02)

        async def unproven() -> None:
            async with await SecureClient.connect_to(users.inbound, nameless) as client:
                while True:
                    assert (await client.ask("GET", "/fails", host="users")).status == 500
                    await asyncio.sleep(0.02)

        async with users, web, asyncio.TaskGroup() as calling:
            await web.knows("users")
            tasks = [calling.create_task(one()) for one in (proven, unproven)]
            await browser.open(f"http://127.0.0.1:{users.admin_port}/#calls")
            moving = f"{ROWS}.length === 2 && {ROWS}.every(row => row[2] > 0)"
            await browser.until(moving, "both have a rate")
            rows = {row[0]: row[1:] for row in await browser.run(ROWS)}
            (_, rate, errors, took, proof) = rows.pop("(not proven)")
            assert (errors, proof) == (rate, "no")
            assert took.endswith(" ms")
            (_, _, errors, _, proof) = rows.pop("web")
            assert (errors, proof) == ("0.0", "yes")
            marks = f"[...{PICTURE}.querySelectorAll('path')].map(one => one.className.baseVal)"
            assert sorted(await browser.run(marks)) == ["", "unproven failing"]
            assert browser.errors == []
            for task in tasks:
                task.cancel()
