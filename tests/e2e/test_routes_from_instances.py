"""Routes that instances bring, from a record in etcd to an answer."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin, origins
from tests.e2e.reloading import name, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually


async def register(client: EtcdClient, service: str, origin: Origin, **metadata: str) -> None:
    record = {**origin.instance, "metadata": metadata}
    await client.put(f"/services/{service}/{service}-1", json.dumps(record))


async def test_an_instance_brings_a_route_and_nobody_takes_it_away(tmp_path: Path) -> None:
    async with (
        origins("users", "evil", "file", script=name) as (users, evil, file),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        aiohttp.ClientSession() as session,
    ):
        config: dict[str, Any] = {
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "services": {"file": {"instances": [file.instance]}},
            "routes": [{"host": "file.example.com", "service": "file"}],
            "filters": {"mark": {"headers": {"response": {"set": {"X-Brought": "yes"}}}}},
            "routes_from_instances": {
                "hosts": ["{service}.example.com"],
                "filters": ["mark"],
            },
        }
        await register(client, "users", users, route_host="users.example.com")
        async with RunningProxy(config, tmp_path) as proxy:

            async def ask(host: str, path: str = "/") -> tuple[int, str, str | None]:
                headers = {"Host": host}
                async with session.get(proxy.url + path, headers=headers) as answer:
                    mark = answer.headers.get("X-Brought")
                    return answer.status, await answer.text(), mark

            async def is_there() -> bool:
                return await ask("users.example.com") == (200, "users", "yes")

            await eventually(is_there, 20, "the route")
            # Neither another service's host, nor one of the file, nor one outside the bounds.
            for host in ("users.example.com", "file.example.com", "bank.test"):
                await register(client, "evil", evil, route_host=host)
                seen = f'"route": "{host}/"'.replace(": ", ":")

                async def is_refused(seen: str = seen) -> bool:
                    document = (await proxy.get("/api/v1/routes"))[1]
                    refused = json.dumps(document["refused"], separators=(",", ":"))
                    return seen in refused

                await eventually(is_refused, 20, host)
            assert (await ask("bank.test"))[0] == 404
            assert await ask("file.example.com") == (200, "file", None)
            assert await ask("users.example.com") == (200, "users", "yes")
            await proxy.logs("instance_route_refused")

            _, told = await proxy.get("/api/v1/explain?url=http://users.example.com/x")
            assert told["service"] == "users"
            assert told["filters"] == ["mark"]
            assert [one["service"] for one in told["routes"] if one["taken"]] == ["users"]

            rewrite(proxy, {"log": {"level": "debug"}})
            os.kill(proxy.pid, signal.SIGHUP)
            await eventually(lambda: "config_reloaded" in proxy.log(), 20, "a reload")
            assert await ask("users.example.com") == (200, "users", "yes")
            await client.delete("/services/users/users-1")

            async def has_nobody() -> bool:
                return (await ask("users.example.com"))[0] == 503

            await eventually(has_nobody, 20, "an answer without an instance")
            await register(client, "users", users)

            async def is_gone() -> bool:
                return (await proxy.get("/api/v1/routes"))[1]["from_instances"] == []

            await eventually(is_gone, 20, "the route to go")
