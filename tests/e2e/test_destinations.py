"""A registry that leads where it must not: with real etcd, the real admin listener, real checks."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin
from tests.e2e.running import RunningProxy
from tests.e2e.scripted_dns import ScriptedDns
from tests.support.processes import eventually

LATE = 20


async def test_a_record_opens_neither_the_admin_listener_nor_a_metadata_service(
    tmp_path: Path,
) -> None:
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        Origin("one") as origin,
        ScriptedDns() as dns,
    ):
        dns.says("admin.test", "127.0.0.1", ttl=1)
        dns.says("meta.test", "169.254.169.254", "::ffff:169.254.169.254", ttl=1)
        proxy = RunningProxy(
            {
                "registry": {"type": "etcd", "endpoints": [etcd.url]},
                "defaults": {"health_check": {"type": "tcp", "interval": "200ms", "fall": 1}},
                "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
            },
            tmp_path,
            environ=dns.environ(tmp_path),
        )
        admin = proxy.admin_port
        own = {"instances": [{"address": "127.0.0.1", "port": admin}]}
        proxy.file.write_text(json.dumps({**proxy.config, "services": {"own": own}}))
        addresses = {
            "literal": ("127.0.0.1", admin),
            "mapped": ("::ffff:127.0.0.1", admin),
            "any": ("0.0.0.0", admin),
            "named": ("admin.test", admin),
            "localhost": ("localhost", admin),
            "meta": ("169.254.169.254", 80),
            "meta-named": ("meta.test", 80),
        }
        for service, (address, port) in {**addresses, "good": ("127.0.0.1", origin.port)}.items():
            record = json.dumps({"address": address, "port": port})
            await client.put(f"/services/{service}/a", record)
        async with (
            proxy,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LATE)) as session,
        ):
            await eventually(lambda: known(proxy, "good"), LATE, "the instances")
            for service in addresses:
                async with session.get(f"{proxy.url}/{service}/healthz") as answer:
                    assert answer.status == 502, (service, answer.status)
                    problem = await answer.json(content_type=None)
                    assert problem["code"] == "destination_denied", service
            async with session.get(f"{proxy.url}/good/x") as answer:
                assert answer.status == 200
            # The local file's own is exempt.
            async with session.get(f"{proxy.url}/own/healthz") as answer:
                assert answer.status == 200

            async def told(service: str) -> bool:
                [instance] = (await proxy.get(f"/api/v1/services/{service}"))[1]["instances"]
                return instance["status"] == "unhealthy" and "registry.allow" in instance["reason"]

            for service in ("literal", "named", "meta", "meta-named"):
                await eventually(lambda service=service: told(service), LATE, service)
            [instance] = (await proxy.get("/api/v1/services/own"))[1]["instances"]
            assert instance["status"] == "ready", instance


async def known(proxy: RunningProxy, service: str) -> bool:
    status, _ = await proxy.get(f"/api/v1/services/{service}")
    return status == 200
