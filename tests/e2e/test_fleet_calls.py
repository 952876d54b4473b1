"""Proxies that ask each other, under TLS and signed."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from proxy.fleet.signing import ASKED, sign
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import origins
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port


async def test_a_proxy_shows_what_all_see_and_sends_strangers_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    fleet_key = tmp_path / "fleet.key"
    fleet_key.write_text("k" * 40)
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    untrusted = Authority(tmp_path, "untrusted").issue("localhost", stem="untrusted")
    heard: dict[str, list[bytes]] = {}

    async def stranger(id_: str, files: tuple[Path, Path], answer: bytes) -> str:
        """Listen as one who is on the list; the URL."""
        heard[id_] = []

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard[id_].append(await reader.readuntil(b"\r\n\r\n"))
            length = len(answer.partition(b"\r\n\r\n")[2])
            writer.write(answer.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % length, 1))
            writer.close()

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context)
        strangers.push_async_exit(server)
        return f"https://localhost:{server.sockets[0].getsockname()[1]}"

    async with (
        origins("one", script=name) as (one,),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
        AsyncExitStack() as strangers,
    ):

        def proxy(id_: str) -> RunningProxy:
            port = free_port()
            config: dict[str, Any] = {
                "admin": {
                    "bind": f"127.0.0.1:{port}",
                    "advertise": f"https://localhost:{port}",
                    "token": "secret",
                    "tls": {"cert": str(cert), "key": str(key)},
                },
                "registry": {"type": "etcd", "endpoints": [etcd.url]},
                "fleet": {"id": id_, "key_file": str(fleet_key), "ca": str(authority.ca)},
                "services": {"users": {"instances": [one.instance]}},
                "routes": [{"path_prefix": "/", "service": "users"}],
            }
            made = RunningProxy(config, tmp_path)
            made.admin_port = port
            return made

        first, second = proxy("a"), proxy("b")
        first.launch()
        second.launch()
        try:

            async def ask(path: str, **options: Any) -> tuple[int, Any]:
                url = f"https://localhost:{first.admin_port}{path}"
                headers = {"Authorization": "Bearer secret", **options.pop("headers", {})}
                async with session.request(
                    options.pop("method", "GET"), url, headers=headers
                ) as answer:
                    return answer.status, await answer.json()

            async def both() -> bool:
                try:
                    return (await ask("/api/v1/fleet/services"))[1]["proxies"] == ["a", "b"]
                except (aiohttp.ClientError, KeyError):
                    return False

            await eventually(both, 60, "an answer of both")
            _, document = await ask("/api/v1/fleet/services")
            assert [row["proxies"] for row in document["services"]] == [2]
            command = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "top", "--fleet", "--once"),
                *("--admin", f"https://localhost:{first.admin_port}", "--token", "secret"),
                *("--admin-ca", str(authority.ca)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await command.communicate()
            assert command.returncode == 0, said.decode()
            assert b"users" in said

            # Somebody else on the list gets a signature that is good for nobody but himself.
            here = f"https://localhost:{first.admin_port}"
            for id_, files, answer in (
                ("evil", (cert, key), b"HTTP/1.1 200 OK\r\n\r\n{}"),
                (
                    "garbage",
                    (cert, key),
                    b'HTTP/1.1 200 OK\r\n\r\n{"services": [{"name": "\xff"}]}',
                ),
                ("nested", (cert, key), b'HTTP/1.1 200 OK\r\n\r\n{"x":' + b"[" * 5000),
                ("away", (cert, key), f"HTTP/1.1 302 Found\r\nLocation: {here}/\r\n\r\n".encode()),
                ("untrusted", untrusted, b"HTTP/1.1 200 OK\r\n\r\n{}"),
            ):
                admin = await stranger(id_, files, answer)
                listed = json.dumps({"admin": admin, "ready": True})
                await client.put(f"/fairlead/proxies/{id_}", listed)
            await client.put("/fairlead/proxies/plain", json.dumps({"admin": "http://localhost:1"}))
            await client.put("/fairlead/proxies/odd", b'{"admin": "\xff"}')
            _, document = await ask("/api/v1/fleet/services")
            assert set(document["not_asked"]) == {*heard, "plain", "odd"}
            assert document["proxies"] == ["a", "b"]
            assert "https" in document["not_asked"]["plain"]
            assert heard["untrusted"] == []
            assert not any(b"secret" in one for all_ in heard.values() for one in all_)
            stolen = heard["evil"][0].split(b"Authorization: ")[1].split(b"\r\n")[0].decode()
            status, _ = await ask(ASKED, headers={"Authorization": stolen})
            assert status == 401

            address = f"localhost:{first.admin_port}"
            key_bytes = fleet_key.read_bytes()

            def good(target: str) -> dict[str, str]:
                value = sign(key_bytes, "b", address, target, time.time(), os.urandom(16))
                return {"Authorization": value}

            once = good(ASKED)
            assert (await ask(ASKED, headers=once))[0] == 200
            assert (await ask(ASKED, headers=once))[0] == 401
            assert (await ask("/api/v1/config", headers=good("/api/v1/config")))[0] == 401
            reload = await ask("/api/v1/reload", method="POST", headers=good("/api/v1/reload"))
            assert reload[0] == 401
        finally:
            await first.kill()
            await second.kill()
