"""Scripted servers, as the official clients of the real ones see them: what these understand, a
provider that understands it does not owe to a misreading of ours. Kubernetes and Docker by their
clients for Python, which CI installs, the DNS by `dig`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.drilled import SERVICE
from tests.e2e.programs import need, output
from tests.support.processes import eventually
from tests.support.scripted_docker import ScriptedDocker, container
from tests.support.scripted_kubernetes import ScriptedKubernetes, endpoint, slice_of
from tests.support.scripted_names import CNAME, SRV, A, ScriptedNames

LABELS = {"kubernetes.io/service-name": SERVICE}
NAME = "_users._tcp.svc.test"


def slices_at(server: ScriptedKubernetes, token: str = "") -> Callable[..., Any]:
    """The official client's way to list and watch slices."""
    client = pytest.importorskip("kubernetes.client")
    settings = client.Configuration(host=server.url)
    if token:
        settings.api_key = {"authorization": f"Bearer {token}"}
    api = client.DiscoveryV1Api(client.ApiClient(settings))
    return partial(api.list_namespaced_endpoint_slice, "default", allow_watch_bookmarks=True)


async def test_the_client_of_kubernetes_lists_slices_in_pages_or_is_refused() -> None:
    async with ScriptedKubernetes() as server:
        listed = slices_at(server, "right")
        conditions = {"ready": False, "serving": True, "terminating": True}
        await server.put(slice_of(SERVICE, "x", endpoint("a", conditions=conditions)))
        for name in ("y", "z"):
            await server.put(slice_of(SERVICE, name, endpoint(f"of-{name}", zone="b")))
        server.token = "right"
        first = await asyncio.to_thread(listed, limit=2)
        rest = await asyncio.to_thread(listed, limit=2, _continue=first.metadata._continue)
        assert [one.metadata.name for one in (*first.items, *rest.items)] == ["x", "y", "z"]
        assert rest.metadata.resource_version == first.metadata.resource_version == "103"
        assert not rest.metadata._continue
        found = first.items[0]
        assert (found.metadata.labels, found.address_type) == (LABELS, "IPv4")
        assert [(one.name, one.port, one.protocol) for one in found.ports] == [
            ("http", 8080, "TCP")
        ]
        [one] = found.endpoints
        assert (one.addresses, one.target_ref.name) == (["10.0.0.1"], "a")
        assert one.conditions.to_dict() == conditions
        assert rest.items[0].endpoints[0].zone == "b"
        server.token = "another"
        with pytest.raises(pytest.importorskip("kubernetes.client").ApiException) as refused:
            await asyncio.to_thread(listed)
        assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


async def test_the_informer_of_kubernetes_follows_watches_and_lists_what_is_gone() -> None:
    informers = pytest.importorskip("kubernetes.informer")
    told: list[tuple[str, str]] = []

    def hear(kind: str, one: Any) -> None:
        if isinstance(one, Exception):
            told.append((kind, str(getattr(one, "status", ""))))
        else:
            told.append((kind, "" if kind == "BOOKMARK" else one.metadata.name))

    async with ScriptedKubernetes() as server:
        for name in ("x", "y"):
            await server.put(slice_of(SERVICE, name, endpoint(name)))
        informer = informers.SharedInformer(slices_at(server))
        for kind in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"):
            informer.add_event_handler(kind, partial(hear, kind))

        async def hears(*events: tuple[str, str]) -> None:
            await eventually(lambda: told == list(events), 15.0, lambda: told)
            told.clear()

        informer.start()
        try:
            await hears(("ADDED", "x"), ("ADDED", "y"))
            await server.put(slice_of(SERVICE, "z", endpoint("z")))
            await server.put(slice_of(SERVICE, "x", endpoint("x", "10.0.0.2")))
            await server.delete("y")
            await server.bookmark()
            await hears(("ADDED", "z"), ("MODIFIED", "x"), ("DELETED", "y"), ("BOOKMARK", ""))
            assert informer.cache.get_by_key("default/x").endpoints[0].addresses == ["10.0.0.2"]

            # A watch that breaks goes on where it was, without a list.
            await server.kill()
            before = len(server.asked)
            await server.start()
            await server.put(slice_of(SERVICE, "y", endpoint("y")))
            await eventually(lambda: ("ADDED", "y") in told, 15.0, lambda: told)
            assert all("watch=" in path for path in server.asked[before:])
            assert f"resourceVersion={server.version - 1}" in server.asked[-1]

            # Where it was is forgotten: another list.
            await server.kill()
            told.clear()
            server.slices["v"] = slice_of(SERVICE, "v", endpoint("v"))
            del server.slices["x"]
            server.version += 5
            server.forgotten = server.version
            await server.start()
            await eventually(lambda: ("ADDED", "v") in told, 15.0, lambda: told)
            assert ("ERROR", "410") in told
            assert ("DELETED", "x") in told
            assert sorted(informer.cache.list_keys()) == ["default/v", "default/y", "default/z"]
        finally:
            stopping = asyncio.create_task(asyncio.to_thread(informer.stop))
            await server.kill()  # It hears of nothing while a watch is silent.
            await stopping


