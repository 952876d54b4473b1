"""Questions to a scripted Nacos: logins, versions of the API, names. What becomes of outages and of
answers that are not the truth is drilled in `test_registry_drills.py`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from proxy.register.backend import Write
from proxy.register.nacos_backend import NacosBackend
from proxy.registry.followed import Timing
from proxy.registry.nacos.options import Options
from proxy.registry.nacos.provider import NacosProvider
from tests.e2e.drilled import Watched
from tests.support.processes import eventually
from tests.support.scripted_nacos import ScriptedNacos, host

NAMES = [f"s{number}" for number in range(700)]


def watched(server: ScriptedNacos, **keys: Any) -> Watched:
    timing = Timing(probe=0.02, hold=0.3, backoff_limit=0.02)
    options = Options(endpoints=(server.url,), **keys)
    return Watched(NacosProvider(options, timing=timing, rng=random.Random(1)))


async def test_a_user_logs_in_and_again_when_the_token_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    async with ScriptedNacos("secret") as server:
        server.services["users"] = [host(clusterName="a")]
        async with watched(server, username="proxy", password_file=str(file)) as seen:
            await seen.has("a")
            server.token = "t2"
            server.services["users"].append(host(clusterName="b"))
            await seen.has("a", "b")
            assert server.logins == ["/nacos/v3/auth/user/login"] * 2
            server.password, server.token = "other", "t3"
            assert "403" in await seen.loses_it()
            (tmp_path / "next").write_text("other")
            (tmp_path / "next").rename(file)
            await seen.connects()
            assert seen.ids() == {"a", "b"}


async def test_old_members_are_asked_for_a_login_in_their_way() -> None:
    async with ScriptedNacos("secret") as server:
        server.apis = {"v1"}
        server.services["users"] = [host(clusterName="a")]
        async with watched(server, username="proxy", password="secret") as seen:
            await seen.has("a")
        assert set(server.logins) == {"/nacos/v1/auth/login"}


async def test_without_the_api_v1_the_services_have_to_be_named() -> None:
    async with ScriptedNacos() as server:
        server.apis = {"v3"}
        server.services["users"] = [host(clusterName="a")]
        async with watched(server) as seen:
            error = await eventually(lambda: seen.status.last_error)
            assert "name them in registry.services" in error
        async with watched(server, services=("users",)) as seen:
            await seen.has("a")


async def test_all_pages_of_names_are_read() -> None:
    async with ScriptedNacos() as server:
        server.services = {name: [host()] for name in NAMES}
        async with watched(server) as seen:
            await eventually(lambda: bool(seen.memberships))
            assert sorted(seen.memberships[0].services) == sorted(NAMES)


async def test_a_service_that_the_list_of_names_forgets_is_asked_for_on() -> None:
    async with ScriptedNacos() as server:
        server.services["users"] = [host(clusterName="a")]
        async with watched(server) as seen:
            await seen.has("a")
            server.forgotten.add("users")
            asked = len(server.asked)
            await eventually(lambda: len(server.asked) > asked + 10)
            assert seen.ids() == {"a"}
            assert seen.status.resyncs == {}


async def test_a_registrar_logs_in_and_uses_the_api_that_there_is() -> None:
    record = {"id": "a", "name": "users", "address": "10.0.0.1", "port": 8080}
    async with ScriptedNacos("secret") as server:
        server.apis = {"v3"}
        options = Options(endpoints=(server.url,), username="proxy", password="secret")
        backend = NacosBackend(options, server.url, 5.0)
        lease = await backend.grant(10.0)
        for revision, port in ((0, 8080), (None, 8081)):
            if revision is None:
                [found] = await backend.find([("users", "a")])
                assert found is not None
                revision = found.revision
            value = json.dumps(record | {"port": port}).encode()
            [outcome] = await backend.write(lease, [Write(("users", "a"), value, revision)])
            assert outcome.done
            # Another port is another instance in Nacos, and the one before goes.
            assert [one["port"] for one in server.services["users"]] == [port]
        assert await backend.renew(lease, [("users", "a")]) == 10.0
        assert server.beats == 1
        await backend.revoke(lease, [("users", "a")])
        assert server.services == {}
        await backend.close()
