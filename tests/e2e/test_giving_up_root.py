"""`user`: the proxy as root binds what it needs, and is somebody else from then on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.mesh.authority import Authority, create
from proxy.mesh.renewal import RenewalServer
from tests.e2e import certificates
from tests.e2e.beside import DOMAIN, Beside
from tests.e2e.changing import command
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Origin
from tests.e2e.reloading import reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import alive, children, eventually, free_port

PRIVILEGED = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
NOBODY = pwd.getpwnam("nobody")


def _hidden() -> str | None:
    """The directory around this interpreter, or around the sources, that nobody else may enter."""
    for path in (Path(sys.executable).resolve(), Path(sys.prefix), Path(__file__)):
        for around in reversed(path.parents):
            if not around.stat().st_mode & 0o001:
                return str(around)
    return None


def _opened() -> tuple[str, ...]:
    """A command in front of ours that lets others enter where this interpreter is, in a mount
    namespace of its own."""
    hidden = _hidden()
    if hidden is None:
        return ()
    inside = shlex.quote(sys.base_prefix)
    hidden = shlex.quote(hidden)
    script = (
        f"mount --bind {inside} /mnt && mount -t tmpfs -o mode=755 none {hidden}"
        f' && mkdir -p {inside} && mount --bind /mnt {inside} && umount /mnt && exec "$@"'
    )
    return "unshare", "--mount", "/bin/sh", "-c", script, "sh"


def _can() -> bool:
    if os.geteuid() != 0 or PRIVILEGED == 0:
        return False
    look = ("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", "import proxy.cli")
    with contextlib.suppress(OSError):
        return subprocess.run([*_opened(), *look], check=False, capture_output=True).returncode == 0
    return False


pytestmark = pytest.mark.skipif(not _can(), reason="needs root, and an interpreter for nobody")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that nobody may read, and write nothing to."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def privileged_port() -> int:
    for port in random.sample(range(600, PRIVILEGED), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port found")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def ids_of_user(pid: int) -> set[int]:
    return {*map(int, status(pid)["Uid"].split())}


def ids(pid: int) -> tuple[set[int], set[int], set[int]]:
    """User ids, group ids, and further groups of a process."""
    said = status(pid)
    assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0, said["CapEff"]
    uid, gid, further = ({*map(int, said[key].split())} for key in ("Uid", "Gid", "Groups"))
    return uid, gid, further


def everybody(proxy: RunningProxy) -> list[int]:
    control = children(proxy.pid)
    return [proxy.pid, *control, *(pid for one in control for pid in children(one))]


def config(port: int, **more: Any) -> dict[str, Any]:
    return {
        "listeners": [{"name": "web", "bind": f"127.0.0.1:{port}"}],
        "routes": [{"path": "/", "respond": {"status": 204}}],
        "user": "nobody",
        **more,
    }


async def answers(port: int) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as got:
        return got.status == 204


async def test_a_proxy_is_nobody_in_all_its_processes_also_after_an_upgrade(
    directory: Path,
) -> None:
    port = privileged_port()
    async with RunningProxy(config(port), directory, started_by=_opened()) as proxy:
        for upgraded in (False, True):
            await eventually(lambda: len(everybody(proxy)) == 3, 15, "parent, control, worker")
            # The parent is told who to be once it is ready, which others may see before.
            await eventually(lambda: ids_of_user(proxy.pid) != {0}, 15, "the parent gives up root")
            for pid in everybody(proxy):
                uid, gid, further = ids(pid)
                assert (uid, gid) == ({NOBODY.pw_uid}, {NOBODY.pw_gid}), pid
                assert further == set(os.getgrouplist("nobody", NOBODY.pw_gid))
            assert await answers(port)
            if not upgraded:
                old = proxy.control
                code, said = await command(proxy, "upgrade")
                assert code == 0, said
                await eventually(lambda old=old: not alive(old), 15, "the old one is gone")
        os.kill(proxy.control, 9)
        await eventually(lambda: len(children(proxy.pid)) == 1, 15, "another control process")
        await eventually(proxy.readyz, 15, "ready")
        assert await answers(port)


async def test_a_reload_that_needs_root_says_so_and_changes_nothing(directory: Path) -> None:
    port, other = privileged_port(), privileged_port()
    async with RunningProxy(config(port), directory, started_by=_opened()) as proxy:
        rewrite(proxy, config(other))
        code, said = await reload(proxy)
        assert code != 0
        assert f"127.0.0.1:{other}: permission denied" in said
        assert "root at first" in said
        rewrite(proxy, config(port, user="daemon"))
        code, said = await reload(proxy)
        assert code != 0
        assert "user: is settled when the proxy starts: restart it" in said
        assert await answers(port)


async def test_a_file_that_could_not_be_written_is_named(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o755)
    listeners = [{"name": "web", "bind": f"unix:{closed}/web.sock"}]
    told = config(0, listeners=listeners, user="nobody:daemon")
    async with RunningProxy(told, directory, started_by=_opened()) as proxy:
        await proxy.logs("not_writable")
        assert f'"path": "{closed}"' in proxy.log() or f'"path":"{closed}"' in proxy.log()
        await proxy.logs("listeners.web.bind")
        assert ids(proxy.control)[1] == {1}


async def test_a_log_that_nobody_may_write_ends_the_start(directory: Path) -> None:
    log = directory / "access.log"
    told = config(privileged_port(), access_log={"path": str(log)})
    proxy = RunningProxy(told, directory, started_by=_opened())
    proxy.launch()
    assert await proxy.wait(30) == 1
    assert f"access_log: cannot open {log}: Permission denied" in proxy.log()
    assert not log.exists()


async def test_an_identity_that_is_given_to_the_user_of_a_unit_is_read_and_renewed(
    directory: Path,
) -> None:
    """Root issues it, and what systemd does for a `StateDirectory` is to give it to that user."""
    authority, port, stop = directory / "ca", free_port(), asyncio.Event()
    create(authority, DOMAIN)
    issuing = asyncio.create_task(RenewalServer(authority).serve("127.0.0.1", port, stop))
    async with EtcdServer() as etcd, Origin("users") as program:
        side = Beside(
            *("users", program.instance["port"]),
            *(directory, certificates.Authority(directory), etcd.url),
            *("--renew-from", f"https://127.0.0.1:{port}"),
            under=(*_opened(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        )
        shutil.rmtree(side.identity)
        Authority(authority).issue("users", side.identity, timedelta(seconds=25))
        side.identity.chmod(0o755)  # Files are root's all the same.
        side.launch()
        assert await side.wait(60.0) == 2, side.log()
        assert f"--identity: {side.identity}/tls.crt is missing, or not ours" in side.log()
        for name in (side.identity, *side.identity.rglob("*")):
            os.chown(name, 65534, 65534, follow_symlinks=False)
        async with side:
            await eventually(lambda: "identity_renewed" in side.log(), 60.0, side.log)
        assert (side.identity / "tls.key").stat().st_uid == 65534
    stop.set()
    await issuing
