"""Backup and restore of an etcd of three members, as docs/etcd.md says, while a proxy serves."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import aiohttp

from proxy.embedded_etcd import etcd_binary
from tests.e2e.etcd_server import EtcdClient, EtcdCluster
from tests.e2e.origin import origins
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually


async def run(program: str, *arguments: str) -> None:
    tool = etcd_binary().parent / program
    process = await asyncio.create_subprocess_exec(
        str(tool), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_a_proxy_serves_through_the_restore_of_a_backup(tmp_path: Path) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdCluster() as cluster,
        aiohttp.ClientSession() as session,
    ):
        async with EtcdClient(cluster.urls[0]) as client:
            await client.put("/services/users/u", json.dumps(one.instance))
        backup = tmp_path / "fairlead.db"
        await run("etcdctl", f"--endpoints={cluster.urls[0]}", "snapshot", "save", str(backup))
        config = {
            "registry": {"type": "etcd", "endpoints": list(cluster.urls)},
            "routes": [{"path_prefix": "/", "service": "users"}],
        }
        async with RunningProxy(config, tmp_path) as proxy:
            answers: list[tuple[int, str]] = []

            async def ask() -> str:
                async with session.get(proxy.url) as answer:
                    answers.append((answer.status, await answer.text()))
                    return answers[-1][1]

            async def keep_asking() -> None:
                while True:
                    await ask()
                    await asyncio.sleep(0.02)

            asking = asyncio.create_task(keep_asking())
            try:
                # Later than the backup, and lost with the store.
                async with EtcdClient(cluster.urls[0]) as client:
                    await client.put("/services/users/u", json.dumps(two.instance))

                async def is_two() -> bool:
                    return answers[-1:] == [(200, "two")]

                await eventually(is_two, 20, "the later instance")
                for member in cluster.members.values():
                    await member.kill()
                for member in cluster.members.values():
                    shutil.rmtree(member.data)
                    options = dict(option.split("=", 1) for option in member.options)
                    await run(
                        "etcdutl", "snapshot", "restore", str(backup),
                        f"--name={member.name}",
                        f"--data-dir={member.data}",
                        f"--initial-cluster={options['--initial-cluster']}",
                        "--initial-advertise-peer-urls="
                        + options["--initial-advertise-peer-urls"],
                        "--initial-cluster-token=restored",
                    )  # fmt: skip
                    member.options = (*member.options, "--initial-cluster-token=restored")
                for member in cluster.members.values():
                    await member.launch()
                await asyncio.gather(*(one.healthy() for one in cluster.members.values()))

                async def is_one() -> bool:
                    return answers[-1:] == [(200, "one")]

                await eventually(is_one, 40, "what the backup holds")
                async with EtcdClient(cluster.urls[1]) as client:
                    await client.put("/services/users/u", json.dumps(two.instance))
                await eventually(is_two, 20, "a change after the restore")
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert {status for status, _ in answers} == {200}
            assert "registry_store_replaced" in proxy.log() or "registry_listed" in proxy.log()
