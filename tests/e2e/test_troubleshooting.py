"""Each line of docs/troubleshooting.md: its words are said when things are as it tells."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.running import RunningProxy
from tests.e2e.test_cli import fairlead
from tests.support.processes import eventually, free_port

PAGE = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text("utf-8")
WORDS = re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE)

SERVICES = ("dead", "slow", "none", "busy", "few")
SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def config(directory: Path, admin_port: int, silent: int, nobody: int) -> dict[str, Any]:
    def at(port: int) -> list[dict[str, Any]]:
        return [{"id": "a", "address": "127.0.0.1", "port": port}]

    limit = {"requests": 1, "per": "60s", "key": "host"}
    return {
        "admin": {"bind": f"127.0.0.1:{admin_port}", "token": "t"},
        "registry": {"type": "file", "path": str(directory)},
        "services": {
            "dead": {"instances": at(nobody)},
            "slow": {"instances": at(silent), "timeouts": {"first_byte": "200ms"}},
            "none": {},
            "busy": {"instances": at(silent), "max_inflight": 1},
            "few": {"instances": at(nobody), "rate_limit": limit},
        },
        "routes": [
            *({"path_prefix": f"/{name}", "service": name} for name in SERVICES),
            {"path_prefix": "/t/{service}"},
        ],
        "tracing": {"endpoint": f"http://127.0.0.1:{nobody}/v1/traces"},
    }


async def test_words_of_the_page_are_said_in_the_situations_that_it_tells(tmp_path: Path) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    records = tmp_path / "records"
    records.mkdir()
    (records / "x.yaml").write_text("broken: [{id: a, address: 10.0.0.1}]\n")
    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    port, nobody = free_port(), free_port()
    proxy = RunningProxy(
        config(records, port, silent.sockets[0].getsockname()[1], nobody), tmp_path
    )
    proxy.admin_port = port
    heard: list[str] = []

    async def said(*arguments: str, token: str = "t") -> None:
        environ = {"FAIRLEAD_ADMIN_TOKEN": token}
        _, output, errors = await fairlead(*arguments, cwd=tmp_path, environ=environ)
        heard.extend((output, errors))

    async with proxy, aiohttp.ClientSession(headers={"traceparent": SPAN}) as client:

        async def get(path: str) -> None:
            async with client.get(proxy.url + path) as answer:
                heard.append(await answer.text())

        for path in ("/nowhere", "/t/ghost", "/none", "/dead", "/slow", "/few", "/few"):
            await get(path)
        first = asyncio.create_task(get("/busy"))

        async def is_taken() -> bool:
            headers = {"Authorization": "Bearer t"}
            _, document = await proxy.get("/api/v1/services/busy", headers)
            return bool(document["instances"][0]["inflight"])

        await eventually(is_taken, 10, "a request in flight")
        await get("/busy")
        first.cancel()
        headers = {"Host": "another.example"}
        async with client.get(proxy.admin + "/api/v1/services", headers=headers) as answer:
            heard.append(await answer.text())
        where = ("--admin", proxy.admin)
        await said("services", *where, token="")
        await said("services", "--admin", f"http://127.0.0.1:{nobody}")
        await said("services", *where)
        await said("drain", "dead/ghost", *where)
        proxy.file.write_text("routes: [{path_prefix: nope}]\nnosuch: 1\n")
        await said("reload", *where)

        async def logged() -> bool:
            return "spans_not_exported" in proxy.log()

        await eventually(logged, 20, "a line about spans")
        heard.append(proxy.log())
    silent.close()
    text = "\n".join(heard)
    assert len(WORDS) > 10
    assert [words for words in WORDS if words not in text] == []
