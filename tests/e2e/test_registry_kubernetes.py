"""The Kubernetes provider against a scripted API server: what is its own. What it shares with other
registries is in `test_registry_drills.py`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from proxy.registry.kubernetes.options import Options
from proxy.registry.kubernetes.provider import KubernetesProvider
from tests.e2e.drilled import SERVICE, TIMING, Watched
from tests.support.processes import eventually
from tests.support.scripted_kubernetes import ScriptedKubernetes, endpoint, slice_of


def watched(server: ScriptedKubernetes, **options: object) -> Watched:
    known = Options(endpoints=(server.url,))
    return Watched(
        KubernetesProvider(msgspec.structs.replace(known, **options), timing=TIMING)  # type: ignore[arg-type]
    )


async def test_slices_of_a_service_are_joined_and_an_endpoint_in_two_is_one() -> None:
    async with ScriptedKubernetes() as server:
        await server.put(slice_of(SERVICE, "x", endpoint("a"), endpoint("b")))
        await server.put(slice_of(SERVICE, "y", endpoint("c")))
        async with watched(server) as seen:
            await seen.has("a", "b", "c")
            await server.put(slice_of(SERVICE, "y", endpoint("c"), endpoint("b", "10.0.0.2")))
            await eventually(lambda: "10.0.0.2" in [one.address for one in seen.pool])
            assert seen.ids() == {"a", "b", "c"}
            await server.put(slice_of(SERVICE, "x", endpoint("a")))
            await server.delete("x")
            await seen.has("b", "c")
            assert all("b" in ids for ids in seen.since(0))


async def test_of_an_endpoint_in_two_slices_the_newer_counts_at_the_start_as_well() -> None:
    async with ScriptedKubernetes() as server:
        await server.put(slice_of(SERVICE, "y", endpoint("a", conditions={"ready": False})))
        await server.put(slice_of(SERVICE, "x", endpoint("a")))
        async with watched(server) as seen:
            await seen.has("a")
            assert [one.health for one in seen.pool] == ["healthy"]


async def test_watches_that_end_at_once_are_not_opened_without_end() -> None:
    async with ScriptedKubernetes() as server:
        server.hangs_up = True
        await server.put(slice_of(SERVICE, "x", endpoint("a")))
        async with watched(server) as seen:
            await seen.has("a")
            begun = len(server.asked)
            # A probe comes each 0.4 s.
            await eventually(lambda: sum("limit=1" in one for one in server.asked[begun:]) > 5)
            assert sum("watch=1" in one for one in server.asked[begun:]) < 6
            server.hangs_up = False
            await server.put(slice_of(SERVICE, "x", endpoint("b")))
            await seen.has("b")


async def test_a_version_that_is_gone_is_followed_by_a_list() -> None:
    async with ScriptedKubernetes() as server:
        await server.put(slice_of(SERVICE, "x", endpoint("a")))
        async with watched(server) as seen:
            await seen.has("a")
            await server.kill()
            await seen.loses_it()
            server.slices["y"] = slice_of(SERVICE, "y", endpoint("b"))
            server.version += 5
            server.forgotten = server.version
            await server.start()
            await seen.has("a", "b")
            assert seen.status.resyncs == {"gone": 1}


async def test_lists_come_in_pages_and_bookmarks_move_the_watch_on() -> None:
    async with ScriptedKubernetes() as server:
        for number in range(600):
            await server.put(slice_of(SERVICE, f"s{number}", endpoint(f"i{number}")))
        async with watched(server) as seen:
            await eventually(lambda: len(seen.pool) == 600, what=lambda: seen.status)
            assert sum("continue=" in path for path in server.asked) == 2
            await server.bookmark()
            await eventually(lambda: seen.status.revision == server.version)


async def test_a_token_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with ScriptedKubernetes() as server:
        server.token = "old"
        await server.put(slice_of(SERVICE, "x", endpoint("a")))
        async with watched(server, token_file=str(file)) as seen:
            await seen.has("a")
            await seen.connects()
            server.token = "new-one"
            assert "403" in await seen.loses_it()
            file.write_text("new-one")
            await seen.connects()
            await server.put(slice_of(SERVICE, "x", endpoint("b")))
            await seen.has("b")
