"""Names against a real name server: the resolver by itself, and the whole proxy."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from proxy.names.base import Answer, Unresolved
from proxy.names.cares import CaresResolver
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin
from tests.e2e.running import RunningProxy
from tests.e2e.scripted_dns import AAAA, REFUSED, SERVFAIL, ScriptedDns, silent_socket
from tests.support.processes import eventually

pytestmark = pytest.mark.drill

RESOLV_CONF = """
import asyncio, pathlib, subprocess
from proxy.names.cares import CaresResolver

conf = pathlib.Path("{conf}")
subprocess.check_call(["mount", "--bind", str(conf), "/etc/resolv.conf"])

async def main():
    loop = asyncio.get_running_loop()
    resolver = CaresResolver(loop)
    for _ in range(2):
        told = loop.create_future()
        resolver.ask("web.ns", told.set_result)
        print(*(await told).addresses)
        conf.write_text("{after}")
    resolver.close()

asyncio.run(main())
"""

LATE = 10
"""Seconds in which things happen on a busy machine."""


@pytest.fixture
async def dns() -> AsyncIterator[ScriptedDns]:
    async with ScriptedDns() as server:
        yield server


@asynccontextmanager
async def resolving(
    dns: ScriptedDns,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    hosts: str = "",
    **environ: str,
) -> AsyncIterator[Callable[[str], Any]]:
    """A function that looks a name up."""
    for name, value in {**dns.environ(directory, hosts), **environ}.items():
        monkeypatch.setenv(name, value)
    loop = asyncio.get_running_loop()
    resolver = CaresResolver(loop)

    def look_up(name: str) -> asyncio.Future[Answer | Unresolved]:
        told: asyncio.Future[Answer | Unresolved] = loop.create_future()
        resolver.ask(name, told.set_result)
        return told

    yield look_up
    resolver.close()
    resolver.close()


class TestResolver:
    async def test_addresses_of_both_families_come_with_the_time_they_hold(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dns.says("web.test", "127.0.0.1", "127.0.0.2", "::1", ttl=77)
        dns.alias("www.test", "web.test", ttl=33)
        async with resolving(dns, tmp_path, monkeypatch) as look_up:
            answer = await look_up("web.test")
            assert sorted(answer.addresses) == ["127.0.0.1", "127.0.0.2", "::1"]
            assert answer.ttl == 77
            assert (await look_up("www.test")).ttl == 33
            assert (await look_up("web.test")) == answer
        assert dns.asked("web.test") == 2, "it answers nothing from a memory of its own"

    async def test_a_search_list_is_obeyed(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dns.says("web.other.svc.test", "10.0.0.2")
        dns.says("web.other", "10.0.0.3")
        search = {"LOCALDOMAIN": "svc.test", "RES_OPTIONS": "ndots:2"}
        async with resolving(dns, tmp_path, monkeypatch, **search) as look_up:
            assert (await look_up("web.other")).addresses == ("10.0.0.2",)
            assert (await look_up("web.other.")).addresses == ("10.0.0.3",)

    async def test_the_hosts_file_is_obeyed_also_when_it_changes(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dns.says("web.test", "10.0.0.3")
        hosts = "10.0.0.1 web.test other.test\n"
        async with resolving(dns, tmp_path, monkeypatch, hosts=hosts) as look_up:
            assert await look_up("web.test") == Answer(("10.0.0.1",), 0.0)
            assert dns.questions == []
            # By another file in its place, too, whatever its time.
            (tmp_path / "new").write_text("10.0.0.2 other.test\n")
            (tmp_path / "new").rename(tmp_path / "hosts")
            assert (await look_up("other.test")).addresses == ("10.0.0.2",)
            assert (await look_up("web.test")).addresses == ("10.0.0.3",)

    async def test_resolv_conf_is_obeyed_also_when_it_changes(
        self, dns: ScriptedDns, tmp_path: Path
    ) -> None:
        """The real one, in a mount namespace."""
        if os.getuid() or shutil.which("unshare") is None or shutil.which("mount") is None:
            pytest.skip("needs root, unshare and mount")
        dns.says("web.ns.svc.test", "10.0.0.1")
        dns.says("web.ns", "10.0.0.3")
        async with ScriptedDns() as other:
            other.says("web.ns.other.test", "10.0.0.2")
            conf = tmp_path / "resolv.conf"
            conf.write_text(
                f"nameserver {dns.address}\nsearch default.svc.test svc.test\noptions ndots:2\n"
            )
            program = RESOLV_CONF.format(
                conf=conf, after=f"nameserver {other.address}\\nsearch other.test\\n"
            )
            asking = await asyncio.create_subprocess_exec(
                *("unshare", "-m", sys.executable, "-c", program),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await asyncio.wait_for(asking.communicate(), 3 * LATE)
        if b"Operation not permitted" in output or b"permission denied" in output:
            pytest.skip("mounts are not permitted")
        assert output.decode().split() == ["10.0.0.1", "10.0.0.2"], output

    async def test_an_answer_that_needs_tcp_comes_over_tcp(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dns.over_tcp_only = True
        dns.says("web.test", "127.0.0.1")
        async with resolving(dns, tmp_path, monkeypatch) as look_up:
            assert (await look_up("web.test")).addresses == ("127.0.0.1",)
        assert dns.over_tcp

    @pytest.mark.parametrize("rcode", [SERVFAIL, REFUSED])
    async def test_a_denied_name_is_told_from_a_failed_question(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rcode: int
    ) -> None:
        dns.says("empty.test")
        dns.fails("broken.test", rcode)
        async with resolving(dns, tmp_path, monkeypatch) as look_up:
            found = [await look_up(f"{name}.test") for name in ("none", "empty", "broken")]
        assert [one.denied for one in found] == [True, True, False]

    async def test_a_second_name_server_stands_in_for_a_silent_one(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dns.says("web.test", "127.0.0.1")
        with silent_socket() as silent:
            servers = f"127.0.0.1:{silent.getsockname()[1]},{dns.address}"
            async with resolving(
                dns, tmp_path, monkeypatch, FAIRLEAD_DNS_SERVERS=servers
            ) as look_up:
                answer = await asyncio.wait_for(look_up("web.test"), LATE)
        assert answer.addresses == ("127.0.0.1",)

    async def test_silence_ends_and_leaves_nothing_behind(
        self, dns: ScriptedDns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dns.silent = True
        before = sockets()
        async with resolving(dns, tmp_path, monkeypatch) as look_up:
            asked = look_up("web.test")
            answer = await asyncio.wait_for(asked, 3 * LATE)
            assert isinstance(answer, Unresolved)
            assert not answer.denied
            given_up = look_up("other.test")
        assert not given_up.done(), "nobody is told of what is given up"
        await eventually(lambda: sockets() <= before, LATE, "every socket to be closed")


def sockets() -> int:
    """Sockets that this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except OSError:
            pass  # The one that lists the others.
    return found


