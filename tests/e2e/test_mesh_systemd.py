"""The unit of a side-car, run by systemd itself: who it is then, what it may read, how it stops."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from tests.e2e.booted import Booted, can_boot
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.own_root import BIN, can_have_own_root
from tests.e2e.secure import SecureClient
from tests.support.processes import AwaitedProcess, eventually, free_port, listens

UNIT = "fairlead-sidecar@users"
HELD = "/var/lib/fairlead-sidecar/users"
PROGRAM = """
import datetime, http.server, json, signal, sys, threading
stopping = threading.Event()
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/until-the-end":
            print("asked", flush=True)
            stopping.wait()
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ann")
    def log_message(self, *_):
        pass
def stop(*_):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    said = json.dumps({"event": "told to stop", "timestamp": now})
    print(f"{said}\\n", end="", flush=True)
    stopping.set()
    threading.Thread(target=server.shutdown).start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
server.daemon_threads = False
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
"""
"""Answers for one path only once it is told to stop."""

pytestmark = pytest.mark.skipif(not can_boot(), reason="there is no systemd, or no groups for it")


@dataclass
class Site:
    machine: Booted
    etcd: EtcdServer
    inbound: int
    nobody: ssl.SSLContext
    caller: ssl.SSLContext
    """Shows the certificate of `web`."""

    def log(self) -> str:
        return self.machine.log_of(UNIT) + self.machine.log()

    def events(self) -> list[str]:
        """Names of what the side-car logged, and lines of the program."""
        lines = self.machine.log_of(UNIT).splitlines()
        return [json.loads(one)["event"] if one[:1] == "{" else one for one in lines]

    def in_order(self) -> list[str]:
        """What the side-car and its program logged, as it came to pass: two write one file."""
        lines = self.machine.log_of(UNIT).splitlines()
        said = [json.loads(one) for one in lines if one[:1] == "{"]
        return [one["event"] for one in sorted(said, key=lambda one: str(one["timestamp"]))]

    async def call(self, context: ssl.SSLContext, path: str) -> int:
        """The status of a call from another machine."""
        async with await SecureClient.connect_to(self.inbound, context) as client:
            return (await client.ask("GET", path, host="users")).status

    async def start(self, life: str) -> int:
        """Follow the unit's own words: issue its identity, and start it. Its main process, once
        its program answers."""
        issue = ("fairlead", "ca", "issue", "/ca", "users", "--out", HELD, "--life", life)
        await self.machine.run(*issue)
        await self.machine.run("systemctl", "start", UNIT)
        return await self.serving(1)

    async def serving(self, times: int) -> int:
        """Its main process, once it has registered so often and its program answers."""
        await eventually(lambda: self.events().count("registered") == times, 60.0, self.log)

        async def answered() -> bool:
            return await self.call(self.caller, "/") == 200

        await eventually(answered, 20.0, self.log)
        return int(await self.machine.told(UNIT, "MainPID"))


def ca(*words: str) -> None:
    result = CliRunner().invoke(main, ["ca", *words])
    assert result.exit_code == 0, result.output


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    if not can_have_own_root(tmp_path):
        pytest.skip("needs root, and a file system of its own")
    authority, web = tmp_path / "ca", tmp_path / "web"
    renewal, inbound, outbound, admin, port = (free_port() for _ in range(5))
    ca("init", str(authority))
    ca("issue", str(authority), "web", "--out", str(web))
    nobody, caller = (ssl.create_default_context(cafile=authority / "ca.crt") for _ in range(2))
    nobody.check_hostname = caller.check_hostname = False
    caller.load_cert_chain(web / "tls.crt", web / "tls.key")
    serve = [sys.executable, "-m", "proxy", "ca", "serve", str(authority)]
    renewing = AwaitedProcess([*serve, "--bind", f"127.0.0.1:{renewal}"], tmp_path / "ca.log")
    async with EtcdServer() as etcd:
        options = (
            f"--inbound 127.0.0.1:{inbound} --outbound 127.0.0.1:{outbound} --callers web"
            f" --admin 127.0.0.1:{admin} --endpoints {etcd.url} --ttl 30s"
            f" --renew-from https://127.0.0.1:{renewal}"
        )
        command = f"{BIN}/python /program.py {port}"
        files = {
            "/etc/fairlead/sidecar/users": f"PORT={port}\nOPTIONS={options}\nCOMMAND={command}\n",
            "/program.py": PROGRAM,
        }
        renewing.launch()
        try:
            await eventually(lambda: listens(renewal), 20.0, renewing.log)
            async with Booted(tmp_path, files, {"/ca": authority}) as machine:
                yield Site(machine, etcd, inbound, nobody, caller)
        finally:
            await renewing.kill()


async def test_a_side_car_alone_may_read_its_identity_and_renews_it(site: Site) -> None:
    first = await site.start("25s")
    lines = (await site.machine.run("cat", f"/proc/{first}/status")).splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    (uid,) = {*status["Uid"].split()}
    assert int(uid) >= 61184  # Of those that systemd has for DynamicUser.
    assert (status["CapPrm"], status["NoNewPrivs"]) == ("0" * 16, "1")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await site.call(site.nobody, "/")
    await eventually(lambda: "identity_renewed" in site.events(), 60.0, site.log)
    owners = await site.machine.run("find", f"{HELD}/", "-printf", "%U\n")
    assert {*owners.split()} == {uid}
    reading = ("setpriv", "--reuid=65534", "--clear-groups", "cat", f"{HELD}/tls.crt")
    with pytest.raises(AssertionError, match="Permission denied"):
        await site.machine.run(*reading)


async def test_a_side_car_drains_and_deregisters_before_its_program_stops(site: Site) -> None:
    await site.start("24h")
    pending = asyncio.create_task(site.call(site.caller, "/until-the-end"))
    await eventually(lambda: "asked" in site.events(), what=site.log)
    await site.machine.run("systemctl", "stop", UNIT)
    assert await pending == 200
    order = ["registered", "draining", "deregistered", "told to stop", "worker_stopped"]
    assert [one for one in site.in_order() if one in order] == order, site.log()
    assert await site.machine.told(UNIT, "Result") == "success"
    assert await site.machine.told(UNIT, "ExecMainStatus") == "0"


async def test_a_side_car_that_was_killed_is_started_again_with_nothing_left_of_it(
    site: Site,
) -> None:
    first = await site.start("24h")
    await site.machine.run("kill", "-KILL", str(first))
    second = await site.serving(2)
    assert second != first
    group = await site.machine.told(UNIT, "ControlGroup")
    pids = (await site.machine.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs")).split()
    # The side-car and the program.
    assert len(pids) == 2
    assert str(second) in pids
    async with EtcdClient(site.etcd.url) as client:
        assert len(await client.get_all("/services/users/")) == 1
    await site.machine.run("systemctl", "stop", UNIT)
    assert await site.machine.told(UNIT, "Result") == "success"
