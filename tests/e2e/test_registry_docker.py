"""The Docker provider against a scripted daemon: what is its own. What it shares with other
registries is in `test_registry_drills.py`."""

from __future__ import annotations

from pathlib import Path

from proxy.registry.docker.options import Options
from proxy.registry.docker.provider import DockerProvider
from tests.e2e.drilled import SERVICE, TIMING, Watched
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
