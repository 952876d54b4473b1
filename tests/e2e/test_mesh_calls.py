"""Who calls whom, as the dashboards of two side-cars show it."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.beside import Beside
from tests.e2e.browser import CHROMIUM, Browser
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Origin

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
