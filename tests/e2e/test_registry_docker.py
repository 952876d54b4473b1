"""The Docker provider against a scripted daemon: what is its own. What it shares with other
registries is in `test_registry_drills.py`."""

from __future__ import annotations

from pathlib import Path

from proxy.registry.docker.options import Options
from proxy.registry.docker.provider import DockerProvider
from tests.e2e.drilled import SERVICE, TIMING, Watched
from tests.support.processes import eventually
from tests.support.scripted_docker import ScriptedDocker, container


async def test_the_daemon_is_reached_at_its_socket(tmp_path: Path) -> None:
    server = ScriptedDocker()
    server.socket = tmp_path / "docker.sock"
    async with server:
        await server.put(container(SERVICE, "a"))
        options = Options(endpoints=(f"unix:{server.socket}",))
        async with Watched(DockerProvider(options, timing=TIMING)) as seen:
            await seen.has("a")
            assert seen.status.endpoint == f"unix:{server.socket}"
            await server.put(container(SERVICE, "b"))
            await seen.has("a", "b")


async def test_a_container_whose_end_is_told_is_gone_at_once_and_another_one_held() -> None:
    async with ScriptedDocker() as server:
        await server.put(container(SERVICE, "a"), container(SERVICE, "b"))
        async with Watched(DockerProvider(Options(endpoints=(server.url,)), timing=TIMING)) as seen:
            await seen.has("a", "b")
            await seen.connects()
            await server.delete("a")
            await seen.has("b")
            assert seen.status.resyncs == {}
            server.quiet = True
            await server.delete("b")
            await seen.has()
            assert seen.status.resyncs == {"empty": 1}


async def test_an_end_that_is_told_while_a_list_is_under_way_counts_at_once() -> None:
    async with ScriptedDocker() as server:
        await server.put(container(SERVICE, "a"))
        async with Watched(DockerProvider(Options(endpoints=(server.url,)), timing=TIMING)) as seen:
            await seen.has("a")
            await seen.connects()
            server.lists.clear()
            asked = len(server.asked)
            await server.put(container("orders", "b"))
            await eventually(lambda: len(server.asked) > asked)
            await server.delete("a")
            await eventually(lambda: seen.provider._ended)  # type: ignore[attr-defined]
            server.lists.set()
            await seen.has()
            assert seen.status.resyncs == {}


async def test_a_container_that_cannot_be_used_is_told_and_harms_no_other() -> None:
    async with ScriptedDocker() as server:
        await server.put(
            container(SERVICE, "a"),
            container("", "b"),
            container("x/y", "c"),
            container("orders", "d", NetworkSettings=None),
            container("orders", "e", NetworkSettings={"Networks": {"n": None}}),
        )
        async with Watched(DockerProvider(Options(endpoints=(server.url,)), timing=TIMING)) as seen:
            await seen.has("a")
            assert set(seen.memberships[-1].services) == {SERVICE}
            said = {one.key: one.reason for one in seen.status.invalid}
            assert set(said) == {"/b", "x/y/c", "orders/d", "orders/e"}
            assert said["x/y/c"] == "label fairlead.service 'x/y' is no name of a service"
