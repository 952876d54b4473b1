"""A real Consul that tests may kill, freeze and wipe, and a client that shares no code with the one
under test. Where there is no binary the tests that need it are skipped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.support.processes import OwnServer, eventually, free_port

MANAGEMENT = "11111111-2222-3333-4444-555555555555"
"""Token that may do everything, where there are ACLs."""


def consul_binary() -> str | None:
    """Path of the program; None = there is none on this machine."""
    return os.environ.get("FAIRLEAD_TEST_CONSUL") or shutil.which("consul")


def missing() -> str:
    """The program if it is not on this machine; "" = it is."""
    return "" if consul_binary() else "consul (FAIRLEAD_TEST_CONSUL)"


async def emptied(url: str) -> None:
    """Deregister all services of an agent without access control."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        async with session.get(f"{url}/v1/agent/services") as response:
            ids = list(await response.json())
        for id_ in ids:
            path = f"/v1/agent/service/deregister/{quote(id_, safe='')}"
            async with session.put(URL(url + path, encoded=True)) as response:
                assert response.status == 200, await response.text()


class ConsulServer(OwnServer):
    """Owns one server, which is an agent as well, and its throw-away data.

    `async with ConsulServer() as consul:` gives one with a leader at `consul.url`.
    """

    def __init__(
        self, *, acl: bool = False, name: str = "n1", of: int = 1, join: Sequence[ConsulServer] = ()
    ) -> None:
        """`of`: how many servers there are; `join`: those that were made before."""
        super().__init__("consul")
        self.port = free_port()
        self.raft, self.serf = free_port(), free_port()
        """Ports on which servers talk to each other."""
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = MANAGEMENT if acl else ""
        binary = consul_binary()
        assert binary is not None
        config: dict[str, Any] = {
            "server": True,
            "bootstrap_expect": of,
            "retry_join": [f"127.0.0.1:{one.serf}" for one in join],
            "retry_interval": "1s",
            "node_name": name,
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "data_dir": str(self.directory / "data"),
            "ports": {
                "http": self.port,
                "server": self.raft,
                "serf_lan": self.serf,
                "serf_wan": -1,
                "dns": -1,
                "grpc": -1,
            },
            "performance": {"raft_multiplier": 1},
            "session_ttl_min": "1s",
            "disable_update_check": True,
            "log_level": "warn",
        }
        if acl:
            config["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": MANAGEMENT, "agent": MANAGEMENT},
            }
        file = self.directory / "consul.json"
        file.write_text(json.dumps(config))
        self._command = [binary, "agent", f"-config-file={file}"]

    async def serves(self) -> None:
        """Wait until it knows a leader."""
        assert self._process is not None
        await eventually(self._serves, 30.0, self._process.log, every=0.1)

    async def _serves(self) -> bool:
        try:
            return await self.get("/v1/catalog/services") != {}
        except (aiohttp.ClientError, AssertionError, TimeoutError):
            return False

    async def call(self, method: str, path: str, body: object = None) -> Any:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.request(
                method,
                self.url + path,
                json=body,
                headers={"X-Consul-Token": self.token} if self.token else {},
            ) as response,
        ):
            text = await response.text()
            assert response.status == 200, f"{path}: {response.status}: {text}"
            return json.loads(text) if text else None

    async def get(self, path: str) -> Any:
        return await self.call("GET", path)

    async def put(self, path: str, body: object = None) -> Any:
        return await self.call("PUT", path, body)

    async def register(self, service: str, id_: str, port: int, **fields: Any) -> None:
        """With this agent, and with fields of Consul's own form."""
        record = {"Name": service, "ID": id_, "Address": "10.0.0.1", "Port": port, **fields}
        await self.put("/v1/agent/service/register", record)

    async def deregister(self, id_: str) -> None:
        await self.put(f"/v1/agent/service/deregister/{id_}")
