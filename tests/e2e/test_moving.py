"""Services move from Consul to etcd, one instance after the other, while clients ask: first in the
one, then in both, then in the other, which the proxy then follows alone."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.register import Record, Registrar
from proxy.registry.consul.options import Options as ConsulOptions
from proxy.registry.etcd.options import Options as EtcdOptions
from tests.e2e.consul_server import ConsulServer, missing
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.running import RunningProxy
from tests.e2e.traffic import Fleet, Traffic
from tests.support.processes import eventually

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(bool(missing()), reason=f"there is no {missing()} on this machine"),
]

NAMES = ("a", "b", "c")
ROUTES = [{"path_prefix": "/{service}"}]


async def test_services_move_to_another_registry_and_no_request_fails(tmp_path: Path) -> None:
    async with ConsulServer() as consul, EtcdServer() as etcd, Fleet() as fleet:
        await fleet.add(*NAMES)
        old = {"type": "consul", "endpoints": [consul.url]}
        new = {"name": "new", "type": "etcd", "endpoints": [etcd.url]}
        proxy = RunningProxy({"registry": old, "routes": ROUTES, "workers": 2}, tmp_path)

        async def follow(*registries: dict[str, Any]) -> None:
            proxy.config.pop("registry", None)
            proxy.config["registries"] = registries
            proxy.file.write_text(json.dumps(proxy.config))
            async with session.post(f"{proxy.admin}/api/v1/reload") as answer:
                assert answer.status == 200, await answer.text()

        async def known_from(**origins: str) -> None:
            async def is_so() -> bool:
                _, known = await proxy.get("/api/v1/services/users")
                found = {one["id"]: one["origin"] for one in known["instances"]}
                return found == {name: f"{of}/fairlead" if of == "new" else of
                                 for name, of in origins.items()}  # fmt: skip

            await eventually(is_so, 20.0, what=proxy.log)

        def registrar(name: str, options: Any) -> Registrar:
            record = Record(service="users", id=name, port=fleet.ports[name], address="127.0.0.1")
            return Registrar(record, registry=options, ttl=5)

        async with AsyncExitStack() as there, AsyncExitStack() as here:
            before = {}
            for name in NAMES:
                before[name] = registrar(name, ConsulOptions(endpoints=(consul.url,)))
                await there.enter_async_context(before[name])
            async with (
                proxy,
                aiohttp.ClientSession() as session,
                Traffic(proxy.port, "/users") as load,
            ):
                await follow({**old, "name": "old"}, new)
                await known_from(a="old", b="old", c="old")
                for name in NAMES:
                    both = registrar(name, EtcdOptions(endpoints=(etcd.url,)))
                    await here.enter_async_context(both)
                    await before[name].__aexit__(None, None, None)
                await known_from(a="new", b="new", c="new")
                await follow(new)
                await consul.kill()
                await load.shows(*NAMES, since=load.samples[-1].ended)
                assert load.failed == []