async def test_the_client_of_docker_lists_containers_and_hears_events(tmp_path: Path) -> None:
    docker = pytest.importorskip("docker")
    server = ScriptedDocker()
    server.socket = tmp_path / "docker.sock"
    async with server:
        other = container("", "other")
        other["Labels"] = {}
        well = {"Status": "Up 3 minutes (healthy)", "Labels": {"fairlead.port": "81"}}
        await server.put(container(SERVICE, "a", **well), container(SERVICE, "b"), other)
        client = await asyncio.to_thread(docker.APIClient, f"unix://{server.socket}", "auto")
        assert client.api_version == "1.48"

        def named(label: str) -> dict[str, Any]:
            found = client.containers(filters={"label": label})
            return {one["Names"][0]: one for one in found}

        both = await asyncio.to_thread(named, "fairlead.service")
        assert set(both) == {"/a", "/b"}
        assert set(await asyncio.to_thread(named, "fairlead.port=81")) == {"/a"}
        assert both["/a"]["State"] == "running"
        assert both["/a"]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "10.0.0.1"
        filters = {"label": "fairlead.service", "type": "container"}
        stream = await asyncio.to_thread(client.events, filters=filters, decode=True)
        heard: list[tuple[str, str]] = []

        def hear() -> None:
            for event in stream:
                heard.append((event["Action"], event["Actor"]["Attributes"]["name"]))

        hearing = asyncio.create_task(asyncio.to_thread(hear))
        await eventually(lambda: "/v1.48/events" in server.asked[-1])
        await server.delete("other")
        await server.put(container(SERVICE, "c"))
        await server.delete("a")
        await eventually(lambda: heard == [("start", "c"), ("die", "a")], 15.0, lambda: heard)
        stream.close()
        await hearing
        client.close()


async def test_dig_understands_the_scripted_name_server() -> None:
    dig = need("dig")
    async with ScriptedNames() as server:
        server.records[NAME] = [
            (SRV, (1, 5, 80, "n1.svc.test")),
            (SRV, (2, 0, 81, "n2.svc.test")),
        ]
        server.records["web.svc.test"] = [(CNAME, "n1.svc.test"), (A, "10.0.0.1")]
        server.extra = [("n1.svc.test", A, "10.0.0.1")]
        server.codes["bad.svc.test"] = 2

        async def asked(name: str, kind: str) -> list[str]:
            place = ("@127.0.0.1", "-p", str(server.port))
            said = await output(
                dig, *place, "+tcp", "+noall", "+comments", "+answer", "+additional", name, kind
            )
            lines = said.decode().splitlines()
            assert not [line for line in lines if "warning" in line.lower()]
            [head] = [line for line in lines if "status:" in line]
            return [
                head.split("status: ")[1].split(",")[0],
                *(" ".join(line.split()) for line in lines if line and line[0] != ";"),
            ]

        assert await asked(NAME, "SRV") == [
            "NOERROR",
            f"{NAME}. 5 IN SRV 1 5 80 n1.svc.test.",
            f"{NAME}. 5 IN SRV 2 0 81 n2.svc.test.",
            "n1.svc.test. 5 IN A 10.0.0.1",
        ]
        assert await asked("web.svc.test", "A") == [
            "NOERROR",
            "web.svc.test. 5 IN CNAME n1.svc.test.",
            "n1.svc.test. 5 IN A 10.0.0.1",
        ]
        assert await asked("web.svc.test", "AAAA") == [
            "NOERROR",
            "web.svc.test. 5 IN CNAME n1.svc.test.",
        ]
        assert await asked("none.svc.test", "A") == ["NXDOMAIN"]
        assert await asked("bad.svc.test", "A") == ["SERVFAIL"]
