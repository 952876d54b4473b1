"""Questions to a scripted Nacos: logins, versions of the API, names, and changes that it tells.
What becomes of outages and of answers that are not the truth is drilled in
`test_registry_drills.py`."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from proxy.register.backend import Write
from proxy.register.nacos_backend import NacosBackend
from proxy.registry.followed import Timing
from proxy.registry.nacos.options import Options
from proxy.registry.nacos.provider import NacosProvider
from tests.e2e.drilled import Watched
from tests.e2e.programs import built
from tests.support.processes import eventually
from tests.support.scripted_nacos import ScriptedNacos, host
from tests.support.scripted_nacos_push import OFFSET, ScriptedNacosPush

NAMES = [f"s{number}" for number in range(700)]


def watched(server: ScriptedNacos, reconcile: float = 300.0, **keys: Any) -> Watched:
    timing = Timing(
        probe=0.02, hold=0.3, backoff_limit=0.02, reconcile=reconcile, catch_up=0.05, recheck=60.0
    )
    options = Options(**{"endpoints": (server.url,), **keys})
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


# -- changes that are told


async def test_changes_that_are_told_are_acknowledged_and_not_asked_for() -> None:
    async with ScriptedNacosPush() as server:
        server.services["users"] = [host(clusterName="a")]
        async with watched(server) as seen:
            await seen.has("a")
            for names in ("ab", "abc"):
                server.services["users"] = [host(clusterName=name) for name in names]
                server.push.tell("users")
                await seen.has(*names)
            await eventually(lambda: server.push.acknowledged == 2)
            server.services["orders"] = [host()]
            await eventually(lambda: "orders" in seen.memberships[-1].services)
            kinds = Counter(server.push.heard_kinds)
            assert (kinds["SubscribeServiceRequest"], kinds["ServiceQueryRequest"]) == (2, 0)
            assert server.asked == []


async def test_a_change_that_was_not_told_is_found_by_a_comparison() -> None:
    async with ScriptedNacosPush() as server:
        server.services["users"] = [host(clusterName="a")]
        async with watched(server, reconcile=0.1) as seen:
            await seen.has("a")
            server.services["users"].append(host(clusterName="b"))
            await seen.has("a", "b")
            assert seen.status.resyncs == {"reconcile": 1}
            assert seen.status.differences == 1


async def test_a_token_goes_along_and_is_renewed_when_it_is_refused() -> None:
    async with ScriptedNacosPush("secret") as server:
        server.apis = {"v3"}  # Of names and instances nothing is asked over HTTP.
        server.services["users"] = [host(clusterName="a")]
        async with watched(server, username="proxy", password="secret") as seen:
            await seen.has("a")
            server.token = "t2"
            server.services["orders"] = [host()]
            await eventually(lambda: "orders" in seen.memberships[-1].services)
            assert server.logins == ["/nacos/v3/auth/user/login"] * 2
            assert seen.status.connected


async def test_a_member_that_asks_to_go_elsewhere_is_left_without_an_outage() -> None:
    async with ScriptedNacosPush() as one, ScriptedNacosPush() as other:
        for server in (one, other):
            server.services["users"] = [host(clusterName="a")]
        async with watched(one, endpoints=(one.url, other.url)) as seen:
            await seen.has("a")
            first, second = (one, other) if one.push.streams else (other, one)
            first.push.ask_to_leave()
            await eventually(lambda: second.push.subscribed, what="the other one is asked")
            assert not first.push.streams
            assert "ConnectResetResponse" in first.push.heard_kinds
            second.services["users"].append(host(clusterName="b"))
            second.push.tell("users")
            await seen.has("a", "b")
            assert seen.status.resyncs == {"moved": 1}
            assert seen.status.last_error is None


async def test_a_member_that_says_goodbye_is_left_without_an_outage() -> None:
    async with ScriptedNacosPush() as server:
        server.services["users"] = [host(clusterName="a")]
        async with watched(server) as seen:
            await seen.has("a")
            await seen.connects()
            for connection in server.push.connections:
                connection.leave()
            await eventually(lambda: seen.status.resyncs == {"moved": 1})
            server.services["users"].append(host(clusterName="b"))
            server.push.tell("users")
            await seen.has("a", "b")
            assert seen.status.last_error is None


async def test_a_member_that_is_asked_over_http_is_asked_to_tell_later() -> None:
    async with ScriptedNacosPush() as server:
        await server.push.kill()
        server.services["users"] = [host(clusterName="a")]
        async with watched(server, reconcile=0.2) as seen:
            await seen.has("a")
            assert server.asked
            await server.push.start(server.port + OFFSET)
            await eventually(lambda: seen.status.resyncs)
            assert seen.status.resyncs.keys() == {"pushed"}
            assert server.push.subscribed
            assert seen.ids() == {"a"}


async def test_a_member_that_starts_is_not_believed_that_it_knows_nobody() -> None:
    async with ScriptedNacosPush() as server:
        users = server.services["users"] = [host(clusterName="a")]
        async with watched(server) as seen:
            await seen.has("a")
            await server.kill()
            await seen.loses_it()
            server.wipe()
            server.push.starting = True
            await server.start()
            checked = server.push.heard_kinds.count("ServerCheckRequest")
            await eventually(lambda: len(server.push.heard_kinds) > checked + 20)
            assert "starting" in (seen.status.last_error or "")
            assert server.asked == []
            server.services["users"] = users
            server.push.starting = False
            await seen.connects()
            assert (seen.ids(), len(seen.memberships)) == ({"a"}, 1)


async def test_a_member_is_not_asked_to_tell_where_that_is_switched_off() -> None:
    async with ScriptedNacosPush() as server:
        server.services["users"] = [host(clusterName="a")]
        async with watched(server, push=False) as seen:
            await seen.has("a")
            assert server.push.heard_kinds == []


async def test_services_that_are_gone_are_told_no_more() -> None:
    async with ScriptedNacosPush() as server:
        server.services = {"users": [host(clusterName="a")], "empty": []}
        async with watched(server) as seen:
            await seen.has("a")
            await eventually(lambda: [*server.push.subscribed.values()] == [{"users", "empty"}])
            del server.services["empty"]
            await eventually(lambda: [*server.push.subscribed.values()] == [{"users"}])


async def test_long_lists_come_whole() -> None:
    many = [host(port, metadata={"k": "v" * 100}) for port in range(1, 20_001)]
    async with ScriptedNacosPush() as server:
        server.services["users"] = many[:1]
        async with watched(server) as seen:
            await eventually(lambda: bool(seen.memberships))
            server.services["users"] = many
            server.push.tell("users")
            await eventually(lambda: len(seen.memberships[-1].services["users"]) == len(many))
            assert seen.status.resyncs == {}


async def test_the_scripted_member_satisfies_the_client_of_nacos(tmp_path: Path) -> None:
    """What is tested with it here is what a member says."""
    program = built("nacos")
    async with ScriptedNacosPush("secret") as server, asyncio.TaskGroup() as reading:
        server.services["users"] = [host()]
        client = await asyncio.create_subprocess_exec(
            *(program, str(server.port), str(tmp_path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said: list[str] = []

        async def read() -> None:
            assert client.stdout is not None
            async for line in client.stdout:
                said.append(line.decode().strip())

        async def says(*ports: str) -> None:
            line = " ".join(("told", *ports))
            await eventually(lambda: line in said[-1:], 20.0, lambda: said)

        reading.create_task(read())
        assert client.stdin is not None
        try:
            await says("10.0.0.1:8080")
            assert said[0] == "names 1 DEFAULT_GROUP@@users"
            server.services["users"].append(host(8081))
            server.push.tell("users")
            await says("10.0.0.1:8080", "10.0.0.1:8081")
            client.stdin.write(b"\n")
            await says("10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.9:9000")
            settings = {"username": "proxy", "password": "secret"}
            async with watched(server, **settings) as seen:
                await eventually(lambda: len(seen.pool) == 3)
                assert (seen.pool[-1].weight, seen.pool[-1].metadata["zone"]) == (2, "b")
                server.push.ask_to_leave()
                await eventually(lambda: server.push.heard_kinds.count("InstanceRequest") > 1, 20.0)
                client.stdin.write(b"\n")
                await eventually(lambda: len(seen.pool) == 2)
            assert server.push.acknowledged > 2
        finally:
            client.kill()
            await client.wait()
