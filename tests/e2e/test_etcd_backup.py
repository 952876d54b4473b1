"""An etcd of three members as deploy/kubernetes/etcd.yaml starts it and docs/etcd.md runs it: under
TLS, with users, and restored from a backup while a proxy serves, by the commands of the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.embedded_etcd import EtcdFailed, etcd_binary
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import origins
from tests.e2e.redeploying import CountingLoad
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.e2e.test_fleet import KEY, config_of
from tests.support.processes import eventually, free_port

ROOT = Path(__file__).parents[2]
TOOLS = Path(os.environ.get("FAIRLEAD_TEST_ETCD_TOOLS", etcd_binary().parent))
"""Where etcdctl and etcdutl are."""
NAMES = ("etcd-0", "etcd-1", "etcd-2")
pytestmark = pytest.mark.timeout(180)


class Runbook:
    """Owns three members, and does with them what the page says."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        cert, key = authority.issue("localhost", "127.0.0.1")
        self.directory = directory
        self.ca = shutil.copy(authority.ca, directory / "ca.crt")
        shutil.copy(cert, directory / "tls.crt")
        shutil.copy(key, directory / "tls.key")
        self.tls = authority.client()
        self._peers = {name: free_port() for name in NAMES}
        self._ports = {name: free_port() for name in NAMES}
        [command] = [
            one["spec"]["template"]["spec"]["containers"][0]["command"]
            for one in yaml.safe_load_all((ROOT / "deploy/kubernetes/etcd.yaml").read_text())
            if one["kind"] == "StatefulSet"
        ]
        self._page = (ROOT / "docs/etcd.md").read_text()
        self.members = {
            name: EtcdServer(
                directory,
                name=name,
                client_port=self._ports[name],
                peer_port=self._peers[name],
                tls_files=(directory / "tls.crt", directory / "tls.key"),
                tls=self.tls,
                options=[self._here(one, name) for one in command[1:]],
            )
            for name in NAMES
        }

    def _here(self, text: str, name: str) -> str:
        """Names, ports and files of the cluster as they are on this machine."""
        text = text.replace("$(NAME)", name)
        for one in NAMES:
            text = text.replace(f"{one}.etcd:2380", f"localhost:{self._peers[one]}")
            text = text.replace(f"{one}.etcd:2379", f"localhost:{self._ports[one]}")
        text = text.replace("0.0.0.0:2379", f"127.0.0.1:{self._ports[name]}")
        text = text.replace("0.0.0.0:2380", f"127.0.0.1:{self._peers[name]}")
        text = text.replace("0.0.0.0:2381", f"127.0.0.1:{free_port()}")
        text = text.replace("/etc/etcd/tls", str(self.directory))
        text = text.replace("/var/lib/etcd/data", str(self.directory / f"{name}.data"))
        return text.replace("fairlead.db", str(self.directory / "fairlead.db"))

    @property
    def urls(self) -> list[str]:
        return [f"https://localhost:{port}" for port in self._ports.values()]

    async def start(self) -> None:
        for one in self.members.values():
            await one.launch()
        await asyncio.gather(*(one.healthy(self.tls) for one in self.members.values()))

    async def kill(self) -> None:
        for one in self.members.values():
            await one.kill()

    async def commands(self, first: str, name: str = NAMES[0]) -> None:
        """Do what the block of the page says in which these words are; of a tool of 3.5 nothing
        that is of 3.6."""
        [block] = [one for one in re.findall(r"```sh\n(.*?)```", self._page, re.S) if first in one]
        block = re.sub(r"user add (\w+)", r"user add \1:\1", block.replace("root:…", "root:root"))
        block = block.replace("--name=etcd-0", f"--name={name}")
        block = block.replace("peer-urls=https://etcd-0.", f"peer-urls=https://{name}.")
        if "--bump-revision" not in await self.shell("etcdutl snapshot restore --help"):
            block = re.sub(r"\\\s+--bump-revision=\d+ --mark-compacted", "", block)
        await self.shell(self._here(block, name))

    async def shell(self, text: str) -> str:
        """Run commands, each of which has to succeed."""
        where = f"etcdctl --endpoints={self.urls[0]} --cacert={self.ca} "
        text = re.sub(r"etcdctl (?!--endpoints)", where, text)
        process = await asyncio.create_subprocess_exec(
            "sh", "-e", "-c", text,
            env={"PATH": f"{TOOLS}:{os.environ['PATH']}"},
            cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0, f"{text}\n{said.decode()}"
        return said.decode()

    def client(self) -> EtcdClient:
        return EtcdClient(self.urls[1], self.tls)

    async def restore(self) -> None:
        """All data are gone."""
        for one in NAMES:
            shutil.rmtree(self.directory / f"{one}.data")
            await self.commands("snapshot restore", one)
            token = "--initial-cluster-token=etcd-fairlead-2"
            self.members[one].options = (*self.members[one].options, token)


async def command(proxy: RunningProxy, user: str, *arguments: str) -> tuple[int, str]:
    """`fairlead …` with the proxy's file, but for the user: exit code and what it said."""
    file = proxy.file.with_name(f"{user}.yaml")
    registry = {**proxy.config["registry"], "username": user, "password": user}
    file.write_text(json.dumps({**proxy.config, "registry": registry}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", *arguments, "-c", str(file),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_the_runbook_of_an_etcd_for_a_fleet(tmp_path: Path) -> None:
    runbook = Runbook(tmp_path)
    async with origins("one", "two", script=name) as (one, two), runbook.client() as client:
        try:
            await runbook.start()
            await runbook.commands("auth enable")
            for user, role in (("deploy", "deployer"), ("users", "service")):
                await runbook.shell(
                    f"etcdctl --user=root:root user add {user}:{user} && "
                    f"etcdctl --user=root:root user grant-role {user} {role}"
                )

            async def register(instance: dict[str, Any]) -> None:
                await client.login("users", "users")
                await client.put("/services/users/u", json.dumps(instance))

            await register(one.instance)
            config = {
                "registry": {
                    "type": "etcd",
                    "endpoints": runbook.urls,
                    "username": "fairlead",
                    "password": "fairlead",
                    "tls": {"ca": str(runbook.ca)},
                },
                "config": {"key": KEY},
                "fleet": {"id": "a"},
            }
            proxy = RunningProxy(config, tmp_path)
            text = tmp_path / "shared.yaml"
            text.write_text(json.dumps({"routes": [{"path_prefix": "/", "service": "users"}]}))
            code, said = await command(proxy, "fairlead", "config", "push", str(text))
            assert code == 1
            assert "permission denied" in said
            code, said = await command(proxy, "deploy", "config", "push", str(text))
            assert code == 0, said
            async with proxy, CountingLoad(proxy.port, clients=2, pace=0.01) as load:
                await load.shows("one", more_than=0, within=20)
                await roles_hold(client)
                _, marked = await command_drain(proxy, "drain")
                assert marked == [{"service": "users", "instance": "nobody"}]

                await runbook.commands("snapshot save")
                # Later than the backup, and lost with the store.
                await register(two.instance)
                await load.shows("two", more_than=0, within=20)
                await runbook.kill()
                await runbook.restore()
                await runbook.start()
                await load.shows("one", more_than=load.answers["one"], within=60)
                await register(two.instance)
                await load.shows("two", more_than=load.answers["two"], within=20)

                async def follows() -> bool:
                    return bool((await config_of(proxy))["followed"])

                await eventually(follows, 30, "the shared configuration")
                _, marked = await command_drain(proxy, "undrain")
                assert marked == []
                log = proxy.log()
                assert "registry_store_replaced" in log or "registry_listed" in log
            assert load.failures == []
        finally:
            await runbook.kill()


async def command_drain(proxy: RunningProxy, what: str) -> tuple[str, list[dict[str, str]]]:
    """Drain an instance everywhere, or no more; what is listed once the proxy knows."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", what, "users/nobody", "--everywhere",
        "--admin", proxy.admin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()

    async def listed() -> list[dict[str, str]]:
        _, document = await proxy.get("/api/v1/fleet")
        assert [row["id"] for row in document["proxies"]] == ["a"], document
        marks = document["marks"]
        return [{key: one[key] for key in ("service", "instance")} for one in marks]

    async def known() -> bool:
        return bool(await listed()) == (what == "drain")

    await eventually(known, 20, what)
    return said.decode(), await listed()


async def roles_hold(client: EtcdClient) -> None:
    """Nobody can write what is not his."""
    for user, may, may_not in (
        ("fairlead", ("/fairlead/marks/a/b", "/fairlead/proxies/x", "/fairlead/acme/x"),
         (KEY, f"{KEY}.canary", "/services/users/evil", "/fairlead/x")),
        ("deploy", (f"{KEY}.other",), ("/services/users/evil", "/fairlead/marks/a/b")),
        ("users", ("/services/users/v",), (KEY, "/fairlead/marks/a/b", "/fairlead/proxies/x")),
    ):  # fmt: skip
        await client.login(user, user)
        for key in may:
            await client.put(key, "{}")
            await client.delete(key)
        for key in may_not:
            with pytest.raises(EtcdFailed, match="permission denied"):
                await client.put(key, "{}")
    with pytest.raises(EtcdFailed, match="permission denied"):
        await client.get_all("/fairlead/")