# ---------------------------------------------------------------------------- the proxy


def config(port: int, **services: str) -> dict[str, Any]:
    """Services at names; each request connects anew, since nothing is kept."""
    return {
        "services": {
            service: {
                "instances": [{"address": name, "port": port}],
                "keepalive": {"max_idle": 0},
                "timeouts": {"connect": "1s"},
            }
            for service, name in services.items()
        },
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
    }


async def status(session: aiohttp.ClientSession, proxy: RunningProxy, path: str) -> int:
    async with session.get(proxy.url + path) as answer:
        await answer.read()
        return answer.status


async def test_a_dead_name_harms_nobody_and_a_dead_name_server_changes_nothing(
    dns: ScriptedDns, tmp_path: Path
) -> None:
    dns.says("web.test", "127.0.0.9", "127.0.0.1", ttl=1)  # Nobody listens at the first one.
    dns.ignores("dead.test")
    async with (
        Origin("one") as origin,
        RunningProxy(
            config(origin.port, web="web.test", dead="dead.test", hosts="file.test"),
            tmp_path,
            environ=dns.environ(tmp_path, hosts="127.0.0.1 file.test\n"),
        ) as proxy,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LATE)) as session,
    ):
        dead = [asyncio.create_task(status(session, proxy, "/dead/")) for _ in range(20)]
        await eventually(lambda: dns.asked("dead.test"), LATE, "the question")
        assert not any(one.done() for one in dead)
        assert [await status(session, proxy, f"/{name}/") for name in ("web", "hosts")] == [200] * 2
        assert await asyncio.gather(*dead) == [502] * 20
        assert [await status(session, proxy, f"/{name}/") for name in ("web", "hosts")] == [200] * 2

        dns.silent = True

        async def served_while_it_is_not_known() -> bool:
            assert await status(session, proxy, "/web/") == 200
            return '"web.test"' in proxy.log()

        await eventually(served_while_it_is_not_known, 2 * LATE, "the silence to be noticed")
        assert await status(session, proxy, "/web/") == 200
        await eventually(lambda: outdated(proxy), LATE, "the age of what is used")
        lines = [line for line in proxy.log().splitlines() if '"name_not_resolved"' in line]
        assert len([line for line in lines if '"web.test"' in line]) == 1, lines

        dns.silent = False
        dns.says("dead.test", "127.0.0.1")

        async def is_back() -> bool:
            return await status(session, proxy, "/dead/") == 200

        await eventually(is_back, 2 * LATE, "the dead one to be alive", every=0.2)
        assert await status(session, proxy, "/web/") == 200
        assert origin.calls


async def outdated(proxy: RunningProxy) -> bool:
    _, text = await proxy.get("/metrics")
    value = re.search(r"^fairlead_name_outdated_seconds (\S+)$", text, re.MULTILINE)
    failures = re.search(r"^fairlead_name_failures_total (\S+)$", text, re.MULTILINE)
    assert value is not None
    assert failures is not None
    return float(value[1]) > 0 and float(failures[1]) > 0


async def test_health_checks_and_requests_follow_a_name_that_moves(
    dns: ScriptedDns, tmp_path: Path
) -> None:
    dns.says("web.test", "127.0.0.1", ttl=1)
    hits: list[str] = []

    def answering(host: str) -> Callable[..., Any]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.read(1000):
                hits.append(host)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        return answer

    async with await asyncio.start_server(answering("one"), "127.0.0.1", 0) as one:
        port = one.sockets[0].getsockname()[1]
        async with await asyncio.start_server(answering("two"), "127.0.0.2", port):
            settings = config(port, web="web.test")
            settings["services"]["web"]["health_check"] = {"type": "tcp", "interval": "200ms"}
            async with (
                RunningProxy(settings, tmp_path, environ=dns.environ(tmp_path)) as proxy,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LATE)) as session,
            ):
                assert await status(session, proxy, "/web/") == 200
                assert hits == ["one"]
                dns.says("web.test", "127.0.0.2", ttl=1)
                # Checks must follow as well, or they find nobody there any more.
                one.close()

                async def moved() -> bool:
                    return await status(session, proxy, "/web/") == 200 and hits[-1] == "two"

                await eventually(moved, LATE, "requests at the new address", every=0.1)
                checked = await checks(proxy)

                async def passed() -> bool:
                    return await checks(proxy) > checked + 2

                await eventually(passed, LATE, "checks at the new address")
                _, service = await proxy.get("/api/v1/services/web")
                assert service["instances"][0]["status"] == "ready"
    assert dns.asked("web.test", AAAA)


async def checks(proxy: RunningProxy) -> int:
    """That were passed."""
    _, text = await proxy.get("/metrics")
    found = re.search(r'^health_checks_total\{.*"passed"\} (\S+)$', text, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


async def test_a_registry_is_reached_again_while_the_name_servers_are_away(
    dns: ScriptedDns, tmp_path: Path
) -> None:
    dns.says("etcd.test", "127.0.0.1", ttl=1)
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        port = urlsplit(etcd.url).port
        endpoints = [f"http://etcd.test:{port}", f"http://gone.test:{port}"]
        dns.ignores("gone.test")
        async with RunningProxy(
            {
                "registry": {"type": "etcd", "endpoints": endpoints},
                "routes": [{"path_prefix": "/{service}"}],
            },
            tmp_path,
            environ=dns.environ(tmp_path),
        ) as proxy:
            await client.put("/services/first/a", '{"address": "10.0.0.1", "port": 80}')
            await eventually(lambda: known(proxy, "first"), LATE, "the first instance")
            dns.silent = True
            await etcd.stop()
            await eventually(lambda: not_connected(proxy), 2 * LATE, "the loss of etcd")
            await etcd.start()
            await client.put("/services/second/a", '{"address": "10.0.0.2", "port": 80}')
            await eventually(lambda: known(proxy, "second"), 3 * LATE, "the second instance")


async def known(proxy: RunningProxy, service: str) -> bool:
    return (await proxy.get(f"/api/v1/services/{service}"))[0] == 200


async def not_connected(proxy: RunningProxy) -> bool:
    return not (await proxy.get("/api/v1/registry"))[1]["connected"]
